package localpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

const installHint = `install it:
  Debian, Ubuntu:  sudo apt-get install postgresql
  Fedora:          sudo dnf install postgresql-server
  macOS:           brew install postgresql@17`

// Where distributions put the server's binaries; most keep them off PATH.
var binPatterns = [...]string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // postgresql.org's RPMs
	"/usr/lib/postgresql*/bin",  // SUSE
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/local/pgsql/bin",      // from source
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

type installation struct {
	dir   string
	major int
}

// findBinaries returns the directory that holds initdb and postgres, and their
// major version: that of the cluster at data if want is not 0, else the newest.
func findBinaries(ctx context.Context, explicit string, want int, data string) (string, int, error) {
	dirs := []string{explicit}
	if explicit == "" {
		dirs = candidateDirs()
	}
	var found []installation
	seen := make(map[string]bool)
	for _, d := range dirs {
		if seen[d] {
			continue
		}
		seen[d] = true
		if in, ok := probe(ctx, d); ok {
			found = append(found, in)
		}
	}
	if len(found) == 0 {
		if explicit != "" {
			return "", 0, fmt.Errorf("%w: %s does not hold both initdb and postgres", ErrNotInstalled, explicit)
		}
		return "", 0, fmt.Errorf("%w (initdb and postgres); %s", ErrNotInstalled, installHint)
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].major > found[j].major })
	for _, in := range found {
		if want == in.major || want == 0 && in.major >= MinMajor {
			return in.dir, in.major, nil
		}
	}
	have := make([]string, len(found))
	for i, in := range found {
		have[i] = fmt.Sprintf("%d in %s", in.major, in.dir)
	}
	if want == 0 {
		return "", 0, fmt.Errorf("%w: %d or newer is needed, found %s", ErrVersion, MinMajor, strings.Join(have, ", "))
	}
	return "", 0, fmt.Errorf("%w: %s was made by Postgres %d, found %s; install %d (sudo apt-get install postgresql-%d), "+
		"convert the data with pg_upgrade, or begin with another directory", ErrVersion, data, want, strings.Join(have, ", "), want, want)
}

func candidateDirs() []string {
	var dirs []string
	for _, d := range filepath.SplitList(os.Getenv("PATH")) {
		// A link such as /usr/local/bin/postgres leads to where its siblings are.
		for _, name := range []string{"initdb", "postgres"} {
			if p, err := filepath.EvalSymlinks(filepath.Join(d, name)); err == nil {
				dirs = append(dirs, filepath.Dir(p))
			}
		}
		dirs = append(dirs, d)
	}
	for _, pattern := range binPatterns {
		m, _ := filepath.Glob(pattern) // the patterns are well formed
		dirs = append(dirs, m...)
	}
	return dirs
}

// probe asks the binaries in dir for their version. Packages of the client alone
// have no initdb, and wrappers named postgres have no siblings: both are needed.
func probe(ctx context.Context, dir string) (installation, bool) {
	if !filepath.IsAbs(dir) || !executable(filepath.Join(dir, "initdb")) || !executable(filepath.Join(dir, "postgres")) {
		return installation{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output() // root may ask
	if err != nil {
		return installation{}, false
	}
	major, ok := parseVersion(string(out))
	return installation{dir, major}, ok
}

func executable(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}

// parseVersion reads "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", also "17beta1".
func parseVersion(s string) (int, bool) {
	f := strings.Fields(s)
	if len(f) < 3 || f[1] != "(PostgreSQL)" {
		return 0, false
	}
	digits := f[2]
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i]
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil
}

// Find returns where the newest usable Postgres on this machine has its binaries,
// and its major version; ErrNotInstalled or ErrVersion if there is none.
func Find(ctx context.Context) (bin string, major int, err error) {
	return findBinaries(ctx, "", 0, "")
}
