package spinetest

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/internal/effects"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

var (
	seedFlag  = flag.Uint64("spine.seed", 0, "seed of the kill test; 0: a new one")
	killsFlag = flag.Int("spine.kills", 64, "how often owners are killed")
	// sigkillsFlag is for processes.
	sigkillsFlag = flag.Int("spine.sigkills", 9, "how often a process of each role is killed")
)

// start is when the simulated time begins: recent, so that nothing is too old to
// be retained.
func start() time.Time { return time.Now().Add(-12 * time.Hour).Truncate(time.Hour) }

// writer appends a load to vedette.logs on a clock of its own.
type writer struct {
	load     load
	now      atomic.Int64 // simulated, ns
	appender *stream.LogAppender
	steps    int
}

func newWriter(t testing.TB, c *stream.Client, sources int, seed uint64, steps int) *writer {
	t.Helper()
	w := &writer{load: load{rnd: rand.New(rand.NewPCG(seed, 1)), now: start()}, steps: steps}
	w.now.Store(w.load.now.UnixNano())
	a, err := c.NewLogAppender(stream.AppenderOptions{
		Partitions: sources, Now: func() time.Time { return time.Unix(0, w.now.Load()) }, Logger: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	w.appender = a
	return w
}

// step appends the records of the next ten seconds, each partition's tick, and
// at times a collector's progress or a change of generation.
func (w *writer) step(ctx context.Context) error {
	msgs := w.load.next()
	w.now.Store(w.load.now.UnixNano())
	// In small pieces, so that they spread over the partitions.
	for len(msgs) > 0 {
		n := min(len(msgs), 1+w.load.rnd.IntN(5))
		if err := w.appender.Append(ctx, msgs[:n]); err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	if err := w.appender.Broadcast(ctx, stream.LogMessage{Kind: stream.KindTick}); err != nil {
		return err
	}
	switch w.load.step {
	case w.steps * 4 / 10:
		// The second generation places addresses elsewhere: what was sent before would be
		// of another country if it were delivered again, and late.
		w.load.sent = nil
		return w.appender.Broadcast(ctx, stream.LogMessage{Kind: stream.KindGeneration, Generation: "generation-1"})
	case w.steps * 6 / 10:
		// Rules come back that did not count what was sent before: delivered again it
		// would be new to them, and late.
		w.load.sent = nil
		return w.appender.Broadcast(ctx, stream.LogMessage{Kind: stream.KindGeneration, Generation: "generation-0"})
	}
	if w.load.step%30 == 0 {
		return w.appender.Broadcast(ctx, stream.LogMessage{
			Kind: stream.KindProgress, Origin: "files", Type: "aws.lambda", Through: w.load.now.Add(-3 * time.Minute),
		})
	}
	return nil
}

// TestKilled kills match, correlate and the assembler at random instants under
// load, lets replaced ones go on until they are fenced, cuts connections, fails
// calls and loses answers. Findings, profiles and incidents are those of a run
// over the same log that nothing befell.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills for half a minute")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	ctx := within(t, 5*time.Minute)

	dsn := pgtest.NewDSN(t)
	b, err := devbroker.Start(devbroker.Options{Dir: t.TempDir(), NoSync: true, RetentionEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	gens := newGenerations(t)
	s := &site{brokers: []string{b.Addr()}, observations: "killed.observations", dsn: dsn, gens: gens, log: quiet(), snapshots: t.TempDir()}
	db, c := open(t, ctx, s)

	const steps = 1500 // four hours
	w := newWriter(t, c, sources, seed, steps)
	done := make(chan error, 1)
	var lastFor atomic.Int64 // how long the writer is to take
	lastFor.Store(int64(time.Duration(*killsFlag) * 180 * time.Millisecond))
	go func() {
		begin := time.Now()
		for i := range steps {
			if err := w.step(ctx); err != nil {
				done <- err
				return
			}
			time.Sleep(time.Until(begin.Add(time.Duration(lastFor.Load()) * time.Duration(i) / steps))) // paced
		}
		done <- nil
	}()

	f := &faults{rnd: rand.New(rand.NewPCG(seed, 3)), one: 60}
	metrics := correlate.NewMetrics(nil)
	var crews []*crew
	for kill := 0; kill < *killsFlag; {
		// One that was replaced goes on for a while, so that it has to be fenced.
		w, err := s.start(db, c, crewOptions{every: 30 * time.Millisecond, faults: f, leave: rnd.IntN(4) == 0, metrics: metrics})
		if err != nil {
			t.Fatal(err)
		}
		crews = append(crews, w)
		time.Sleep(time.Duration(rnd.IntN(250)) * time.Millisecond) // any instant will do: that is the test
		switch rnd.IntN(4) {
		case 0:
			cut(ctx, t, db)
		case 1:
			answerLost(b, kmsg.Produce, s.observations)
		}
		for len(crews) > rnd.IntN(3) {
			if err := crews[0].kill(); err != nil {
				t.Fatal(err)
			}
			kill++
			crews = crews[1:]
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.stop()
	f.complete(t)
	last, err := s.start(db, c, crewOptions{every: 50 * time.Millisecond, faults: f})
	if err != nil {
		t.Fatal(err)
	}
	crews = append(crews, last)
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	for _, w := range crews {
		if err := w.kill(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, undisturbed(t, ctx, s))
	snapshots := func(outcome string) float64 { return testutil.ToFloat64(metrics.Snapshots.WithLabelValues(outcome)) }
	t.Logf("snapshots: %v written, %v used, %v refused", snapshots("written"), snapshots("used"), snapshots("refused"))
	if *killsFlag >= 50 && snapshots("used") == 0 {
		t.Error("no owner went on from a snapshot")
	}
}

// undisturbed runs once over the log that is there, with a ledger of its own.
func undisturbed(t *testing.T, ctx context.Context, of *site) map[string][]string {
	t.Helper()
	s := &site{
		brokers: of.brokers, observations: "undisturbed." + of.observations, dsn: pgtest.NewDSN(t), gens: of.gens, log: quiet(),
		logs: of.logs, obs: of.obs,
	}
	db, c := open(t, ctx, s)
	w, err := s.start(db, c, crewOptions{every: 200 * time.Millisecond, faults: &faults{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	if err := w.kill(); err != nil {
		t.Fatal(err)
	}
	all, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func open(t testing.TB, ctx context.Context, s *site) (*storage.DB, *stream.Client) {
	t.Helper()
	db, c, err := s.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	t.Cleanup(c.Close)
	if err := s.prepare(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	return db, c
}

// cut ends all of the database's connections but the one that asks.
func cut(ctx context.Context, t *testing.T, db *storage.DB) {
	t.Helper()
	_, err := db.Pool().Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	if err != nil {
		t.Logf("cut connections: %v", err) // another cut was faster
	}
}

// answerLost makes the broker do what it is next asked for on a topic and then
// say that it took too long.
func answerLost(b *devbroker.Broker, key kmsg.Key, topic string) {
	b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{key}, Topic: topic, Err: kerr.RequestTimedOut})
}

// compare fails the test unless both are the same sets, and says what each held.
func compare(t *testing.T, got, want map[string][]string) {
	t.Helper()
	effects.Compare(t, got, want)
}
