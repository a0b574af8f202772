package correlate_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/stream"
)

const ownerRules = `
title: Request
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000001
name: request
status: test
level: informational
logsource: {product: vedette, service: aws.apigateway}
detection: {sel: {layer: gateway}, condition: sel}
---
title: Report
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000002
name: report
status: test
level: informational
logsource: {product: vedette, service: aws.lambda}
detection: {sel: {layer: function}, condition: sel}
---
title: Many
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000003
status: test
level: medium
correlation: {type: event_count, rules: [request], group-by: [src_endpoint.ip], timespan: 5m, condition: {gte: 6}}
---
title: Few
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000004
status: test
level: medium
correlation: {type: event_count, rules: [request], group-by: [src_endpoint.ip], timespan: 10m, condition: {lt: 2}}
---
title: Values
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000005
status: test
level: medium
correlation: {type: value_count, rules: [request], group-by: [src_endpoint.ip], timespan: 10m, condition: {field: gateway.route, gte: 5}}
---
title: New
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000006
status: test
level: medium
correlation: {type: vedette.new_value, rules: [request], group-by: [actor.user.uid], condition: {field: src_endpoint.location.country}, vedette: {learning: 2h, forget: 10d}}
---
title: Slow
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000007
status: test
level: medium
correlation: {type: vedette.baseline, rules: [report], group-by: [function.name], timespan: 10m, vedette: {measure: p95, field: duration, learning: 1h, min_volume: 3, min_buckets: 4, factor: 3, deviations: 4, floor: 100}}
---
title: Orphan
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000008
status: test
level: medium
correlation: {type: vedette.unmatched, rules: [report, request], group-by: [function.name], timespan: 5m, vedette: {before: 1m, hold: 1h, join: {report: [function.request_id], request: [gateway.integration_request_id]}}}
`

func ruleSet(t testing.TB, text string) *rule.Set {
	t.Helper()
	set, _, err := rule.FromSources(map[string][]byte{"r.yml": []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// partition is one partition of vedette.observations in memory, with the
// sections that match would write again when asked.
type partition struct {
	mu       sync.Mutex
	log      []stream.Record
	first    int64
	written  map[detect.Source][]detect.Section
	changed  chan struct{}
	fail     func(op string) (before, after error)
	sets     map[string]*rule.Set
	rewinds  int
	ledger   correlate.Ledger
	position int64 // of the last checkpoint committed
}

func (p *partition) fault(op string) (before, after error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail == nil {
		return nil, nil
	}
	return p.fail(op)
}

func (p *partition) append(secs ...detect.Section) {
	p.log = append(p.log, stream.Record{Offset: int64(len(p.log)), Value: detect.AppendBatch(nil, secs)})
}

func (p *partition) Acquire(ctx context.Context, n int32) (correlate.Checkpoint, error) {
	before, after := p.fault("acquire")
	if before != nil {
		return correlate.Checkpoint{}, before
	}
	cp, err := p.ledger.Acquire(ctx, n)
	return cp, errors.Join(err, after)
}

func (p *partition) Commit(ctx context.Context, c correlate.Commit) error {
	time.Sleep(time.Millisecond)
	before, after := p.fault("commit")
	if before != nil {
		return before
	}
	if err := p.ledger.Commit(ctx, c); err != nil {
		return err
	}
	p.mu.Lock()
	p.position = c.Mark.Position
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	return after
}

func (p *partition) Rules(_ context.Context, digest string) (*rule.Set, error) {
	if s := p.sets[digest]; s != nil {
		return s, nil
	}
	return nil, errors.New("no such generation")
}

// rewind writes the sections of a source from next on again, as one.
func (p *partition) rewind(s detect.Source, next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rewinds++
	for _, sec := range p.written[s] {
		if sec.To > next {
			p.append(sec)
		}
	}
}

type partitionReader struct {
	p    *partition
	next int64
	rnd  *rand.Rand
}

func (r *partitionReader) Read(ctx context.Context) (stream.Batch, error) {
	time.Sleep(2 * time.Millisecond) // of the bubble's time, so that there are instants to be killed at
	if before, _ := r.p.fault("read"); before != nil {
		return stream.Batch{}, before
	}
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.next < r.p.first {
		gap := &stream.GapError{From: r.next, To: r.p.first}
		r.next = r.p.first
		return stream.Batch{}, gap
	}
	end := int64(len(r.p.log))
	if r.next > end {
		return stream.Batch{}, stream.ErrTruncated
	}
	n := min(int64(1+r.rnd.IntN(9)), end-r.next)
	if n == 0 {
		r.p.mu.Unlock()
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
		}
		r.p.mu.Lock()
		return stream.Batch{Next: r.next, End: int64(len(r.p.log))}, ctx.Err()
	}
	b := stream.Batch{Records: r.p.log[r.next : r.next+n], Next: r.next + n, End: end}
	r.next = b.Next
	return b, nil
}

func newPartition(sets map[string]*rule.Set) *partition {
	return &partition{
		written: make(map[detect.Source][]detect.Section), changed: make(chan struct{}), sets: sets, ledger: correlate.NewMemoryLedger(8),
	}
}

func (p *partition) options(seed uint64) correlate.OwnerOptions {
	rnd := rand.New(rand.NewPCG(seed, 77))
	return correlate.OwnerOptions{
		Engine: correlate.Options{Sources: 2, EvidenceLimit: 8},
		Open:   func(offset int64) correlate.PartitionReader { return &partitionReader{p, offset, rnd} },
		Ledger: p, Generations: p, Rewind: p.rewind,
		CommitEvery: 20 * time.Millisecond, MarkEvery: 30 * time.Millisecond, FindingDelay: 5 * time.Millisecond, MaxRows: 20,
		Logger: slog.New(slog.DiscardHandler), Metrics: correlate.NewMetrics(nil),
	}
}

// done waits until the whole log is in the ledger.
func (p *partition) done(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Hour); ; {
		p.mu.Lock()
		ok, changed := p.position == int64(len(p.log)), p.changed
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			t.Fatal("waited an hour")
		}
	}
}

func run(t *testing.T, o correlate.OwnerOptions) (stop func() error) {
	t.Helper()
	owner, err := correlate.NewOwner(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- owner.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// effects is what is promised to be the same: findings and profiles.
func (p *partition) effects(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, f := range p.ledger.(*correlate.MemoryLedger).Findings() {
		all = append(all, fmt.Sprintf("%+v", f))
	}
	cp, err := p.ledger.Acquire(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range cp.Pages {
		all = append(all, fmt.Sprintf("page %s %d %x", page.RuleVersion, page.Number, page.Data))
	}
	return all
}

// generate writes ten hours of sections from two sources: bursts, quiet keys,
// new countries, slow functions, invocations that no request asked for, and a
// change of generation.
func (p *partition) generate(rnd *rand.Rand, set *rule.Set) {
	byTitle := make(map[string]*rule.Rule)
	for _, r := range set.Rules {
		byTitle[r.Title] = r
	}
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var next [2]int64
	for tick := range 1200 {
		now := start.Add(time.Duration(tick) * 30 * time.Second)
		s := rnd.IntN(2)
		if tick%6 == 0 {
			s = tick / 6 % 2 // so that both go on
		}
		src := detect.Source{Incarnation: 1, Partition: int32(s)}
		from := next[s]
		n := int64(1 + rnd.IntN(6))
		var b detect.SectionBuilder
		add := func(title, key, label string, ref uint8, number float64, off int64, at time.Time) {
			b.Add("default", byTitle[title].Version, detect.AppendKey(nil, []byte(key)), detect.Observation{
				Pointer: detect.Pointer{Source: src, Offset: off, CRC: uint32(off)}, Time: at.UnixNano(), Stamp: now.UnixNano(),
				IDHash: rnd.Uint64() >> rnd.IntN(2) * uint64(1+rnd.IntN(2)), Ref: ref, Number: number, Label: label,
			})
		}
		burst := tick/40%5 == 2
		for off := from; off < from+n; off++ {
			at := now.Add(-time.Duration(rnd.IntN(100)) * time.Second)
			ip := fmt.Sprintf("192.0.2.%d", rnd.IntN(6))
			if burst {
				ip = "192.0.2.7"
			}
			add("Many", ip, "", 0, 0, off, at)
			add("Few", ip, "", 0, 0, off, at)
			add("Values", ip, fmt.Sprintf("GET /%d", rnd.IntN(8)), 0, 0, off, at)
			country := "FR"
			if rnd.IntN(60) == 0 {
				country = fmt.Sprintf("X%d", rnd.IntN(20))
			}
			add("New", fmt.Sprintf("user%d", rnd.IntN(3)), country, 0, 0, off, at)
			ms := 100 + rnd.Float64()*20
			if tick/100%4 == 3 {
				ms *= 8
			}
			add("Slow", fmt.Sprintf("fn%d", rnd.IntN(2)), "", 0, ms, off, at)
			id := fmt.Sprintf("req%d-%d", s, off)
			add("Orphan", id, string(detect.AppendKey(nil, []byte("fn1"))), 0, 0, off, at)
			if rnd.IntN(20) != 0 {
				add("Orphan", id, "", 1, 0, off, at.Add(time.Second))
			}
		}
		gen := "g0"
		if tick > 500+100*s {
			gen = "g1"
		}
		sec := detect.Section{
			Source: src, From: from, To: from + n, Generation: gen, Clock: now.UnixNano(), Groups: b.Groups(),
			Seen: []detect.Seen{{Type: "aws.apigateway", Time: now.UnixNano()}, {Type: "aws.lambda", Time: now.UnixNano()}},
		}
		next[s] = sec.To
		p.written[src] = append(p.written[src], sec)
		p.append(sec)
		if rnd.IntN(10) == 0 {
			p.append(sec) // a repeat
		}
	}
}

// compare fails the test unless got and want are the same set.
func compare(t *testing.T, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if slices.Equal(got, want) {
		return
	}
	shown := 0
	show := func(what string, a, b []string) {
		for _, x := range a {
			if _, ok := slices.BinarySearch(b, x); !ok && shown < 6 {
				t.Errorf("%s: %.300s", what, x)
				shown++
			}
		}
	}
	show("missing", want, got)
	show("unexpected", got, want)
	t.Errorf("%d effects, want %d", len(got), len(want))
}

func generations(t testing.TB) map[string]*rule.Set {
	docs := ownerRules
	old := docs[:bytes.Index([]byte(docs), []byte("---\ntitle: Slow"))] + docs[bytes.Index([]byte(docs), []byte("---\ntitle: Orphan")):]
	return map[string]*rule.Set{"g0": ruleSet(t, docs), "g1": ruleSet(t, old)}
}

// TestOwnerKilled: owners are killed at random instants, overlap, lose answers
// and sections, and go on from snapshots, damaged ones among them; findings and
// profiles are those of an owner that nothing befell.
func TestOwnerKilled(t *testing.T) {
	sets := generations(t)
	metrics := correlate.NewMetrics(nil)
	defer func() {
		for _, outcome := range []string{"written", "used", "refused"} {
			if testutil.ToFloat64(metrics.Snapshots.WithLabelValues(outcome)) == 0 {
				t.Errorf("no snapshot was %s", outcome)
			}
		}
	}()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				quiet := newPartition(sets)
				quiet.generate(rand.New(rand.NewPCG(seed, 1)), sets["g0"])
				stop := run(t, quiet.options(seed))
				quiet.done(t)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				want := quiet.effects(t)
				if len(want) < 50 {
					t.Fatalf("only %d effects: the load tests nothing", len(want))
				}

				p := newPartition(sets)
				p.generate(rand.New(rand.NewPCG(seed, 1)), sets["g0"])
				rnd := rand.New(rand.NewPCG(seed, 2))
				// Some messages get lost on the way, one is garbage.
				for range 3 {
					i := rnd.IntN(len(p.log))
					p.log[i].Value = []byte("garbage")
				}
				faults := rand.New(rand.NewPCG(seed, 3))
				p.fail = func(op string) (before, after error) {
					err := errors.New(op + " failed")
					if op == "read" {
						err = context.DeadlineExceeded
						if faults.IntN(40) == 0 {
							return err, nil
						}
						return nil, nil
					}
					switch faults.IntN(15) {
					case 0:
						return err, nil
					case 1:
						return nil, err
					}
					return nil, nil
				}
				dir := t.TempDir()
				options := func(seed uint64) correlate.OwnerOptions {
					o := p.options(seed)
					o.Metrics = metrics
					if rnd.IntN(4) > 0 {
						o.Snapshots, o.SnapshotEvery, o.SnapshotAtStop = openSnapshots(t, dir), 50*time.Millisecond, rnd.IntN(3) == 0
					}
					return o
				}
				var stops []func() error
				for range 25 {
					if rnd.IntN(4) == 0 {
						damage(t, dir, rnd)
					}
					stops = append(stops, run(t, options(rnd.Uint64())))
					time.Sleep(time.Duration(rnd.IntN(120)) * time.Millisecond) // of the bubble's time
					if len(stops) > rnd.IntN(3) {
						if err := stops[0](); err != nil && !errors.Is(err, correlate.ErrFenced) {
							t.Fatal(err)
						}
						stops = stops[1:]
					}
				}
				stops = append(stops, run(t, options(1)))
				p.mu.Lock()
				p.fail = nil
				p.mu.Unlock()
				p.done(t)
				time.Sleep(time.Minute) // rewinds asked for last
				p.done(t)
				for _, stop := range stops {
					if err := stop(); err != nil && !errors.Is(err, correlate.ErrFenced) {
						t.Fatal(err)
					}
				}
				if p.rewinds == 0 {
					t.Error("no rewind was asked for: the loss was not seen")
				}
				compare(t, p.effects(t), want)
			})
		})
	}
}

func TestVectorNext(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		src := detect.Source{Incarnation: 1, Partition: 1}
		p.append(detect.Section{Source: src, From: 0, To: 7, Generation: "g0", Clock: 1})
		stop := run(t, p.options(1))
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		cp, err := p.ledger.Acquire(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			state []byte
			src   detect.Source
			want  int64
		}{{cp.Mark.State, src, 7}, {cp.Mark.State, detect.Source{Partition: 9}, 0}, {nil, src, 0}} {
			if n, err := correlate.VectorNext(tc.state, tc.src); err != nil || n != tc.want {
				t.Errorf("next of %v is %d (%v), want %d", tc.src, n, err, tc.want)
			}
		}
		if _, err := correlate.VectorNext([]byte("garbage"), src); err == nil {
			t.Error("garbage was read as a state")
		}
	})
}

// TestOwnerAsksBeforeItTakesOver: without the group's word nothing is taken over,
// after a failure neither.
func TestOwnerAsksBeforeItTakesOver(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		o := p.options(1)
		confirm, asked := make(chan struct{}), 0
		o.Confirm = func(ctx context.Context) error {
			asked++
			select {
			case <-confirm:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		acquired := 0
		p.fail = func(op string) (before, after error) {
			if op == "acquire" {
				if acquired++; acquired == 1 {
					return errors.New("away"), nil
				}
			}
			return nil, nil
		}
		stop := run(t, o)
		synctest.Wait()
		if acquired != 0 {
			t.Error("taken over unasked")
		}
		confirm <- struct{}{}
		time.Sleep(time.Minute) // of the bubble's time
		synctest.Wait()
		if acquired != 1 || asked != 2 {
			t.Errorf("taken over %d times, asked %d times; want 1 and 2", acquired, asked)
		}
		close(confirm)
		p.append(detect.Section{Source: detect.Source{Incarnation: 1}, To: 1, Generation: "g0", Clock: 1})
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

type rewinder struct {
	asked []string
	fail  int
}

func (r *rewinder) AskRewind(_ context.Context, s detect.Source, next int64) error {
	if r.fail > 0 {
		r.fail--
		return errors.New("away")
	}
	r.asked = append(r.asked, fmt.Sprintf("%d:%d", s.Partition, next))
	return nil
}

func TestRewindsGetThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &rewinder{fail: 3}
		r := correlate.NewRewinds(to, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		r.Ask(detect.Source{Partition: 1}, 9)
		synctest.Wait()
		r.Ask(detect.Source{Partition: 1}, 12)
		r.Ask(detect.Source{Partition: 1}, 5) // the least counts
		time.Sleep(time.Minute)               // of the bubble's time
		r.Ask(detect.Source{Partition: 2}, 7)
		synctest.Wait()
		if want := []string{"1:5", "2:7"}; !slices.Equal(to.asked, want) {
			t.Errorf("asked for %v, want %v", to.asked, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOwnerStopsWhenFenced(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		owner, err := correlate.NewOwner(p.options(1))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- owner.Run(t.Context()) }()
		synctest.Wait()
		if _, err := p.ledger.Acquire(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		p.append(detect.Section{Source: detect.Source{Incarnation: 1}, To: 1, Generation: "g0", Clock: 1})
		p.mu.Unlock()
		if err := <-done; !errors.Is(err, correlate.ErrFenced) {
			t.Errorf("error %v, want ErrFenced", err)
		}
	})
}

func TestOwnerRefusesTruncatedLog(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		for i := range int64(10) {
			p.append(detect.Section{Source: detect.Source{Incarnation: 1}, From: i, To: i + 1, Generation: "g0", Clock: i})
		}
		stop := run(t, p.options(1))
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		p.log = p.log[:5]
		owner, err := correlate.NewOwner(p.options(1))
		if err != nil {
			t.Fatal(err)
		}
		if err := owner.Run(t.Context()); !errors.Is(err, stream.ErrTruncated) {
			t.Errorf("error %v, want ErrTruncated", err)
		}
	})
}

// TestOwnerSaysWhenItCannotRebuild: messages that a rebuild needs are gone.
func TestOwnerSaysWhenItCannotRebuild(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		p.generate(rand.New(rand.NewPCG(1, 1)), sets["g0"])
		p.log = p.log[:600]
		stop := run(t, p.options(1))
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		p.first = 590
		o := p.options(1)
		stop = run(t, o)
		p.append(detect.Section{Source: detect.Source{Incarnation: 9}, To: 1, Generation: "g0", Clock: 1})
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := testutil.ToFloat64(o.Metrics.Mismatches); n != 1 {
			t.Errorf("%v mismatches counted, want 1", n)
		}
		if n := testutil.ToFloat64(o.Metrics.Lost); n == 0 {
			t.Error("no lost messages counted")
		}
		if p.rewinds != 0 {
			t.Errorf("%d rewinds, want none: the checkpoint's vector holds", p.rewinds)
		}
	})
}

func TestMarksAreDropped(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		p.generate(rand.New(rand.NewPCG(1, 1)), sets["g0"])
		o := p.options(1)
		o.MarkEvery, o.CommitEvery = time.Millisecond, time.Millisecond
		stop := run(t, o)
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		cp, err := p.ledger.Acquire(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(cp.Marks) < 2 {
			t.Fatalf("%d marks, want some", len(cp.Marks))
		}
		if !slices.IsSortedFunc(cp.Marks, func(a, b correlate.Mark) int { return cmp.Compare(a.Position, b.Position) }) {
			t.Error("marks are not in order")
		}
		if cp.Marks[0].Position == 0 || cp.Mark.Position-cp.Marks[0].Position > int64(len(p.log))*9/10 {
			t.Errorf("oldest mark at %d of %d: old ones are not dropped", cp.Marks[0].Position, len(p.log))
		}
	})
}
