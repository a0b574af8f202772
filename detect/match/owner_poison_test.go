package match_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/event"
)

// fragile fails on some events, as a bug in our code would.
type fragile struct{ poison string }

func (f fragile) Enrich(ev *event.Event) {
	if bytes.Contains(ev.Raw, []byte(f.poison)) {
		panic("index out of range: " + f.poison)
	}
}

// TestOwnerOutlivesPoison: records on which our code panics become dead letters, all
// others are judged as if those were not there, and the stack is logged once.
func TestOwnerOutlivesPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2)
		calm := newWorld(t, 1, 2)
		var poison []int64
		for i := range 60 {
			at := base.Add(time.Duration(i) * time.Second)
			name := "GetUser"
			if i%7 == 3 {
				name = "Poison"
				poison = append(poison, int64(i))
			}
			w.record(0, at, at, name, "AccessDenied")
			calm.record(0, at, at, name, "AccessDenied")
			if name == "Poison" {
				calm.logs[0][i].Value = []byte("{") // nothing is counted of it
			}
		}
		w.programs["generation-0"].Enricher = fragile{"Poison"}
		var log bytes.Buffer
		o := w.options()
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		_, stop := start(t, o)
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		_, stopCalm := start(t, calm.options())
		calm.until(t, calm.saved)
		if err := stopCalm(); err != nil {
			t.Fatal(err)
		}

		if d := cmp.Diff(observations(calm.apply(t)), observations(w.apply(t))); d != "" {
			t.Errorf("the other records are judged differently (-without poison +with):\n%s", d)
		}
		var buried []int64
		for _, d := range w.letters {
			buried = append(buried, d.Offset)
			if d.Reason != "panic" || !strings.Contains(d.Detail, "index out of range") || !bytes.Contains(d.Value, []byte("Poison")) {
				t.Errorf("dead letter %+v", d)
			}
		}
		if d := cmp.Diff(poison, buried); d != "" {
			t.Errorf("dead letters (-want +got):\n%s", d)
		}
		if n := testutil.ToFloat64(o.Metrics.DeadLetters.WithLabelValues("panic")); n != float64(len(poison)) {
			t.Errorf("%v dead letters counted, want %d", n, len(poison))
		}
		if n := strings.Count(log.String(), "fragile.Enrich"); n != 1 {
			t.Errorf("the stack was logged %d times, want once:\n%s", n, log.String())
		}
	})
}
