//go:build !linux

package kafkatest

import "syscall"

// dieWithParent needs Linux; elsewhere a test that is killed leaves its Kafka behind.
func dieWithParent(*syscall.SysProcAttr) {}
