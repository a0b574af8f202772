package spinetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/layout"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// quietHours come twice in the load, so that some of what is kept ages out and
// windows are rebuilt from a mark and not from the beginning.
const quietHours = 9 * time.Hour

// moving is a deployment whose layout changes.
type moving struct {
	*site
	ctx    context.Context
	db     *storage.DB // never works in a layout; asks only
	c      *stream.Client
	w      *writer
	broker *devbroker.Broker
	rnd    *rand.Rand
	kills  int
}

func newMoving(t *testing.T, seed uint64, steps int) *moving {
	t.Helper()
	b, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	m := &moving{
		site: &site{brokers: []string{b.Addr()}, observations: stream.TopicObservations, dsn: pgtest.NewDSN(t), gens: newGenerations(t), log: quiet()},
		ctx:  within(t, 4*time.Minute), broker: b, rnd: rand.New(rand.NewPCG(seed, 7)),
	}
	m.db, m.c = open(t, m.ctx, m.site)
	if err := m.db.PutRuleVersions(m.ctx, []*rule.Rule{rule.VisibilityLost()}); err != nil {
		t.Fatal(err)
	}
	m.w = newWriter(t, m.c, m.sources(), seed, steps)
	return m
}

// write writes the next steps of the load. Where there are no quiet hours among
// them it may run beside everything else.
func (m *moving) write(t *testing.T, n int) error {
	for range n {
		if m.w.load.step == m.w.steps/5 || m.w.load.step == m.w.steps/2 {
			m.through(t) // there are marks from before
			if err := m.rest(); err != nil {
				return err
			}
		}
		if err := m.w.step(m.ctx); err != nil {
			return err
		}
	}
	return nil
}

// rest writes ticks and what a collector promises, nothing else.
func (m *moving) rest() error {
	m.w.load.sent = nil // delivered again after so long it would be news
	for minute := range int(quietHours / time.Minute) {
		m.w.load.now = m.w.load.now.Add(time.Minute)
		m.w.now.Store(m.w.load.now.UnixNano())
		msg := stream.LogMessage{Kind: stream.KindTick}
		if minute%5 == 0 {
			msg = stream.LogMessage{
				Kind: stream.KindProgress, Origin: "files", Type: "aws.lambda", Through: m.w.load.now.Add(-3 * time.Minute),
			}
		}
		if err := m.w.appender.Broadcast(m.ctx, msg); err != nil {
			return err
		}
	}
	return nil
}

// follow makes the site that of the layout in force.
func (m *moving) follow(t *testing.T) {
	t.Helper()
	l, err := m.db.Layout(m.ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := *m.site
	s.observations, s.obs = l.Topic, l.Partitions
	m.site = &s
}

func (m *moving) join(t *testing.T) *member {
	t.Helper()
	c, err := m.site.join(m.ctx, crewOptions{every: 30 * time.Millisecond, faults: &faults{}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// through waits until all that the log holds has been found and assembled.
func (m *moving) through(t *testing.T) {
	t.Helper()
	for {
		err := m.lag(t)
		if err == nil {
			return
		}
		select {
		case <-m.ctx.Done():
			t.Fatalf("not through in time: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m *moving) lag(t *testing.T) error {
	for p := range int32(m.sources()) {
		_, end, err := m.c.Bounds(m.ctx, stream.TopicLogs, p)
		if err != nil {
			return err
		}
		var next int64
		err = m.db.Pool().QueryRow(m.ctx, "SELECT coalesce(next, 0) FROM source_position WHERE partition = $1 ORDER BY incarnation DESC LIMIT 1", p).Scan(&next)
		if err != nil || next < end {
			return fmt.Errorf("source %d is at %d of %d: %w", p, next, end, err)
		}
	}
	m.follow(t)
	rows, err := m.db.Pool().Query(m.ctx, "SELECT c.partition, c.position FROM checkpoint c JOIN layout l ON l.id = c.layout WHERE l.state = 'in_force'")
	if err != nil {
		return err
	}
	type at struct {
		Partition int32
		Position  int64
	}
	ats, err := pgx.CollectRows(rows, pgx.RowToStructByPos[at])
	if err != nil || len(ats) < m.partitions() {
		return fmt.Errorf("%d checkpoints: %w", len(ats), err)
	}
	for _, a := range ats {
		if _, end, err := m.c.Bounds(m.ctx, m.observations, a.Partition); err != nil || a.Position < end {
			return fmt.Errorf("partition %d is at %d of %d: %w", a.Partition, a.Position, end, err)
		}
	}
	var changed bool
	err = m.db.Pool().QueryRow(m.ctx, `SELECT exists(SELECT FROM finding f
		LEFT JOIN assembler_cursor a ON a.layout = f.layout AND a.partition = f.partition
		WHERE f.number > coalesce(a.number, 0))`).Scan(&changed)
	if err != nil || changed {
		return fmt.Errorf("assembler is behind: %w", err)
	}
	return nil
}

var errKilled = errors.New("killed")

// killing does something until it is through, and ends it at a step, or anywhere,
// most of the times. Between two attempts the service may run for a while.
func (m *moving) killing(t *testing.T, serve bool, do func(context.Context, layout.Options) (layout.Report, error)) layout.Report {
	t.Helper()
	for attempt := 0; ; attempt++ {
		ctx, cancel := context.WithCancel(m.ctx)
		o, done := m.options(t)
		if attempt < 6 {
			switch m.rnd.IntN(3) {
			case 0:
				timer := time.AfterFunc(time.Duration(m.rnd.IntN(600))*time.Millisecond, cancel)
				defer timer.Stop()
			default:
				left := m.rnd.IntN(9)
				o.Step = func(string) error {
					if left--; left < 0 {
						return errKilled
					}
					return nil
				}
			}
		}
		r, err := do(ctx, o)
		killed := err != nil && (errors.Is(err, errKilled) || ctx.Err() != nil)
		cancel()
		done()
		if err == nil {
			return r
		}
		if !killed {
			t.Fatal(err)
		}
		m.kills++
		if serve && m.rnd.IntN(2) == 0 {
			m.follow(t)
			c := m.join(t)
			time.Sleep(time.Duration(m.rnd.IntN(300)) * time.Millisecond) // any instant will do
			if err := c.leave(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// options are those of a process that was just started.
func (m *moving) options(t *testing.T) (layout.Options, func()) {
	t.Helper()
	db, c, err := m.open(m.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return layout.Options{
		Kafka: layout.Cluster{Client: c}, Ledger: db, Match: m.gens, Correlate: m.gens, Incarnation: incarnation, Evidence: evidence, Logger: m.log,
		Now: func() time.Time { return time.Unix(0, m.w.now.Load()) },
	}, func() { c.Close(); db.Close() }
}

// found is what the promise covers. Profiles are told apart by their keys: pages go
// with partitions.
func (m *moving) found(t *testing.T) map[string][]string {
	t.Helper()
	all, err := m.effects(m.ctx, m.db, m.c)
	if err != nil {
		t.Fatal(err)
	}
	all["profile"] = m.profiles(t)
	return all
}

func (m *moving) profiles(t *testing.T) []string {
	t.Helper()
	rows, err := m.db.Pool().Query(m.ctx, "SELECT rule_version, page, data FROM profile")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (p correlate.Page, err error) {
		err = r.Scan(&p.RuleVersion, &p.Number, &p.Data)
		return p, err
	})
	if err != nil {
		t.Fatal(err)
	}
	together, err := correlate.Repartition(pages, 1)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range together[0] {
		out = append(out, fmt.Sprintf("%s %d %x", p.RuleVersion, p.Number, p.Data))
	}
	return out
}

// TestReshardKilled moves from 2 partitions to 5 and to 3 under load, while the
// mover and the service are killed at any place.
func TestReshardKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("moves for half a minute")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	const steps = 1000
	m := newMoving(t, seed, steps)
	m.site.first = sources
	for i, n := range []int{5, 3} {
		c := m.join(t)
		if err := m.write(t, steps*3/10); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			m.addSource(t) // which nobody has read when it is moved
		}
		// Records go on coming in while it is moved.
		wrote := make(chan error, 1)
		go func() { wrote <- m.write(t, steps/10) }()
		time.Sleep(time.Duration(m.rnd.IntN(200)) * time.Millisecond)
		if err := c.leave(); err != nil {
			t.Fatal(err)
		}
		r := m.killing(t, true, func(ctx context.Context, o layout.Options) (layout.Report, error) {
			return layout.Reshard(ctx, o, n)
		})
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		m.follow(t)
		t.Logf("layout %d of %d partitions after %d kills, %d messages of history", m.layoutID(t), m.partitions(), m.kills, r.Written)
		if m.partitions() != n {
			t.Fatalf("%d partitions, want %d", m.partitions(), n)
		}
		var begins int // from a mark, not from the log's beginning
		if err := m.db.Pool().QueryRow(m.ctx, "SELECT count(*) FROM mark WHERE layout = $1 AND position = 0", m.layoutID(t)).Scan(&begins); err != nil || begins != n {
			t.Errorf("%d partitions rebuild from a mark, want all %d: %v", begins, n, err)
		}
	}
	c := m.join(t)
	if err := m.write(t, steps-m.w.load.step); err != nil {
		t.Fatal(err)
	}
	m.through(t)
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	if m.kills == 0 {
		t.Error("nothing was killed")
	}
	want := &moving{site: &site{brokers: m.brokers, observations: "undisturbed.observations", dsn: pgtest.NewDSN(t), gens: m.gens, log: m.log, obs: 4, logs: m.logs}, ctx: m.ctx}
	want.db, want.c = open(t, m.ctx, want.site)
	if _, err := want.db.Pool().Exec(m.ctx, "UPDATE layout SET topic = $1", want.observations); err != nil {
		t.Fatal(err)
	}
	c = want.join(t)
	want.through(t)
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	compare(t, m.found(t), want.found(t))
}

// addSource gives vedette.logs one more partition.
func (m *moving) addSource(t *testing.T) {
	t.Helper()
	n := m.sources() + 1
	if err := m.c.AddPartitions(m.ctx, stream.TopicLogs, n); err != nil {
		t.Fatal(err)
	}
	for have := 0; have != n; time.Sleep(10 * time.Millisecond) {
		var err error
		if have, err = m.c.Partitions(m.ctx, stream.TopicLogs); err != nil {
			t.Fatal(err)
		}
	}
	m.site.logs = n
	m.w.appender.Widen(n)
}

func (m *moving) layoutID(t *testing.T) int32 {
	t.Helper()
	l, err := m.db.Layout(m.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return l.ID
}
