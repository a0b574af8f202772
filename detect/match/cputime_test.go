//go:build unix

package match_test

import (
	"syscall"
	"time"
)

// cpuTime is what the process has computed so far: unlike the wall clock it does
// not count what other processes on the machine take.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
