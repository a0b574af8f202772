package app

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Processes that share a data directory keep the same database at the same time.
func TestKeepGeoAtOnce(t *testing.T) {
	content := bytes.Repeat([]byte("a database"), 100_000)
	path := filepath.Join(t.TempDir(), "geo.mmdb")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		dataDir := t.TempDir()
		type kept struct {
			sum string
			err error
		}
		const processes = 4
		all := make(chan kept, processes)
		for range processes {
			go func() {
				sum, err := keepGeo(dataDir, path)
				all <- kept{sum, err}
			}()
		}
		for range processes {
			k := <-all
			if k.err != nil {
				t.Fatal(k.err)
			}
			if got, err := os.ReadFile(geoPath(dataDir, k.sum)); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%d bytes are kept of %d, %v", len(got), len(content), err)
			}
		}
		files, err := os.ReadDir(filepath.Join(dataDir, "geo"))
		if err != nil || len(files) != 1 {
			t.Fatalf("files %v, %v", files, err)
		}
		if fi, err := files[0].Info(); err != nil || fi.Mode().Perm() != 0o644 {
			t.Errorf("mode %v, %v", fi.Mode(), err)
		}
	}
}
