package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
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
	Watch     time.Duration // how often the topic is looked at for partitions that were added; 5 s if zero

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

// ErrUnfit is what work ends with on a partition that another member may be able to
// work on while this one is not: the partition goes to one that has not said so
// yet, or else to the one that said so longest ago.
var ErrUnfit = errors.New("another member has to do it")

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

	mu     sync.Mutex
	held   map[int32]*holding
	ending map[int32]<-chan struct{} // work on partitions that have gone, which may not have ended yet
	claim  claim                     // what the next join tells the others
	unfit  map[int32]unfit           // partitions on which work last ended with ErrUnfit
	back   chan struct{}             // holds something if a partition is to be handed back
	round  int                       // counts the generations that this process has entered
	shared int                       // partitions that this member, leading, shared out in the generation to come; −1: it did not
	works  sync.WaitGroup

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

// unfit is a partition that this member cannot work on for now.
type unfit struct {
	now        bool  // work on it was not begun again since
	generation int32 // of the group, when it last said so
	asked      time.Time
	wait       time.Duration // before it may be handed back once more
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
	}{{&o.Session, 10 * time.Second}, {&o.Rebalance, 15 * time.Second}, {&o.Heartbeat, time.Second}, {&o.Leave, 3 * time.Second}, {&o.Watch, 5 * time.Second}} {
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
	g.mu.Lock()
	g.held, g.ending, g.shared = make(map[int32]*holding), make(map[int32]<-chan struct{}), -1
	g.conns, g.severed = make(map[net.Conn]struct{}), false
	g.unfit, g.back = make(map[int32]unfit), make(chan struct{}, 1)
	g.mu.Unlock()
	g.dialling, g.severing = context.WithCancel(context.Background())
	defer g.severing()
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: g.o.ID, Topics: []string{g.o.Topic}, Brokers: g.client.brokers,
		Dialer: &kafka.Dialer{
			ClientID: g.client.transport.ClientID, Timeout: g.client.transport.DialTimeout, DialFunc: g.dial,
			TLS: g.client.transport.TLS, SASLMechanism: g.client.transport.SASL,
		},
		GroupBalancers:    []kafka.GroupBalancer{sticky{g.claims, g.share}},
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
	var assigned []int32
	for _, a := range gen.Assignments[g.o.Topic] {
		assigned = append(assigned, int32(a.ID))
	}
	round, led := g.take(ctx, gen.ID, assigned, work)
	g.o.Metrics.Partitions.WithLabelValues(g.o.ID).Set(float64(len(assigned)))
	g.o.Metrics.Generations.WithLabelValues(g.o.ID).Inc()
	if led >= 0 {
		gen.Start(func(ended context.Context) { g.watch(ended, led) })
	}
	gen.Start(func(ended context.Context) {
		select {
		case <-g.back: // to return ends the generation
		case <-ended.Done():
		}
	})
	gen.Start(func(ended context.Context) {
		<-ended.Done()
		g.suspend(round)
	})
}

// take holds the partitions that a generation assigned, and no others. It returns
// the generation's number among those that this process has entered, and how many
// partitions it shared out if it leads the generation, otherwise −1.
func (g *Group) take(ctx context.Context, generation int32, assigned []int32, work func(context.Context, *Lease) error) (round, led int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept, taken, dropped := 0, 0, 0
	for p, h := range g.held {
		if slices.Contains(assigned, p) {
			kept++
			continue
		}
		h.cancel()
		g.ending[p] = h.done
		dropped++
		delete(g.held, p)
		g.o.State(p, nil)
	}
	g.claim = claim{generation: generation}
	for _, p := range assigned {
		h := g.held[p]
		if h == nil {
			taken++
			h = g.hold(ctx, p, g.ending[p], work)
			delete(g.ending, p)
			g.held[p] = h
		}
		h.lease.set(true)
		g.claim.partitions = append(g.claim.partitions, p)
	}
	g.round++
	led, g.shared = g.shared, -1
	g.log.Info("partitions assigned", "generation", generation, "kept", kept, "taken", taken, "dropped", dropped)
	return g.round, led
}

// suspend says that the group confirms nothing for now, unless it has gone on
// to another generation: word of the end of one may come late.
func (g *Group) suspend(round int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.round != round {
		return
	}
	for _, h := range g.held {
		h.lease.set(false)
	}
}

// share notes how many partitions this member has shared out among all.
func (g *Group) share(partitions int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shared = partitions
}

// watch returns, which ends the generation and has a new one begin, when the
// topic has another number of partitions than were shared out: some were added, or
// the broker that was asked did not know of any yet. Only who led need look.
func (g *Group) watch(ctx context.Context, partitions int) {
	t := time.NewTicker(g.o.Watch)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		n, err := g.client.Partitions(ctx, g.o.Topic)
		if err == nil && n != partitions {
			g.log.Info("the topic has another number of partitions: sharing them out again", "topic", g.o.Topic, "before", partitions, "now", n)
			return
		}
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
			g.try(p)
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
			if errors.Is(err, ErrUnfit) {
				g.handBack(p)
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

// try notes that work on a partition is begun.
func (g *Group) try(p int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if u, ok := g.unfit[p]; ok {
		u.now = false
		g.unfit[p] = u
	}
}

const (
	minHandBack = 500 * time.Millisecond
	maxHandBack = time.Minute
	// settledHandBack is how long nothing has to be handed back for the next time to
	// count as the first.
	settledHandBack = 5 * time.Minute
)

// handBack has the group share the partitions out again, this one to another
// member. If that does not help, because no member is fit for it, it does so less
// and less often.
func (g *Group) handBack(p int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.unfit[p]
	u.now, u.generation = true, g.claim.generation
	since := time.Since(u.asked)
	if since >= u.wait {
		if u.wait = min(max(2*u.wait, minHandBack), maxHandBack); since > settledHandBack {
			u.wait = minHandBack
		}
		u.asked = time.Now()
		select {
		case g.back <- struct{}{}:
		default: // it is about to
		}
	}
	g.unfit[p] = u
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
	c := g.claim
	for p, u := range g.unfit {
		if u.now {
			c.unfit = append(c.unfit, misfit{p, u.generation})
		}
	}
	return c
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
	g.round++ // what still ends has nothing to suspend
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
