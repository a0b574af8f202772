package stream_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// shared is who works on what, as the members say.
type shared struct {
	mu      sync.Mutex
	work    map[string]map[int32]int // by member: how often work was begun on a partition
	at      map[string]map[int32]bool
	changed chan struct{}
}

func newShared() *shared {
	return &shared{work: map[string]map[int32]int{}, at: map[string]map[int32]bool{}, changed: make(chan struct{})}
}

func (s *shared) begin(member string, p int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work[member] == nil {
		s.work[member], s.at[member] = map[int32]int{}, map[int32]bool{}
	}
	s.work[member][p]++
	s.at[member][p] = true
	s.wake()
}

func (s *shared) end(member string, p int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at[member], p)
	s.wake()
}

func (s *shared) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// until waits until the members work on all partitions, in shares of these sizes.
func (s *shared) until(t *testing.T, partitions int, shares map[string]int) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		got := map[string][]int32{}
		owners := map[int32]int{}
		for m, ps := range s.at {
			if len(ps) > 0 {
				got[m] = slices.Sorted(maps.Keys(ps))
			}
			for p := range ps {
				owners[p]++
			}
		}
		ok := len(owners) == partitions
		for _, n := range owners {
			ok = ok && n == 1
		}
		for m, n := range shares {
			ok = ok && len(got[m]) == n
		}
		changed := s.changed
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("at work: %v, want shares of %v", got, shares)
		}
	}
}

// member joins until stop is called.
func member(t *testing.T, c *stream.Client, s *shared, name string, o stream.GroupOptions) (stop func()) {
	t.Helper()
	o.ID, o.Topic, o.Logger = cmp.Or(o.ID, "sharing"), cmp.Or(o.Topic, "shared"), slog.New(slog.DiscardHandler)
	return join(t, c, o, func(ctx context.Context, l *stream.Lease) error {
		if err := l.Confirm(ctx); err != nil {
			return err
		}
		s.begin(name, l.Partition)
		defer s.end(name, l.Partition)
		<-ctx.Done()
		return nil
	})
}

// join makes a member that does work until stop is called.
func join(t *testing.T, c *stream.Client, o stream.GroupOptions, work func(context.Context, *stream.Lease) error) (stop func()) {
	t.Helper()
	g, err := c.NewGroup(o)
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx(t))
	done := make(chan error, 1)
	go func() { done <- g.Run(run, work) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func groupBroker(t *testing.T, partitions int) (*devbroker.Broker, *stream.Client) {
	t.Helper()
	b, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour, MinSession: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	c := client(t, stream.Config{Brokers: []string{b.Addr()}, MetadataAge: 100 * time.Millisecond})
	ensure(t, c, stream.Topic{Name: "shared", Partitions: partitions})
	return b, c
}

func TestGroupShares(t *testing.T) {
	_, c := groupBroker(t, 4)
	groupShares(t, c, stream.GroupOptions{Heartbeat: 50 * time.Millisecond})
}

func groupShares(t *testing.T, c *stream.Client, o stream.GroupOptions) {
	s := newShared()
	stopA := member(t, c, s, "a", o)
	defer stopA()
	s.until(t, 4, map[string]int{"a": 4})
	stopB := member(t, c, s, "b", o)
	defer stopB()
	s.until(t, 4, map[string]int{"a": 2, "b": 2})
	stopC := member(t, c, s, "c", o)
	defer stopC()
	s.until(t, 4, map[string]int{"c": 1})

	// One leaves: what it had is with the others long before its session ends.
	began := time.Now()
	stopB()
	s.until(t, 4, map[string]int{"b": 0})
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the hand-over took %v", took)
	}
	stopC()
	s.until(t, 4, map[string]int{"a": 4})
	stopA()

	// a began anew only what had been away.
	s.mu.Lock()
	defer s.mu.Unlock()
	begun := 0
	for _, n := range s.work["a"] {
		begun += n
	}
	if begun > 9 {
		t.Errorf("a began work %d times: %v; it is to go on while the group changes", begun, s.work["a"])
	}
	for m, ps := range s.at {
		if len(ps) > 0 {
			t.Errorf("%s is still at work on %v", m, ps)
		}
	}
}

// TestGroupMemberLost: what a member holds that has lost touch goes to the others.
// It goes on meanwhile, as far as it is let, but nothing is confirmed to it.
func TestGroupMemberLost(t *testing.T) {
	_, c := groupBroker(t, 4)
	groupMemberLost(t, c, stream.GroupOptions{Heartbeat: 50 * time.Millisecond, Session: time.Second})
}

func groupMemberLost(t *testing.T, c *stream.Client, o stream.GroupOptions) {
	s := newShared()
	stopA := member(t, c, s, "a", o)
	defer stopA()
	s.until(t, 4, map[string]int{"a": 4})

	o.ID, o.Topic, o.Logger = cmp.Or(o.ID, "sharing"), cmp.Or(o.Topic, "shared"), slog.New(slog.DiscardHandler)
	b, err := c.NewGroup(o)
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx(t))
	leases := make(chan *stream.Lease, 4)
	done := make(chan error, 1)
	go func() {
		done <- b.Run(run, func(ctx context.Context, l *stream.Lease) error {
			leases <- l
			<-ctx.Done()
			return nil
		})
	}()
	l := <-leases
	s.until(t, 2, map[string]int{"a": 2})
	if err := l.Confirm(ctx(t)); err != nil {
		t.Fatal(err)
	}
	b.Sever()
	s.until(t, 4, map[string]int{"a": 4})
	short, stop := context.WithTimeout(ctx(t), 100*time.Millisecond)
	defer stop()
	if err := l.Confirm(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lost member is confirmed in what it had: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWorkComesBack: work that ends although the partition is still this
// member's is begun again, and the state says meanwhile what was wrong.
func TestWorkComesBack(t *testing.T) {
	_, c := groupBroker(t, 1)
	failed := errors.New("fenced by a straggler")
	var mu sync.Mutex
	var states []error
	g, err := c.NewGroup(stream.GroupOptions{
		ID: "sharing", Topic: "shared", Logger: slog.New(slog.DiscardHandler),
		State: func(p int32, err error) {
			mu.Lock()
			defer mu.Unlock()
			if p == 0 {
				states = append(states, err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx(t))
	defer cancel()
	n := 0
	if err := g.Run(run, func(ctx context.Context, _ *stream.Lease) error {
		if n++; n < 3 {
			return failed
		}
		cancel()
		<-ctx.Done()
		return nil
	}); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []error{nil, failed, nil, failed, nil}; len(states) < len(want) || !slices.Equal(states[:len(want)], want) {
		t.Errorf("states %v, want %v", states, want)
	}
}

// TestGroupHandsBack: of two versions of a program each can work on stretches of
// every partition only. What one is unfit for goes to the other, as often as it takes;
// and a lone member that is unfit tries, but does not have the group share out
// partitions again and again.
func TestGroupHandsBack(t *testing.T) {
	_, c := groupBroker(t, 3)
	groupHandsBack(t, c, stream.GroupOptions{Heartbeat: 50 * time.Millisecond})
}

func groupHandsBack(t *testing.T, c *stream.Client, o stream.GroupOptions) {
	o.ID, o.Topic, o.Logger = "versions", "shared", slog.New(slog.DiscardHandler)
	o.Metrics = stream.NewGroupMetrics(nil)
	const stretches = 3 // of the old version, the new one, and the old one again
	var mu sync.Mutex
	at := map[int32]int{}
	refused := map[string]int{}
	end := make(chan int32, 3)
	version := func(name string, speaks int) (stop func()) {
		return join(t, c, o, func(ctx context.Context, l *stream.Lease) error {
			if err := l.Confirm(ctx); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for ; at[l.Partition] < stretches; at[l.Partition]++ {
				if at[l.Partition]%2 != speaks {
					refused[name]++
					return fmt.Errorf("stretch %d: %w", at[l.Partition], stream.ErrUnfit)
				}
			}
			select {
			case end <- l.Partition:
			default:
			}
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			return nil
		})
	}
	stopNew := version("new", 1)
	defer stopNew()
	tries := func() int {
		mu.Lock()
		defer mu.Unlock()
		return refused["new"]
	}
	for tries() < 3*4 && ctx(t).Err() == nil { // alone it tries each partition several times
		time.Sleep(time.Millisecond)
	}
	if n := testutil.ToFloat64(o.Metrics.Generations.WithLabelValues(o.ID)); n > 3*4 {
		t.Errorf("%v generations of a lone member that tried %d times", n, tries())
	}
	defer version("old", 0)()
	reached := map[int32]bool{}
	for len(reached) < 3 {
		select {
		case p := <-end:
			reached[p] = true
		case <-ctx(t).Done():
			mu.Lock()
			t.Fatalf("stretches %v, refused %v", at, refused)
		}
	}
	t.Logf("refused %v in %v generations", refused, testutil.ToFloat64(o.Metrics.Generations.WithLabelValues(o.ID)))
}

// TestGroupWithoutKafka: joining is tried until it is told to stop, and stops at once.
func TestGroupWithoutKafka(t *testing.T) {
	c := client(t, stream.Config{Brokers: []string{"127.0.0.1:1"}, DialTimeout: time.Second})
	told := make(chan error, 100)
	g, err := c.NewGroup(stream.GroupOptions{
		ID: "sharing", Topic: "shared", Logger: slog.New(slog.DiscardHandler),
		State: func(p int32, err error) {
			if p == stream.WholeGroup && stream.Retriable(err) {
				told <- err
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- g.Run(run, func(context.Context, *stream.Lease) error { return nil }) }()
	select {
	case <-told:
	case <-run.Done():
		t.Error("State was not told why")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestGroupMemberGoneWhileJoining: one whose connections break while its join has
// not been answered is no member for long.
func TestGroupMemberGoneWhileJoining(t *testing.T) {
	_, c := groupBroker(t, 4)
	groupMemberGoneJoining(t, c, "shared", stream.GroupOptions{Heartbeat: 300 * time.Millisecond, Session: time.Second})
}

func groupMemberGoneJoining(t *testing.T, c *stream.Client, topic string, o stream.GroupOptions) {
	o.ID, o.Topic = "joining "+topic, topic
	s := newShared()
	stop := member(t, c, s, "stays", o)
	defer stop()
	s.until(t, 4, map[string]int{"stays": 4})

	g, err := c.NewGroup(stream.GroupOptions{ID: o.ID, Topic: topic, Session: o.Session, Leave: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx(t))
	done := make(chan error, 1)
	go func() {
		done <- g.Run(run, func(ctx context.Context, _ *stream.Lease) error {
			<-ctx.Done()
			return nil
		})
	}()
	for g.Connections() == 0 && run.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // the other hears of it at its next heartbeat: the join waits until then
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	changed := s.changed
	s.mu.Unlock()
	select {
	case <-changed: // what went to the one that is gone comes back
	case <-time.After(2 * time.Second):
	}
	s.until(t, 4, map[string]int{"stays": 4})
}

// TestGroupSharesAddedPartitions: partitions that a topic is given later are
// shared out as well, whoever leads the group, and nothing else is disturbed.
func TestGroupSharesAddedPartitions(t *testing.T) {
	_, c := groupBroker(t, 2)
	groupSharesAdded(t, c, "shared", stream.GroupOptions{Heartbeat: 50 * time.Millisecond, Watch: 50 * time.Millisecond})
}

func groupSharesAdded(t *testing.T, c *stream.Client, topic string, o stream.GroupOptions) {
	o.ID, o.Topic = "sharing "+topic, topic
	s := newShared()
	stopA := member(t, c, s, "a", o)
	defer stopA()
	s.until(t, 2, map[string]int{"a": 2})
	stopB := member(t, c, s, "b", o)
	defer stopB()
	s.until(t, 2, map[string]int{"a": 1, "b": 1})
	if err := c.AddPartitions(ctx(t), topic, 6); err != nil {
		t.Fatal(err)
	}
	s.until(t, 6, map[string]int{"a": 3, "b": 3})
	s.mu.Lock()
	for m, ps := range s.work {
		for p, n := range ps {
			if p >= 2 && n > 1 {
				t.Errorf("%s began work on %d %d times", m, p, n)
			}
		}
	}
	s.mu.Unlock()
	stopA() // who led is gone: the other looks from now on
	s.until(t, 6, map[string]int{"b": 6})
	if err := c.AddPartitions(ctx(t), topic, 7); err != nil {
		t.Fatal(err)
	}
	s.until(t, 7, map[string]int{"b": 7})
}
