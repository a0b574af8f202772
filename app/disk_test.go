package app_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/storage/pgtest"
)

// disk is a small file system of its own with a tablespace on it.
type disk struct {
	dir   string
	space string
	admin *pgx.Conn
}

// smallDisk makes one, or skips the test where that is not allowed. Ask for it
// before the database that it is to hold.
func smallDisk(t *testing.T) *disk {
	t.Helper()
	server := pgtest.Server(t)
	owner, err := os.Stat(fmt.Sprintf("/proc/%d", server.PID()))
	if err != nil {
		t.Skipf("whom Postgres runs as cannot be told here: %v", err)
	}
	as := owner.Sys().(*syscall.Stat_t)
	d := &disk{dir: filepath.Join(os.TempDir(), fmt.Sprintf("vedette-disk-%d", os.Getpid())), space: fmt.Sprintf("small_%d", os.Getpid())}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(d.dir) })
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=48m,mode=700,uid=%d,gid=%d", as.Uid, as.Gid)); err != nil {
		t.Skipf("SKIPPED, a full disk is not tested: a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount the small file system: %v", err)
		}
	})
	if d.admin, err = pgx.Connect(t.Context(), server.DSNOf("postgres")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer d.admin.Close(context.Background())
		if _, err := d.admin.Exec(context.Background(), "DROP TABLESPACE "+d.space); err != nil {
			t.Errorf("drop the tablespace: %v", err)
		}
	})
	if _, err := d.admin.Exec(t.Context(), fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", d.space, d.dir)); err != nil {
		t.Fatal(err)
	}
	return d
}

// hold moves a database that nobody uses onto the disk.
func (d *disk) hold(t *testing.T, database string) {
	t.Helper()
	if _, err := d.admin.Exec(t.Context(), fmt.Sprintf("ALTER DATABASE %s SET TABLESPACE %s", pgx.Identifier{database}.Sanitize(), d.space)); err != nil {
		t.Fatal(err)
	}
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill takes all the room there is.
func (d *disk) fill(t *testing.T) {
	t.Helper()
	f, err := os.Create(d.ballast())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 1<<20); ; {
		n, err := f.Write(b)
		switch {
		case errors.Is(err, syscall.ENOSPC) && len(b) > 1:
			b = b[:max(1, (len(b)-n)/2)]
		case errors.Is(err, syscall.ENOSPC):
			return
		case err != nil:
			t.Fatal(err)
		}
	}
}

func (d *disk) empty(t *testing.T) {
	t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		t.Fatal(err)
	}
}
