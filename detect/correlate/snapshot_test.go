package correlate_test

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// An engine that goes on from a snapshot is the one that wrote it, also where bounds
// on ids and keys are exceeded and estimates take the place of events.
func TestSnapshotGoesOn(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			found, loaded := 0, 0
			rapid.Check(t, func(t *rapid.T) {
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
				evs := k.events(r, rapid.IntRange(0, 120).Draw(t, "events"))
				sources := in(r, 1, 3)
				s := &sim{
					rules: []*rule.Rule{k.rule}, sources: deliveries(r, evs, sources, k, r.IntN(2) == 0), n: 1,
					opts: correlate.Options{Sources: sources, EvidenceLimit: 5, Skew: 1, ExactIDs: pick(r, 1, 2, 20), MaxKeys: pick(r, 1, 1000)},
				}
				a := s.engine(t)
				b, pages := a, map[uint32]correlate.Page{}
				for _, sec := range s.log(r, 0) {
					a.Apply(&sec, false)
					if b != a {
						b.Apply(&sec, false)
					}
					if r.IntN(5) > 0 {
						continue
					}
					fs, ps := a.Flush()
					found += len(fs)
					for _, p := range ps {
						pages[p.Number] = p
					}
					if b != a {
						gotF, gotP := b.Flush()
						if d := cmp.Diff(fs, gotF); d != "" {
							t.Fatalf("behind a snapshot (-that wrote it +that loaded it):\n%s", d)
						}
						if d := cmp.Diff(ps, gotP); d != "" {
							t.Fatalf("profiles behind a snapshot (-that wrote it +that loaded it):\n%s", d)
						}
					}
					if r.IntN(4) == 0 {
						var w bytes.Buffer
						if err := a.Snapshot(&w); err != nil {
							t.Fatal(err)
						}
						b = s.engine(t)
						if err := errors.Join(b.Restore(slices.Collect(maps.Values(pages))), b.Reset(a.State()), b.Load(&w)); err != nil {
							t.Fatal(err)
						}
						loaded++
					}
				}
			})
			if found == 0 || loaded == 0 {
				t.Errorf("%d findings, %d snapshots: the test is empty", found, loaded)
			}
		})
	}
}

func filled(t fataler, k kind, seed uint64) (*sim, *correlate.Engine, []byte) {
	r := rand.New(rand.NewPCG(seed, 4))
	s := &sim{
		rules: []*rule.Rule{k.rule}, sources: deliveries(r, k.events(r, 40), 1, k, false), n: 1,
		opts: correlate.Options{Sources: 1, EvidenceLimit: 5, ExactIDs: 3},
	}
	e := s.engine(t)
	log := s.log(r, 0)
	for i := range log[:len(log)*2/3] {
		e.Apply(&log[i], false)
	}
	e.Flush()
	var w bytes.Buffer
	if err := e.Snapshot(&w); err != nil {
		t.Fatal(err)
	}
	return s, e, w.Bytes()
}

// A snapshot of other rules, of other bounds or with findings in it is none.
func TestSnapshotOfOthersIsRefused(t *testing.T) {
	ks := kinds()
	for i, k := range ks {
		t.Run(k.name, func(t *testing.T) {
			s, e, data := filled(t, k, 5)
			load := func(s *sim) error {
				to := s.engine(t)
				if err := to.Reset(e.State()); err != nil {
					t.Fatal(err)
				}
				return to.Load(bytes.NewReader(data))
			}
			if err := load(s); err != nil {
				t.Fatal(err)
			}
			other := *s
			version := *ks[(i+1)%len(ks)].rule
			version.Version = "another"
			other.rules = []*rule.Rule{&version}
			if err := load(&other); !errors.Is(err, correlate.ErrSnapshot) {
				t.Errorf("of another rule: %v", err)
			}
			other.rules = []*rule.Rule{k.rule, &version}
			if err := load(&other); !errors.Is(err, correlate.ErrSnapshot) {
				t.Errorf("without a rule that is in force: %v", err)
			}
			longer := *k.rule
			c := *k.rule.Correlation
			c.Timespan, c.Lateness = 2*c.Timespan, c.Lateness+1e12
			longer.Correlation = &c
			other.rules = []*rule.Rule{&longer}
			if err := load(&other); !errors.Is(err, correlate.ErrSnapshot) {
				t.Errorf("of windows cut otherwise: %v", err)
			}
			other = *s
			other.opts.ExactIDs = 4
			if err := load(&other); !errors.Is(err, correlate.ErrSnapshot) {
				t.Errorf("of another bound: %v", err)
			}
			to := s.engine(t)
			if err := to.Load(bytes.NewReader(data)); !errors.Is(err, correlate.ErrSnapshot) {
				t.Errorf("of another place: %v", err)
			}
		})
	}
}

// Whatever is in a file, loading it comes to an end, and what follows does not fall over.
func FuzzSnapshot(f *testing.F) {
	type target struct {
		s     *sim
		state []byte
		log   []detect.Section
	}
	var targets []target
	for i, k := range kinds() {
		s, e, data := filled(f, k, 7)
		targets = append(targets, target{s, e.State(), s.log(rand.New(rand.NewPCG(1, 2)), 0)})
		f.Add(uint8(i), data)
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		at := targets[int(which)%len(targets)]
		to := at.s.engine(t)
		if err := to.Reset(at.state); err != nil {
			t.Fatal(err)
		}
		if err := to.Load(bytes.NewReader(correlate.Reframe(data))); err != nil {
			if !errors.Is(err, correlate.ErrSnapshot) {
				t.Fatal(err)
			}
			return
		}
		for i := range at.log {
			to.Apply(&at.log[i], false)
		}
		to.Finish()
		to.Flush()
		if n := to.Stats().Panics; n > 0 {
			t.Fatalf("%d rules failed: %+v", n, to.Faults())
		}
	})
}
