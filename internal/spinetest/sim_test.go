package spinetest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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
	s := &simulation{t: t, gens: newGenerations(t), metrics: simMetrics{match.NewMetrics(nil), correlate.NewMetrics(nil), new([numOps][numKinds]atomic.Int64)}}
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
	crew := func() *simCrew {
		w.mu.Lock()
		defer w.mu.Unlock()
		c := &simCrew{
			w: w, layout: w.inForce(), n: len(crews), seed: p.Seed, v: v, m: s.metrics,
			calls: make(map[simCall]int), taken: make(map[int32]correlate.Checkpoint), rebuilt: make(map[int32]int64),
		}
		crews = append(crews, c)
		return c
	}
	start := func(cp simCrewPlan, last bool) (*simCrew, error) {
		c := crew()
		if !last {
			c.faults = faults
		}
		return c, c.start(cp, last)
	}
	var wg sync.WaitGroup
	move := func() (err error) {
		for range 4 {
			c := crew()
			c.faults = faults
			if err = (simMover{c}).move(p.Move.Partitions); err == nil {
				return nil
			}
		}
		wg.Wait() // the service is stopped, and the disturbance over
		w.late.Wait()
		return simMover{crew()}.move(p.Move.Partitions)
	}
	if p.Move != nil {
		w.ends = slices.Clone(w.history.cuts[p.Move.Cut])
	}
	for i := range len(p.Crews) + 1 {
		if p.Move != nil && p.Move.Before == i {
			if err := move(); err != nil {
				return simResult{err: fmt.Errorf("move: %w", err)}
			}
			w.mu.Lock()
			w.ends = slices.Clone(w.history.main)
			w.mu.Unlock()
		}
		if i == len(p.Crews) {
			break
		}
		cp := p.Crews[i]
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
// up, and the layout changes. What is found, learned, assembled, queued to be told and buried is what a
// process leaves that nothing befell.
//
// The owners are the real ones, in the time of a synctest bubble; only Kafka and
// Postgres are in memory. TestKilled does the like, some hundred times slower, with
// those. That the undisturbed run itself finds what it should is for the reference
// models of detect/correlate and incident.
func TestSimulation(t *testing.T) {
	s := newSimulation(t)
	if !testing.Short() {
		t.Run("every call", s.reaches)
	}
	rapid.Check(t, func(rt *rapid.T) {
		p := simPlans.Draw(rt, "plan")
		if d := s.differ(p, s.run(p, nil)); d != "" {
			rt.Fatal(d)
		}
	})
}

// reaches runs plans that are always the same, and wants every call to have failed,
// and everything to have been done that is not done always.
func (s *simulation) reaches(t *testing.T) {
	for seed := range 80 {
		p := simPlans.Example(seed)
		if d := s.differ(p, s.run(p, nil)); d != "" {
			t.Errorf("plan %d: %s", seed, d)
		}
	}
	for op := range numOps {
		var kinds []int64
		total := int64(0)
		for k := range numKinds {
			n := s.metrics.faults[op][k].Load()
			kinds = append(kinds, n)
			total += n
		}
		t.Logf("call %d: %d", op, kinds)
		if total == 0 && op != opAskRewind { // nobody asks if nothing acknowledged is lost
			t.Errorf("call %d never went wrong", op)
		}
	}
	m := s.metrics.correlate
	for what, c := range map[string]prometheus.Counter{
		"commits that were fenced": m.Commits.WithLabelValues("fenced"), "commits that failed": m.Commits.WithLabelValues("failed"),
		"repeats": m.Sections.WithLabelValues(correlate.Repeat.String()), "restarts": m.Restarts,
		"snapshots used": m.Snapshots.WithLabelValues("used"), "snapshots refused": m.Snapshots.WithLabelValues("refused"),
	} {
		n := testutil.ToFloat64(c)
		t.Logf("%v %s", n, what)
		if n == 0 {
			t.Errorf("no %s", what)
		}
	}
	if n := testutil.ToFloat64(m.Mismatches); n > 0 {
		t.Errorf("%v windows could not be rebuilt", n)
	}
}
