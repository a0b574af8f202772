package correlate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// TestForgottenProfilesGo: what was learned of keys that are not seen any more ends in
// memory and in the pages, while what is still seen stays.
func TestForgottenProfilesGo(t *testing.T) {
	const forget = 40 * time.Hour
	const keys = 20_000
	for _, c := range []struct {
		corr rule.Correlation
		ends time.Duration // after which a profile must be gone
	}{
		{rule.Correlation{Type: rule.NewValue, Field: "f", Learning: time.Hour, Forget: forget}, 3*forget + forget/8 + 3*time.Hour},
		{rule.Correlation{Type: rule.Baseline, Timespan: 5 * time.Minute, Measure: "p95", MinVolume: 1, MinBuckets: 48, Factor: 4, Deviations: 6, Forget: forget}, 2*forget + forget/8 + 3*time.Hour},
	} {
		t.Run(string(c.corr.Type), func(t *testing.T) {
			e := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 20})
			r := newRule(c.corr, 1)
			if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
				t.Fatal(err)
			}
			led := newLedger()
			flush := func() (bytes int) {
				fs, ps := e.Flush()
				led.merge(fs, 20)
				led.save(ps)
				for _, p := range led.pages {
					bytes += len(p.Data)
				}
				return bytes
			}
			f := &feed{r: r, keys: keys, labels: []string{"x", "y"}}
			for range 4 * keys / 1000 {
				e.Apply(f.section(), false)
			}
			f.tick(e, 3*time.Hour)
			full, peak := flush(), sizeOf(e)
			if peak.Keys != keys || full < keys*10 {
				t.Fatalf("%d keys are held, %d bytes stored", peak.Keys, full)
			}
			f.keys = 10 // the others are not seen any more
			for at := time.Duration(0); at < c.ends; at += 10 * time.Minute {
				f.later += 10 * time.Minute
				e.Apply(f.section(), false)
				if at < 2*forget-4*time.Hour && sizeOf(e).Keys < keys {
					t.Fatalf("%d keys are held after %v", sizeOf(e).Keys, at)
				}
				flush()
			}
			// The ten are keys of the same numbers.
			f.tick(e, 3*time.Hour)
			left := flush()
			if s := sizeOf(e); s.Keys != 10 || s.Bytes > peak.Bytes/3 {
				t.Errorf("%d keys and %d bytes are held, want 10 keys and far less than %d bytes", s.Keys, s.Bytes, peak.Bytes)
			}
			if len(led.pages) == 0 || len(led.pages) > 10 || led.dropped < 500 || left > full/20 && left > 10*5000 {
				t.Errorf("%d pages of %d bytes are stored, %d were dropped, of %d bytes", len(led.pages), left, led.dropped, full)
			}
			// Whoever takes over has the same.
			again := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 20})
			if err := again.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
				t.Fatal(err)
			}
			var pages []correlate.Page
			for _, p := range led.pages {
				pages = append(pages, p)
			}
			if err := again.Restore(pages); err != nil {
				t.Fatal(err)
			}
			if n := sizeOf(again).Keys; n != 10 {
				t.Errorf("%d keys were restored, want 10", n)
			}
			f.tick(e, 10*forget)
			f.tick(e, forget)
			if flush(); sizeOf(e).Keys != 0 || len(led.pages) != 0 {
				t.Errorf("in the end %d keys and %d pages are left", sizeOf(e).Keys, len(led.pages))
			}
		})
	}
}

// TestVanishedRulesForget: a rule of no generation in force goes once what it learned
// has ended.
func TestVanishedRulesForget(t *testing.T) {
	r := newRule(rule.Correlation{Type: rule.NewValue, Field: "f", Learning: time.Hour, Forget: 10 * time.Hour}, 1)
	h := newHand(t, r, correlate.Options{})
	h.put(0, simEvent{time: minutes(0), id: 1, key: "a", label: "x"})
	h.put(100)
	if err := h.e.AddRules(&rule.Set{}); err != nil {
		t.Fatal(err)
	}
	h.put(20 * 60)
	if len(h.e.Versions()) != 1 {
		t.Fatal("a rule that knows something is gone")
	}
	h.put(32 * 60)
	h.put(40 * 60)
	h.e.Flush()
	h.put(41 * 60)
	if vs := h.e.Versions(); len(vs) != 0 {
		t.Errorf("%v is still there", vs)
	}
}

// TestForgettingDoesNotDependOnWhenItIsDone: an engine that is taken over at any
// place, from its pages and its state there, drops at the same places of the stream
// what one that was not drops, for events too that come later than anybody promises.
func TestForgettingDoesNotDependOnWhenItIsDone(t *testing.T) {
	r := newRule(rule.Correlation{Type: rule.NewValue, Field: "f", Learning: time.Hour, Forget: 10 * time.Hour}, 1)
	runs := 200
	if testing.Short() {
		runs = 50
	}
	forgot := 0
	for seed := range uint64(runs) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		var secs []detect.Section
		at := 0.0
		for i := range int64(120) {
			at += pick(rnd, 0.0, 1, 7, 60, 200, 900)
			late := pick(rnd, 0.0, 0, 1, 100, 700, 1500, 4000)
			var b detect.SectionBuilder
			if in(rnd, 0, 3) > 0 {
				b.Add(tenant, r.Version, keyOf(letter(rnd, 3)), detect.Observation{
					Pointer: detect.Pointer{Source: source(0), Offset: i}, Time: minutes(at - late), Stamp: minutes(at),
					IDHash: uint64(i), Label: letter(rnd, 4),
				})
			}
			secs = append(secs, detect.Section{Source: source(0), From: i, To: i + 1, Clock: minutes(at), Groups: slices.Clone(b.Groups())})
		}
		run := func(takeover float64) (string, int) {
			led := newLedger()
			engine := func(state []byte) *correlate.Engine {
				e := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 20})
				if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
					t.Fatal(err)
				}
				if err := e.Reset(state); err != nil {
					t.Fatal(err)
				}
				return e
			}
			begin, e := engine(nil).State(), engine(nil)
			for i := range secs {
				e.Apply(&secs[i], false)
				fs, ps := e.Flush()
				led.merge(fs, 20)
				led.save(ps)
				if rnd.Float64() < takeover {
					e = engine(begin)
					var pages []correlate.Page
					for _, p := range led.pages {
						pages = append(pages, p)
					}
					if err := e.Restore(pages); err != nil {
						t.Fatal(err)
					}
					for j := range i + 1 {
						e.Apply(&secs[j], true)
					}
				}
			}
			return fmt.Sprint(led.findings, led.pages), led.dropped
		}
		want, dropped := run(0)
		forgot += dropped
		if got, _ := run(0.2); got != want {
			t.Fatalf("seed %d: taken over now and then\n%s\nwant\n%s", seed, got, want)
		}
	}
	if forgot < runs {
		t.Errorf("only %d pages were dropped in %d runs", forgot, runs)
	}
}
