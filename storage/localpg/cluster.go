package localpg

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clusterMajor reads which major version made the cluster at data; 0 if there is none yet.
func clusterMajor(data string) (int, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(data); err == nil {
			return 0, fmt.Errorf("%w: %s exists but holds no Postgres cluster (no PG_VERSION); move it away", ErrDirectory, data)
		}
		return 0, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return 0, fmt.Errorf("%w: %s belongs to another user; start as that user or as root, or name another directory", ErrDirectory, data)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%w: %s says %q", ErrVersion, filepath.Join(data, "PG_VERSION"), strings.TrimSpace(string(b)))
	}
	return n, nil
}

// command prepares a Postgres program that runs as the owner, free of what our
// environment says to Postgres.
func (s *Server) command(ctx context.Context, bin string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(s.bin, bin), args...)
	c.Dir = "/" // ours may be closed to the owner
	c.Env = []string{"PATH=" + s.bin + ":/usr/bin:/bin", "LC_ALL=C", "HOME=/", "TZ=UTC"}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.owner.credential}
	if ctx.Done() != nil {
		c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) } // its children too
		c.WaitDelay = time.Second
	}
	return c
}

// initdb makes the cluster in a temporary directory and renames it when whole,
// so that being killed half way leaves nothing that looks like one.
func (s *Server) initdb(ctx context.Context) error {
	old, _ := filepath.Glob(filepath.Join(s.dir, "init-*")) // of a start that was killed; we hold the lock
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return fmt.Errorf("%w: %w", ErrDirectory, err)
		}
	}
	tmp := filepath.Join(s.dir, "init-"+strconv.Itoa(os.Getpid()))
	if err := s.owner.mkdir(tmp); err != nil {
		return err
	}
	// Locale C is on every machine, and its order does not change with a library.
	args := []string{
		"-D", tmp, "-U", s.opts.User, "-E", "UTF8", "--locale=C",
		"--auth-local=peer", "--auth-host=reject", "--data-checksums",
	}
	if s.opts.Ephemeral {
		args = append(args, "--no-sync", "--wal-segsize=1")
	} else {
		args = append(args, initdbSync...)
	}
	if out, err := s.command(ctx, "initdb", args...).CombinedOutput(); err != nil {
		os.RemoveAll(tmp)
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		hint := ""
		if strings.Contains(string(out), "could not look up effective user ID") {
			hint = "; the user has no entry in /etc/passwd, which initdb needs"
		}
		return fmt.Errorf("initdb as %s: %w%s: %s", s.owner.name, err, hint, lastLines(string(out), 3))
	}
	if !s.opts.Ephemeral {
		// Before the name says that it is whole.
		if err := syncAll(s.dir); err != nil {
			return fmt.Errorf("%w: %w", ErrDirectory, err)
		}
	}
	if err := os.Rename(tmp, s.data); err != nil {
		return fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	return nil
}

// writeAccess lets in the owner and whoever runs this process: by name, whatever
// the socket's mode says. Written at each start, since who that is may change.
func (s *Server) writeAccess(data string) error {
	me, err := user.Current()
	if err != nil {
		return fmt.Errorf("%w: who runs this process: %w", ErrUser, err)
	}
	ident := fmt.Sprintf("vedette %q %q\n", s.owner.name, s.opts.User)
	if me.Username != s.owner.name {
		ident += fmt.Sprintf("vedette %q %q\n", me.Username, s.opts.User)
	}
	for name, text := range map[string]string{
		"pg_hba.conf":   "local all all peer map=vedette\n",
		"pg_ident.conf": ident,
	} {
		// Both were made by initdb, as the owner; writing keeps that.
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("%w: %w", ErrDirectory, err)
		}
	}
	return nil
}

// maxSocketPath is what fits into sockaddr_un on the narrowest system, macOS.
const maxSocketPath = 103

// socketDir makes the directory of the Unix socket.
func (s *Server) socketDir() (string, error) {
	run := filepath.Join(s.dir, "run")
	if len(run)+len("/.s.PGSQL.5432") > maxSocketPath {
		h := fnv.New64a()
		h.Write([]byte(s.dir))
		// Not TMPDIR: it may itself be long, or closed to the owner.
		run = fmt.Sprintf("/tmp/vedette-%d-%x", os.Geteuid(), h.Sum64())
	}
	if err := s.owner.mkdir(run); err != nil {
		return "", err
	}
	return run, nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
