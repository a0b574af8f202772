package match_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

const ownerRule = `
title: Denied calls
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000001
status: test
level: medium
logsource: {product: aws, service: cloudtrail}
detection:
  sel: {errorCode: AccessDenied}
  condition: sel
`

const ownerRule2 = `
title: Consoles
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000002
status: test
level: low
logsource: {product: aws, service: cloudtrail}
detection:
  sel: {eventName: ConsoleLogin}
  condition: sel
`

var base = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// world is a Kafka and a Postgres in memory: one topic of sources, one of
// observations, and the positions.
type world struct {
	mu        sync.Mutex
	logs      [][]stream.Record
	first     []int64 // first offset still held
	out       [][]stream.Record
	letters   []stream.DeadLetter
	positions map[int32]match.Position
	saves     int
	fail      func(op string) (before, after error) // nil: nothing fails
	rnd       *rand.Rand
	programs  map[string]*match.Program
	firstGen  string
	changed   chan struct{} // closed and replaced when something was written
}

func newWorld(t *testing.T, sources, partitions int) *world {
	t.Helper()
	w := &world{
		logs: make([][]stream.Record, sources), first: make([]int64, sources), out: make([][]stream.Record, partitions),
		positions: make(map[int32]match.Position), rnd: rand.New(rand.NewPCG(1, 2)),
		programs: make(map[string]*match.Program), changed: make(chan struct{}),
	}
	for i, text := range []string{ownerRule, ownerRule + "---" + ownerRule2} {
		set, _, err := rule.FromSources(map[string][]byte{"r.yml": []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		digest := fmt.Sprintf("generation-%d", i)
		w.programs[digest] = &match.Program{Digest: digest, Matcher: match.New(set)}
	}
	w.firstGen = "generation-0"
	return w
}

func (w *world) add(p int, stamp time.Time, m stream.LogMessage) {
	r, err := stream.EncodeLog(&m)
	if err != nil {
		panic(err)
	}
	r.Time, r.Offset = stamp, int64(len(w.logs[p]))
	w.logs[p] = append(w.logs[p], r)
}

// denied adds a record that the first rule counts; others add one it does not.
func (w *world) record(p int, stamp time.Time, at time.Time, name, code string) {
	id := fmt.Sprintf("e-%d-%d", p, len(w.logs[p]))
	w.add(p, stamp, stream.LogMessage{Type: string(event.TypeCloudTrail), Tenant: "default", Origin: "test", Value: fmt.Appendf(nil,
		`{"eventVersion":"1.08","eventID":%q,"eventTime":%q,"eventSource":"signin.amazonaws.com","eventName":%q,"awsRegion":"eu-west-1","sourceIPAddress":"192.0.2.1","errorCode":%q,"userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/u%d"},"recipientAccountId":"111122223333"}`,
		id, at.UTC().Format(time.RFC3339), name, code, len(w.logs[p])%5)})
}

func (w *world) fault(op string) (before, after error) {
	if w.fail == nil {
		return nil, nil
	}
	return w.fail(op)
}

func (w *world) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// until waits for a condition that writes may make true.
func (w *world) until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Hour); ; {
		w.mu.Lock()
		done, changed := ok(), w.changed
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			t.Fatal("waited an hour")
		}
	}
}

type worldReader struct {
	w    *world
	p    int32
	next int64
}

func (r *worldReader) Read(ctx context.Context) (stream.Batch, error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if before, _ := r.w.fault("read"); before != nil {
		return stream.Batch{}, before
	}
	log := r.w.logs[r.p]
	if first := r.w.first[r.p]; r.next < first {
		gap := &stream.GapError{Topic: "logs", Partition: r.p, From: r.next, To: first}
		r.next = first
		return stream.Batch{}, gap
	}
	n := min(1+r.w.rnd.IntN(7), len(log)-int(r.next))
	if n <= 0 {
		r.w.mu.Unlock()
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
		}
		r.w.mu.Lock()
		return stream.Batch{Next: r.next, End: int64(len(r.w.logs[r.p]))}, ctx.Err()
	}
	b := stream.Batch{Records: slices.Clone(log[r.next : int(r.next)+n]), Next: r.next + int64(n), End: int64(len(log))}
	r.next = b.Next
	return b, nil
}

func (w *world) Produce(_ context.Context, p int32, recs []stream.Record) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, after := w.fault("produce")
	if before != nil {
		return 0, before
	}
	w.out[p] = append(w.out[p], recs...)
	w.wake()
	return 0, after
}

func (w *world) DeadLetters(_ context.Context, ds []stream.DeadLetter) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, after := w.fault("letters")
	if before != nil {
		return before
	}
	w.letters = append(w.letters, ds...)
	return after
}

func (w *world) AcquireSource(_ context.Context, _ uint32, p int32) (match.Position, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, after := w.fault("acquire")
	if before != nil {
		return match.Position{}, before
	}
	pos := w.positions[p]
	pos.Epoch++
	w.positions[p] = pos
	return pos, after
}

func (w *world) SaveSource(_ context.Context, _ uint32, p int32, pos match.Position) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, after := w.fault("save")
	if before != nil {
		return before
	}
	if pos.Epoch != w.positions[p].Epoch {
		return match.ErrFenced
	}
	w.positions[p] = pos
	w.saves++
	w.wake()
	return after
}

func (w *world) Load(_ context.Context, digest string) (*match.Program, error) {
	if p := w.programs[digest]; p != nil {
		return p, nil
	}
	return nil, errors.New("no such generation")
}

func (w *world) First(context.Context) (string, error) { return w.firstGen, nil }

func (w *world) options() match.OwnerOptions {
	o := match.OwnerOptions{
		Incarnation: 1, Partitions: len(w.out), Observations: w, DeadLetters: w, Positions: w, Generations: w,
		Open:   func(p int32, offset int64) match.SourceReader { return &worldReader{w, p, offset} },
		Logger: slog.New(slog.DiscardHandler), Metrics: match.NewMetrics(nil),
	}
	for p := range w.logs {
		o.Sources = append(o.Sources, int32(p))
	}
	return o
}

// start runs an owner until stop is called, which returns Run's error.
func start(t *testing.T, o match.OwnerOptions) (owner *match.Owner, stop func() error) {
	t.Helper()
	owner, err := match.NewOwner(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- owner.Run(ctx) }()
	return owner, func() error {
		cancel()
		return <-done
	}
}

// saved tells whether all sources have been saved to their ends.
func (w *world) saved() bool {
	for p := range w.logs {
		if w.positions[int32(p)].Next != int64(len(w.logs[p])) {
			return false
		}
	}
	return true
}

// applied reads the sections the way correlate does and returns what they come
// to: observations by rule and event, and the vector. A gap is a failure.
type applied struct {
	next  map[detect.Source]int64
	obs   []string
	clock map[detect.Source]int64
	gens  []string
	gaps  int
}

func (w *world) apply(t *testing.T) []applied {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]applied, len(w.out))
	for p, recs := range w.out {
		a := &all[p]
		a.next, a.clock = make(map[detect.Source]int64), make(map[detect.Source]int64)
		for _, r := range recs {
			secs, err := detect.DecodeBatch(r.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range secs {
				next := a.next[s.Source]
				if s.From > next {
					a.gaps++
					continue
				}
				if s.To <= next {
					continue
				}
				for _, g := range s.Groups {
					for _, o := range g.Obs {
						if o.Offset >= next {
							a.obs = append(a.obs, fmt.Sprintf("%s %x %d/%d t%d s%d", g.RuleVersion, g.Key, o.Source.Partition, o.Offset, o.Time, o.Stamp))
						}
					}
				}
				a.next[s.Source], a.clock[s.Source] = s.To, s.Clock
				if n := len(a.gens); n == 0 || a.gens[n-1] != s.Generation {
					a.gens = append(a.gens, s.Generation)
				}
			}
		}
		slices.Sort(a.obs)
	}
	return all
}

func observations(all []applied) []string {
	var obs []string
	for _, a := range all {
		obs = append(obs, a.obs...)
	}
	slices.Sort(obs)
	return obs
}

func TestOwnerWritesEveryRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 3)
		denied := 0
		for i := range 200 {
			stamp := base.Add(time.Duration(i) * time.Second)
			code := ""
			if i%3 == 0 {
				code = "AccessDenied"
				denied++
			}
			w.record(i%2, stamp, stamp.Add(-time.Minute), "ConsoleLogin", code)
		}
		w.add(0, base.Add(300*time.Second), stream.LogMessage{Kind: stream.KindTick})
		o := w.options()
		_, stop := start(t, o)
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		all := w.apply(t)
		if got := observations(all); len(got) != denied {
			t.Errorf("%d observations, want %d", len(got), denied)
		}
		for p, a := range all {
			for s, log := range w.logs {
				id := detect.Source{Incarnation: 1, Partition: int32(s)}
				if a.gaps > 0 || a.next[id] != int64(len(log)) {
					t.Errorf("partition %d has source %d to %d with %d gaps, want %d", p, s, a.next[id], a.gaps, len(log))
				}
				if want := log[len(log)-1].Time.UnixNano(); a.clock[id] != want {
					t.Errorf("partition %d, source %d: clock %d, want %d", p, s, a.clock[id], want)
				}
			}
		}
		if n := testutil.ToFloat64(o.Metrics.Decoded); n != 200 {
			t.Errorf("%v records decoded, want 200", n)
		}
	})
}

// TestOwnerSurvivesFaults: whatever fails, and whatever answer is lost, correlate
// gets every observation once and never sees a gap; so with an owner that was
// replaced and does not know it yet.
func TestOwnerSurvivesFaults(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2, 3)
				w.rnd = rand.New(rand.NewPCG(seed, 7))
				for i := range 400 {
					stamp := base.Add(time.Duration(i) * 500 * time.Millisecond)
					switch p := w.rnd.IntN(2); w.rnd.IntN(12) {
					case 0:
						w.add(p, stamp, stream.LogMessage{Kind: stream.KindTick})
					case 1:
						w.add(p, stamp, stream.LogMessage{Kind: stream.KindProgress, Origin: "o", Type: "aws.cloudtrail", Through: stamp.Add(-time.Second)})
					case 2:
						w.add(p, stamp, stream.LogMessage{Value: []byte(`{"broken`)})
					case 3:
						w.add(p, stamp, stream.LogMessage{Kind: stream.KindGeneration, Generation: fmt.Sprintf("generation-%d", w.rnd.IntN(2))})
					default:
						w.record(p, stamp, stamp, []string{"ConsoleLogin", "GetUser"}[w.rnd.IntN(2)], []string{"", "AccessDenied"}[w.rnd.IntN(2)])
					}
				}
				quiet := &world{
					logs: w.logs, first: w.first, out: make([][]stream.Record, 3), positions: map[int32]match.Position{},
					rnd: rand.New(rand.NewPCG(3, 3)), programs: w.programs, firstGen: w.firstGen, changed: make(chan struct{}),
				}
				_, stop := start(t, quiet.options())
				quiet.until(t, quiet.saved)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				want := observations(quiet.apply(t))

				faults := rand.New(rand.NewPCG(seed, 9))
				w.fail = func(op string) (before, after error) {
					err := stream.ErrMessage
					switch op {
					case "read":
						if faults.IntN(20) == 0 {
							return context.DeadlineExceeded, nil
						}
						return nil, nil
					case "produce":
						err = &stream.ProduceError{Unknown: true, Err: context.DeadlineExceeded}
					}
					switch faults.IntN(12) {
					case 0:
						return err, nil
					case 1:
						return nil, err
					}
					return nil, nil
				}
				o := w.options()
				o.SaveEvery = 20 * time.Millisecond
				var stops []func() error
				pause := rand.New(rand.NewPCG(seed, 11))
				for range 8 {
					_, stop := start(t, o) // the earlier ones go on until they are fenced
					stops = append(stops, stop)
					time.Sleep(time.Duration(pause.IntN(300)) * time.Millisecond) // of the bubble's time
					if len(stops) > 2 {
						if err := stops[0](); err != nil && !errors.Is(err, match.ErrFenced) {
							t.Fatal(err)
						}
						stops = stops[1:]
					}
				}
				w.mu.Lock()
				w.fail = nil
				w.mu.Unlock()
				// Two that overlap may fence each other, one on either source; whoever runs
				// owners starts another then.
				for _, stop := range stops {
					if err := stop(); err != nil && !errors.Is(err, match.ErrFenced) {
						t.Fatal(err)
					}
				}
				_, stop = start(t, o)
				w.until(t, w.saved)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				all := w.apply(t)
				for p, a := range all {
					if a.gaps > 0 {
						t.Errorf("partition %d has %d gaps", p, a.gaps)
					}
				}
				if got := observations(all); !slices.Equal(got, want) {
					t.Errorf("%d observations, want %d, or others", len(got), len(want))
				}
				buried := make(map[string]bool)
				for _, d := range w.letters {
					buried[fmt.Sprintf("%d/%d", d.Partition, d.Offset)] = true
				}
				broken := 0
				for _, log := range w.logs {
					for _, r := range log {
						if string(r.Value) == `{"broken` {
							broken++
						}
					}
				}
				if len(buried) != broken {
					t.Errorf("%d dead letters, want %d", len(buried), broken)
				}
			})
		})
	}
}

func TestOwnerChangesGenerationAtTheControlRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.record(0, base, base, "ConsoleLogin", "")
		w.record(0, base, base, "ConsoleLogin", "AccessDenied")
		w.add(0, base, stream.LogMessage{Kind: stream.KindGeneration, Generation: "generation-1"})
		w.record(0, base, base, "ConsoleLogin", "")
		_, stop := start(t, w.options())
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		a := w.apply(t)[0]
		if want := []string{"generation-0", "generation-1"}; !slices.Equal(a.gens, want) {
			t.Errorf("generations %v, want %v", a.gens, want)
		}
		var at []string
		for _, o := range a.obs {
			at = append(at, strings.Fields(o)[2])
		}
		slices.Sort(at)
		if want := []string{"0/1", "0/3"}; !slices.Equal(at, want) {
			t.Errorf("observations of %v, want %v", at, want)
		}
		if g := w.positions[0].Generation; g != "generation-1" {
			t.Errorf("position names %s", g)
		}

		// The next owner goes on in that generation.
		w.record(0, base, base, "ConsoleLogin", "")
		_, stop = start(t, w.options())
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if a := w.apply(t)[0]; len(a.obs) != 3 {
			t.Errorf("%d observations, want 3", len(a.obs))
		}
	})
}

func TestOwnerIsNotReadyWithoutItsGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.record(0, base, base, "ConsoleLogin", "AccessDenied")
		w.add(0, base, stream.LogMessage{Kind: stream.KindGeneration, Generation: "generation-9"})
		w.record(0, base, base, "ConsoleLogin", "AccessDenied")
		_, stop := start(t, w.options())
		time.Sleep(time.Minute)
		w.mu.Lock()
		if next := w.positions[0].Next; next > 2 {
			t.Errorf("read on to %d without the rules", next)
		}
		w.programs["generation-9"] = w.programs["generation-1"]
		w.mu.Unlock()
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if a := w.apply(t)[0]; len(a.obs) != 3 || a.gaps > 0 {
			t.Errorf("%d observations and %d gaps, want 3 and none", len(a.obs), a.gaps)
		}
	})
}

func TestOwnerDeadLettersAndTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.add(0, base, stream.LogMessage{Type: "aws.cloudtrail", Origin: "push/x", Value: []byte(`{"eventID":`)})
		w.logs[0] = append(w.logs[0], stream.Record{
			Offset: 1, Time: base, Value: []byte("?"), Headers: []stream.Header{{Key: "kind", Value: []byte("rumour")}},
		})
		w.record(0, base, base.Add(24*time.Hour), "GetUser", "AccessDenied") // from the future
		w.record(0, base.Add(-time.Hour), base, "GetUser", "AccessDenied")   // stamped behind the one before
		o := w.options()
		_, stop := start(t, o)
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		reasons := make(map[string]int)
		for _, d := range w.letters {
			reasons[d.Reason]++
			if d.Partition != 0 || d.Detail == "" {
				t.Errorf("dead letter %+v", d)
			}
		}
		if want := map[string]int{"truncated": 1, "message": 1}; !maps.Equal(reasons, want) {
			t.Errorf("reasons %v, want %v", reasons, want)
		}
		a := w.apply(t)[0]
		capped := base.Add(time.Minute).UnixNano()
		if !strings.Contains(strings.Join(a.obs, "\n"), fmt.Sprintf("0/2 t%d s%d", capped, base.UnixNano())) {
			t.Errorf("the event from the future is not capped: %v", a.obs)
		}
		if !strings.Contains(strings.Join(a.obs, "\n"), fmt.Sprintf("0/3 t%d s%d", base.UnixNano(), base.UnixNano())) {
			t.Errorf("the stamp goes back: %v", a.obs)
		}
		if n := testutil.ToFloat64(o.Metrics.Future); n != 1 {
			t.Errorf("%v events from the future, want 1", n)
		}
	})
}

func TestOwnerStepsOverLostRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2)
		for range 20 {
			w.record(0, base, base, "GetUser", "AccessDenied")
		}
		w.first[0] = 12
		w.positions[0] = match.Position{Known: true, Next: 5, Generation: "generation-0"}
		o := w.options()
		_, stop := start(t, o)
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := testutil.ToFloat64(o.Metrics.Lost); n != 7 {
			t.Errorf("%v records lost, want 7", n)
		}
		for p, recs := range w.out {
			secs, err := detect.DecodeBatch(recs[0].Value)
			if err != nil || secs[0].From != 5 {
				t.Errorf("partition %d: first section %+v (%v), want one from 5", p, secs[0], err)
			}
		}
	})
}

func TestOwnerRewinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2)
		for i := range 300 {
			w.record(0, base.Add(time.Duration(i)*time.Second), base, "ConsoleLogin", "AccessDenied")
			if i == 100 {
				w.add(0, base.Add(100*time.Second), stream.LogMessage{Kind: stream.KindGeneration, Generation: "generation-1"})
			}
		}
		o := w.options()
		o.SaveEvery = time.Nanosecond
		_, stop := start(t, o)
		w.until(t, w.saved)
		want := observations(w.apply(t))

		// Everything that was written is lost, as is what the owner remembers.
		w.mu.Lock()
		w.out = make([][]stream.Record, 2)
		w.mu.Unlock()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		owner, stop := start(t, o)
		w.record(0, base.Add(time.Hour), base, "GetUser", "")
		w.until(t, w.saved)
		if gaps := w.apply(t)[0].gaps; gaps == 0 {
			t.Fatal("nothing was lost: the test tests nothing")
		}
		for _, next := range []int64{0, 0, 5} { // once is enough
			owner.Rewind(detect.Source{Incarnation: 1}, next)
		}
		owner.Rewind(detect.Source{Incarnation: 2}, 0) // not ours
		w.until(t, func() bool { return len(w.out[0]) > 0 && len(w.out[1]) > 0 && w.rewritten() })
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := observations(w.apply(t)); !slices.Equal(got, want) {
			t.Errorf("%d observations after the rewind, want %d, or others", len(got), len(want))
		}
		if n := testutil.ToFloat64(o.Metrics.Restarts.WithLabelValues("rewind")); n != 1 {
			t.Errorf("%v rewinds, want 1", n)
		}
	})
}

// rewritten tells whether every partition has a section from 0 and one to the end.
func (w *world) rewritten() bool {
	for _, recs := range w.out {
		var from0, toEnd bool
		for _, r := range recs {
			secs, _ := detect.DecodeBatch(r.Value)
			for _, s := range secs {
				from0 = from0 || s.From == 0
				toEnd = from0 && s.To == int64(len(w.logs[0]))
			}
		}
		if !toEnd {
			return false
		}
	}
	return true
}

type vectors int64

func (v vectors) LeastNext(context.Context, detect.Source) (int64, error) { return int64(v), nil }

func TestOwnerWithoutAPositionAsksCorrelate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.add(0, base, stream.LogMessage{Kind: stream.KindGeneration, Generation: "generation-1"})
		w.add(0, base, stream.LogMessage{Kind: stream.KindProgress, Origin: "o", Type: "aws.cloudtrail", Through: base})
		w.add(0, base, stream.LogMessage{Value: []byte(`{"broken`)})
		for range 20 {
			w.record(0, base, base, "ConsoleLogin", "")
		}
		o := w.options()
		o.Vectors = vectors(10)
		_, stop := start(t, o)
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		secs, err := detect.DecodeBatch(w.out[0][0].Value)
		if err != nil {
			t.Fatal(err)
		}
		s := secs[0]
		if s.From != 10 || s.Generation != "generation-1" || len(s.Progress) != 1 || len(s.Seen) != 1 {
			t.Errorf("first section %+v: want one from 10, in the generation and with the progress of the records before", s)
		}
		if len(w.letters) != 0 {
			t.Errorf("%d dead letters of records before, want none", len(w.letters))
		}
	})
}

func TestOwnerStopsWhenFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.record(0, base, base, "GetUser", "")
		o := w.options()
		owner, err := match.NewOwner(o)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- owner.Run(t.Context()) }()
		w.until(t, w.saved)
		if _, err := w.AcquireSource(t.Context(), 1, 0); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.record(0, base, base, "GetUser", "")
		w.mu.Unlock()
		if err := <-done; !errors.Is(err, match.ErrFenced) {
			t.Errorf("error %v, want ErrFenced", err)
		}
	})
}

// TestOwnerWaitsForTheSlowest: a source that is far ahead waits for one that has
// old records to read, and is not held back by one that has none.
func TestOwnerWaitsForTheSlowest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		for i := range 60 {
			w.record(0, base.Add(time.Duration(i)*time.Minute), base, "GetUser", "")
		}
		w.record(1, base, base, "GetUser", "")
		_, stop := start(t, w.options())
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		if next := w.positions[0].Next; next < 5 || next > 18 {
			t.Errorf("source 0 was read to %d, want about 10 min ahead of source 1", next)
		}
		w.add(1, base.Add(time.Hour), stream.LogMessage{Kind: stream.KindTick})
		w.mu.Unlock()
		w.until(t, func() bool { return w.positions[0].Next == 60 && w.positions[1].Next == 2 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOwnerRefusesTruncatedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.fail = func(op string) (error, error) {
			if op == "read" {
				return fmt.Errorf("read: %w", stream.ErrTruncated), nil
			}
			return nil, nil
		}
		owner, err := match.NewOwner(w.options())
		if err != nil {
			t.Fatal(err)
		}
		if err := owner.Run(t.Context()); !errors.Is(err, stream.ErrTruncated) {
			t.Errorf("error %v, want ErrTruncated", err)
		}
	})
}
