package spinetest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
)

// simulation runs plans, and knows what the histories come to if nothing befalls
// anybody.
type simulation struct {
	t         *testing.T
	gens      generations
	histories [simHistories]*simHistory
	want      [simHistories]map[string][]string
	metrics   simMetrics
}

func newSimulation(t *testing.T) *simulation {
	s := &simulation{t: t, gens: newGenerations(t), metrics: simMetrics{match.NewMetrics(nil), correlate.NewMetrics(nil)}}
	for i := range s.histories {
		s.histories[i] = newSimHistory(t, uint64(i))
		r := s.run(&simPlan{History: i, Partitions: 1}, nil)
		if r.err != nil {
			t.Fatalf("history %d, undisturbed: %v", i, r.err)
		}
		s.want[i] = r.effects
		for _, what := range []string{"finding", "profile", "incident", "letter"} {
			if len(r.effects[what]) == 0 {
				t.Errorf("history %d has nothing of %s: it tests nothing", i, what)
			}
		}
	}
	return s
}

// simResult is what a run left.
type simResult struct {
	effects map[string][]string
	err     error // it did not come to an end, or left what contradicts itself
	rewound int
}

// run runs one plan to its end, in time of its own.
func (s *simulation) run(p *simPlan, v *simVariant) (r simResult) {
	dir := ""
	if p.Snapshots {
		var err error
		if dir, err = os.MkdirTemp(s.t.TempDir(), "snapshots"); err != nil {
			return simResult{err: err}
		}
		defer os.RemoveAll(dir)
	}
	synctest.Test(s.t, func(*testing.T) { r = s.bubble(p, v, dir) })
	return r
}

// simPatience is how long the last crew has to bring everything to its end, which
// takes it less than half a minute.
const simPatience = 3 * time.Minute

func (s *simulation) bubble(p *simPlan, v *simVariant, dir string) simResult {
	w := newSimWorld(s.gens, s.histories[p.History], p.Partitions, dir)
	faults := newSimFaults(p)
	var crews []*simCrew
	start := func(cp simCrewPlan, last bool) (*simCrew, error) {
		c := &simCrew{w: w, n: len(crews), seed: p.Seed, v: v, m: s.metrics, calls: make(map[simCall]int), taken: make(map[int32]correlate.Checkpoint), rebuilt: make(map[int32]int64)}
		if !last {
			c.faults = faults
		}
		crews = append(crews, c)
		return c, c.start(cp, last)
	}
	var wg sync.WaitGroup
	for i, cp := range p.Crews {
		time.Sleep(cp.After)
		w.mu.Lock()
		if pos, ok := w.positions[int32(cp.Forget)]; ok {
			w.positions[int32(cp.Forget)] = match.Position{Epoch: pos.Epoch}
		}
		err := w.meddle(cp, simMix(p.Seed, uint64(i)))
		w.mu.Unlock()
		if err != nil {
			return simResult{err: err}
		}
		c, err := start(cp, false)
		if err != nil {
			return simResult{err: err}
		}
		wg.Go(func() {
			simWaitEnd(c, cp)
		})
	}
	wg.Wait()
	w.late.Wait()
	w.mu.Lock()
	for i, log := range w.history.logs {
		w.ends[i] = int64(len(log))
	}
	w.mu.Unlock()
	c, err := start(simCrewPlan{Sources: 0xff, Observed: 0xff, Assembles: true}, true)
	if err != nil {
		return simResult{err: err}
	}
	for deadline := time.Now().Add(simPatience); ; {
		if err = w.settled(); err == nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.stop()
	<-c.ended
	r := simResult{rewound: w.rewound}
	for _, c := range crews {
		err = errors.Join(append([]error{err}, c.errs...)...)
	}
	if r.err = err; err == nil {
		r.effects, r.err = w.effects()
	}
	return r
}

// simWaitEnd lets a crew work for as long as it lasts.
func simWaitEnd(c *simCrew, p simCrewPlan) {
	select {
	case <-time.After(p.Lasts):
	case <-c.ended:
	}
	if p.Graceful && !c.dead.Load() {
		c.stop()
	} else {
		c.kill()
	}
	<-c.ended
}

// differ says how what a run left differs from what it should have; nothing if it
// does not.
func (s *simulation) differ(p *simPlan, r simResult) string {
	if r.err != nil {
		return r.err.Error()
	}
	got, want := simLines(r.effects), simLines(s.want[p.History])
	if got == want {
		return ""
	}
	have := make(map[string]int)
	for l := range strings.Lines(want) {
		have[l]++
	}
	var b strings.Builder
	for l := range strings.Lines(got) {
		if have[l]--; have[l] < 0 {
			fmt.Fprintf(&b, "unexpected %.400s\n", strings.TrimSpace(l))
		}
	}
	for l := range strings.Lines(want) {
		if have[l] > 0 {
			have[l]--
			fmt.Fprintf(&b, "missing %.400s\n", strings.TrimSpace(l))
		}
	}
	return b.String()
}

// TestSimulation is the promise of exactly-once effects as a property of plans.
// Processes come, overlap and are killed, at calls and between them; they have all of
// the work or some of it. Calls fail, are slow, lose their answers, are done twice or
// long after they were given up; positions get lost, snapshots are damaged and mixed
// up. What is found, learned, assembled, queued to be told and buried is what a
// process leaves that nothing befell.
//
// The owners are the real ones, in the time of a synctest bubble; only Kafka and
// Postgres are in memory. TestKilled does the like, some hundred times slower, with
// those. That the undisturbed run itself finds what it should is for the reference
// models of detect/correlate and incident.
func TestSimulation(t *testing.T) {
	s := newSimulation(t)
	rapid.Check(t, func(rt *rapid.T) {
		p := simPlans.Draw(rt, "plan")
		if d := s.differ(p, s.run(p, nil)); d != "" {
			rt.Fatal(d)
		}
	})
}
