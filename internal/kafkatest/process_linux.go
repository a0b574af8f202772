package kafkatest

import "syscall"

// dieWithParent has the kernel kill the child when the thread that made it
// ends, however the test ends: that thread must be pinned for the child's life.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
