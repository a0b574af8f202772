package app_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
)

// TestOneCollects: of several processes that collect from the same source one reads;
// when it stops another goes on at its place.
func TestOneCollects(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.App.Stop()
	dir := t.TempDir()
	s.Config.Collect.Files = []config.FileSource{{Name: "gateway", Paths: []string{dir}, Poll: 50 * time.Millisecond}}
	write := func(name, ip string) {
		t.Helper()
		// Whole at once: what is being written is read when it has come to rest.
		tmp := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(tmp, servicetest.Refusals(40, ip, time.Now().Add(-10*time.Minute)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	const active = `vedette_active{lease="collect gateway"} 1`
	first := s.Run()
	s.App = first
	s.Eventually("the first collects", func() bool { return s.metric(first.Addr(), active) })
	second := s.Run()
	defer second.Stop()
	write("a.json", "203.0.113.1")
	s.Found(1, 40)
	if s.metric(second.Addr(), active) {
		t.Error("both collect")
	}
	first.Stop()
	s.App = second
	s.Eventually("the second collects", func() bool { return s.metric(second.Addr(), active) })
	write("b.json", "203.0.113.2")
	s.Found(2, 40)
	if code, b := s.Do("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("readyz: %d %s", code, b)
	}
}
