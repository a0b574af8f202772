//go:build unix && !linux

package localpg

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent needs Linux; elsewhere the next start finds the orphan.
func dieWithParent(*syscall.SysProcAttr) {}

// ours says whether pid is a Postgres on our data, by its command line.
func (s *Server) ours(pid int) bool {
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), "postgres") && strings.Contains(string(out), s.data)
}

// leftovers cannot be told from other servers' backends here; Postgres's own
// check of the shared memory has to do.
func (s *Server) leftovers() []int { return nil }
