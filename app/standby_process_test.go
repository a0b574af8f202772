package app_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
)

// TestOneCollects: of several processes that collect from the same source one reads;
// when it stops another goes on at its place.
func TestOneCollects(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.app.Stop()
	dir := t.TempDir()
	s.cfg.Collect.Files = []config.FileSource{{Name: "gateway", Paths: []string{dir}, Poll: 50 * time.Millisecond}}
	boot := func() *app.App {
		t.Helper()
		cfg := *s.cfg
		a, err := app.Start(context.Background(), app.Options{Config: &cfg, Logger: discard, Version: "test"})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	write := func(name, ip string) {
		t.Helper()
		// Whole at once: what is being written is read when it has come to rest.
		tmp := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(tmp, refusals(40, ip, time.Now().Add(-10*time.Minute)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	found := func(n int) {
		t.Helper()
		s.eventually("incidents with all their events", func() bool {
			list := s.incidents()
			for _, in := range list {
				if in.Count != 40 {
					return false
				}
			}
			return len(list) == n
		})
	}
	const active = `vedette_active{lease="collect gateway"} 1`
	first := boot()
	s.app = first
	s.eventually("the first collects", func() bool { return s.metric(first.Addr(), active) })
	second := boot()
	defer second.Stop()
	write("a.json", "203.0.113.1")
	found(1)
	if s.metric(second.Addr(), active) {
		t.Error("both collect")
	}
	first.Stop()
	s.app = second
	s.eventually("the second collects", func() bool { return s.metric(second.Addr(), active) })
	write("b.json", "203.0.113.2")
	found(2)
	if code, b := s.do("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("readyz: %d %s", code, b)
	}
}
