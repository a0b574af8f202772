package localpg

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent has the kernel send the child a fast shutdown when the thread
// that forked it ends: that thread must be pinned for the child's life.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGINT }

// ours says whether pid is a Postgres on our data: the server and its children
// make it their working directory.
func (s *Server) ours(pid int) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	if stat, err := os.ReadFile(proc + "/stat"); err != nil || zombie(string(stat)) {
		return false
	}
	cwd, err := os.Readlink(proc + "/cwd")
	if errors.Is(err, fs.ErrPermission) {
		// In a container without CAP_SYS_PTRACE even root is not told. The command
		// line is open to all, and we name the data in it.
		b, err := os.ReadFile(proc + "/cmdline")
		args := strings.Split(string(b), "\x00")
		return err == nil && strings.HasPrefix(filepath.Base(args[0]), "postgres") && slices.Contains(args, s.data)
	}
	if err != nil || cwd != s.data {
		return false
	}
	exe, err := os.Readlink(proc + "/exe")
	return err == nil && strings.HasPrefix(filepath.Base(exe), "postgres") // also "postgres (deleted)", after an upgrade
}

// zombie reads the state from /proc/PID/stat: the field after the name in parentheses.
func zombie(stat string) bool {
	i := strings.LastIndexByte(stat, ')')
	return i >= 0 && strings.HasPrefix(strings.TrimSpace(stat[i+1:]), "Z")
}

// leftovers lists the processes that still hold our data.
func (s *Server) leftovers() []int {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, p := range procs {
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && s.ours(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}
