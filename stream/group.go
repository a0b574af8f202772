package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// GroupOptions says which group to join and what it shares.
type GroupOptions struct {
	ID    string
	Topic string // whose partitions the members share

	Session   time.Duration // silence after which a member counts as gone; 10 s if zero
	Rebalance time.Duration // how long a change of members waits for those that do not answer; 15 s if zero
	Heartbeat time.Duration // how soon a member learns of a change; 1 s if zero, at most a third of Session
	Leave     time.Duration // how long leaving may take; 3 s if zero

	// State is told how things stand: of a partition, or of membership as such for
	// WholeGroup. A nil error says that all is well, or that it is no longer ours
	// to tell. nil: nobody asks.
	State   func(partition int32, err error)
	Metrics *GroupMetrics // may be nil
	Logger  *slog.Logger  // slog.Default if nil
}

// WholeGroup stands for no partition but membership in the group.
const WholeGroup int32 = -1

var errJoining = errors.New("joining")

// Group shares the partitions of a topic among processes, by the consumer group
// protocol. It only says who works on what. No offset is committed to it: places
// are kept by those who do the work, and fenced, so that it does no harm if two
// believe that a partition is theirs, as happens for a moment whenever it moves.
//
// Work goes on while the group changes, and stops only where the change took a
// partition away: what has state need not build it again each time that some
// other process comes or goes.
type Group struct {
	client *Client
	o      GroupOptions
	log    *slog.Logger

	mu    sync.Mutex
	held  map[int32]*holding
	claim claim // what the next join tells the others
	works sync.WaitGroup

	conns    map[net.Conn]struct{}
	severed  bool
	severing context.CancelFunc // ends dialling
	dialling context.Context
}

// holding is the work on one partition.
type holding struct {
	lease  *Lease
	cancel context.CancelFunc
	done   chan struct{}
}

// Lease is the right to work on a partition, as the group gave it.
type Lease struct {
	Partition int32

	mu      sync.Mutex
	current bool
	changed chan struct{} // closed and replaced when current changes
}

// Confirm waits until the group's present generation says that the partition is
// this member's, which it need not while the group is changing. Whoever is about
// to take the partition over from another asks first: one who has lost touch
// with the group goes on with what it has until it is fenced, and then stays out.
func (l *Lease) Confirm(ctx context.Context) error {
	for {
		l.mu.Lock()
		current, changed := l.current, l.changed
		l.mu.Unlock()
		if current {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the group to confirm partition %d: %w", l.Partition, ctx.Err())
		}
	}
}

func (l *Lease) set(current bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != current {
		l.current = current
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// NewGroup makes a member; Run joins.
func (c *Client) NewGroup(o GroupOptions) (*Group, error) {
	if o.ID == "" || o.Topic == "" {
		return nil, errors.New("consumer group: it needs an id and a topic")
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&o.Session, 10 * time.Second}, {&o.Rebalance, 15 * time.Second}, {&o.Heartbeat, time.Second}, {&o.Leave, 3 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	o.Heartbeat = min(o.Heartbeat, o.Session/3)
	if o.State == nil {
		o.State = func(int32, error) {}
	}
	if o.Metrics == nil {
		o.Metrics = NewGroupMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Group{client: c, o: o, log: o.Logger.With("group", o.ID)}, nil
}

// Run joins the group and calls work for each partition that it gives to this
// member. work's context ends when the partition goes to another, or with ctx. If
// work ends before that, with an error or without, it is called again after a
// while: a partition that some straggler has taken over without a right to comes
// back so. Run returns nil when ctx is done, all work has ended and the group has
// been left; errors of joining are told to State, and joining is tried again.
func (g *Group) Run(ctx context.Context, work func(ctx context.Context, l *Lease) error) error {
	g.held = make(map[int32]*holding)
	g.conns, g.severed = make(map[net.Conn]struct{}), false
	g.dialling, g.severing = context.WithCancel(context.Background())
	defer g.severing()
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: g.o.ID, Topics: []string{g.o.Topic}, Brokers: g.client.brokers,
		Dialer: &kafka.Dialer{
			ClientID: g.client.transport.ClientID, Timeout: g.client.transport.DialTimeout, DialFunc: g.dial,
			TLS: g.client.transport.TLS, SASLMechanism: g.client.transport.SASL,
		},
		GroupBalancers:    []kafka.GroupBalancer{sticky{g.claims}},
		HeartbeatInterval: g.o.Heartbeat, SessionTimeout: g.o.Session, RebalanceTimeout: g.o.Rebalance,
		JoinGroupBackoff: time.Second,
	})
	if err != nil {
		return fmt.Errorf("consumer group %s: %w", g.o.ID, err)
	}
	defer g.end(group)
	g.o.State(WholeGroup, errJoining)
	for {
		gen, err := group.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			err = fmt.Errorf("join consumer group %s: %w", g.o.ID, g.client.explain(err))
			g.o.State(WholeGroup, err)
			g.log.Warn("the group cannot be joined; trying again", "err", err)
			continue
		}
		g.o.State(WholeGroup, nil)
		g.enter(ctx, gen, work)
	}
}

// enter takes up what a generation assigns and drops what it does not.
func (g *Group) enter(ctx context.Context, gen *kafka.Generation, work func(context.Context, *Lease) error) {
	assigned := make(map[int32]bool)
	for _, a := range gen.Assignments[g.o.Topic] {
		assigned[int32(a.ID)] = true
	}
	g.mu.Lock()
	kept, taken, dropped := 0, 0, 0
	before := make(map[int32]<-chan struct{})
	for p, h := range g.held {
		if assigned[p] {
			kept++
			continue
		}
		h.cancel()
		before[p] = h.done
		dropped++
		delete(g.held, p)
		g.o.State(p, nil)
	}
	g.claim = claim{generation: gen.ID}
	for p := range assigned {
		h := g.held[p]
		if h == nil {
			taken++
			h = g.hold(ctx, p, before[p], work)
			g.held[p] = h
		}
		h.lease.set(true)
		g.claim.partitions = append(g.claim.partitions, p)
	}
	g.mu.Unlock()
	g.o.Metrics.Partitions.WithLabelValues(g.o.ID).Set(float64(len(assigned)))
	g.o.Metrics.Generations.WithLabelValues(g.o.ID).Inc()
	g.log.Info("partitions assigned", "generation", gen.ID, "kept", kept, "taken", taken, "dropped", dropped)
	gen.Start(func(ended context.Context) {
		<-ended.Done()
		g.suspend()
	})
}

// suspend says that for now the group confirms nothing.
func (g *Group) suspend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.held {
		h.lease.set(false)
	}
}

const (
	minWorkBackoff = 100 * time.Millisecond
	maxWorkBackoff = 5 * time.Second
	// settledWork is how long work has to last for its failure to count as new.
	settledWork = 5 * time.Second
)

// hold works on a partition until it is cancelled. Earlier work of this process
// on it ends first.
func (g *Group) hold(ctx context.Context, p int32, before <-chan struct{}, work func(context.Context, *Lease) error) *holding {
	h := &holding{lease: &Lease{Partition: p, changed: make(chan struct{})}, done: make(chan struct{})}
	ctx, h.cancel = context.WithCancel(ctx)
	g.works.Go(func() {
		defer close(h.done)
		defer h.cancel()
		if before != nil {
			<-before
		}
		for backoff := minWorkBackoff; h.lease.Confirm(ctx) == nil; backoff = min(2*backoff, maxWorkBackoff) {
			began := time.Now()
			g.state(ctx, p, nil)
			err := work(ctx, h.lease)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				err = errors.New("ended by itself")
			}
			g.state(ctx, p, err)
			if time.Since(began) > settledWork {
				backoff = minWorkBackoff
			}
			g.log.Warn("work on a partition ended, starting it again", "partition", p, "wait", backoff, "err", err)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
				return
			}
		}
	})
	return h
}

// state tells how a partition is doing, unless it has been taken away.
func (g *Group) state(ctx context.Context, p int32, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ctx.Err() == nil {
		g.o.State(p, err)
	}
}

// claims is what this member holds, for the assignment to leave it there.
func (g *Group) claims() claim {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.claim
}

// end stops all work and leaves the group, so that the others need not wait for
// the session to time out. The library cannot be told to give up what it waits
// for, which may be every other member; its connections can.
func (g *Group) end(group *kafka.ConsumerGroup) {
	g.mu.Lock()
	for p, h := range g.held {
		h.cancel()
		g.o.State(p, nil)
	}
	g.claim = claim{}
	g.mu.Unlock()
	left := make(chan struct{})
	go func() {
		defer close(left)
		group.Close()
	}()
	g.works.Wait()
	t := time.NewTimer(g.o.Leave)
	defer t.Stop()
	select {
	case <-left:
	case <-t.C:
		g.log.Warn("the group was not left in time; it will notice")
		g.sever()
		<-left
	}
	g.o.Metrics.Partitions.WithLabelValues(g.o.ID).Set(0)
	g.o.State(WholeGroup, nil)
}

// sever cuts the group's connections and makes no more.
func (g *Group) sever() {
	g.severing()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.severed = true
	for c := range g.conns {
		c.Close()
	}
}

// groupConn is a connection that the group knows of.
type groupConn struct {
	net.Conn
	g *Group
}

func (c groupConn) Close() error {
	c.g.mu.Lock()
	delete(c.g.conns, c.Conn)
	c.g.mu.Unlock()
	return c.Conn.Close()
}

func (g *Group) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.dialling, cancel)()
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.severed {
		c.Close()
		return nil, net.ErrClosed
	}
	g.conns[c] = struct{}{}
	return groupConn{c, g}, nil
}
