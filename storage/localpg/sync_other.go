//go:build unix && !linux

package localpg

// initdbSync has initdb bring what it writes to disk by itself.
var initdbSync []string

// syncAll has nothing left to do.
func syncAll(string) error { return nil }
