package correlate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

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
