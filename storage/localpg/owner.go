package localpg

import (
	"context"
	"errors"
	"fmt"
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

// owner is the user that runs Postgres and owns its files.
type owner struct {
	name       string
	uid, gid   uint32
	credential *syscall.Credential // nil unless we are root and have to become it
}

// pickOwner says who runs Postgres. As root that is another user: the one who
// owns the cluster, else the one asked for, else postgres, else nobody.
func pickOwner(ctx context.Context, runAs, dir, data, bin string) (owner, error) {
	euid := os.Geteuid()
	var dataUID uint32
	exists := false
	if fi, err := os.Stat(data); err == nil {
		dataUID, exists = fi.Sys().(*syscall.Stat_t).Uid, true
	}
	if euid != 0 {
		if exists && dataUID != uint32(euid) {
			return owner{}, fmt.Errorf("%w: %s belongs to user %s; start as that user or as root, or name another directory",
				ErrDirectory, data, userName(dataUID))
		}
		me, err := user.Current()
		if err != nil {
			return owner{}, fmt.Errorf("%w: uid %d has no entry in /etc/passwd, which initdb needs: %w", ErrUser, euid, err)
		}
		return newOwner(me, false)
	}

	names := []string{"postgres", "nobody"}
	if runAs != "" {
		names = []string{runAs}
	}
	if exists {
		if dataUID == 0 {
			return owner{}, fmt.Errorf("%w: %s belongs to root, and Postgres refuses to run as root; "+
				"give it to another user (sudo chown -R postgres %s)", ErrDirectory, data, data)
		}
		names = []string{userName(dataUID)}
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		o, err := newOwner(u, true)
		if err != nil {
			return owner{}, err
		}
		return o, o.checkPath(ctx, dir, bin)
	}
	return owner{}, fmt.Errorf("%w: Postgres refuses to run as root, and there is no user %s on this machine; "+
		"make one (sudo useradd --system --no-create-home postgres) or start as an ordinary user",
		ErrUser, strings.Join(names, " or "))
}

func newOwner(u *user.User, drop bool) (owner, error) {
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return owner{}, fmt.Errorf("%w: user %s: %w", ErrUser, u.Username, err)
	}
	o := owner{name: u.Username, uid: uint32(uid), gid: uint32(gid)}
	if drop {
		if uid == 0 {
			return owner{}, fmt.Errorf("%w: Postgres refuses to run as %s, which is root", ErrUser, u.Username)
		}
		o.credential = &syscall.Credential{Uid: o.uid, Gid: o.gid} // no Groups: root's are dropped
	}
	return o, nil
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// checkPath finds out whether the owner can run the binaries and reach dir: it
// tries, as modes do not tell all (access lists, mounts). A closed parent such as
// a 0700 /root is the usual trap.
func (o owner) checkPath(ctx context.Context, dir, bin string) error {
	try := func(dir string) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version")
		c.Dir = dir
		c.Env = []string{"LC_ALL=C"}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: o.credential}
		return c.Run()
	}
	if try(dir) == nil {
		return nil
	}
	if err := try("/"); err != nil {
		if errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("%w: this process may not become user %s (%w); start as an ordinary user", ErrUser, o.name, err)
		}
		return fmt.Errorf("%w: user %s cannot run %s: %w", ErrUser, o.name, filepath.Join(bin, "postgres"), err)
	}
	at := "/"
	for part := range strings.SplitSeq(strings.TrimPrefix(dir, "/"), "/") {
		at = filepath.Join(at, part)
		if err := try(at); err != nil {
			mode := ""
			if fi, err := os.Stat(at); err == nil {
				mode = fmt.Sprintf(" (mode %04o)", fi.Mode().Perm())
			}
			return fmt.Errorf("%w: %s%s cannot be entered by user %s, who runs Postgres, as it does not run as root; "+
				"open it (chmod a+x %s) or name a directory elsewhere", ErrDirectory, at, mode, o.name, at)
		}
	}
	return nil
}

// mkdir makes a directory that is the owner's alone, or makes sure that the one
// there is.
func (o owner) mkdir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	fi, err := os.Lstat(dir) // not Stat: somebody may have planted a link in /tmp
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("%w: %s is not a directory", ErrDirectory, dir)
	}
	if uid := fi.Sys().(*syscall.Stat_t).Uid; uid != o.uid {
		if !made {
			return fmt.Errorf("%w: %s belongs to user %s, not to %s; remove it", ErrDirectory, dir, userName(uid), o.name)
		}
		if err := os.Lchown(dir, int(o.uid), int(o.gid)); err != nil {
			return fmt.Errorf("%w: %w", ErrDirectory, err)
		}
	}
	if fi.Mode().Perm() != 0o700 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("%w: %w", ErrDirectory, err)
		}
	}
	return nil
}
