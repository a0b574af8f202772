package spinetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/internal/effects"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/stream"
)

const (
	sources     = 3 // partitions of vedette.logs, unless a site says otherwise
	partitions  = 2 // of vedette.observations, likewise
	evidence    = 8
	incarnation = 1
)

// site is one deployment: a ledger and a topic of observations over a log that
// several sites may read.
type site struct {
	brokers      []string
	observations string // topic
	dsn          string
	gens         generations
	log          *slog.Logger
	logs, obs    int    // partitions of either topic; sources and partitions if zero
	first        int    // partitions of vedette.logs at the first start; all if zero
	snapshots    string // directory that windows go to; none if empty
}

// sources is how many partitions vedette.logs has.
func (s *site) sources() int { return cmp.Or(s.logs, sources) }

// partitions is how many partitions the observations have.
func (s *site) partitions() int { return cmp.Or(s.obs, partitions) }

func (s *site) topics() []stream.Topic {
	return []stream.Topic{
		{Name: stream.TopicLogs, Partitions: s.sources()},
		{Name: stream.TopicDeadLetter, Partitions: 1},
		{Name: s.observations, Partitions: s.partitions()},
	}
}

func (s *site) open(ctx context.Context) (*storage.DB, *stream.Client, error) {
	db, err := storage.Open(ctx, storage.Options{DSN: s.dsn, MaxConns: 8, EvidenceLimit: evidence, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	c, err := stream.NewClient(stream.Config{Brokers: s.brokers, MetadataAge: 200 * time.Millisecond})
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return db, c, nil
}

// prepare makes the topics and says what the rules are.
func (s *site) prepare(ctx context.Context, db *storage.DB, c *stream.Client) error {
	if err := c.EnsureTopics(ctx, s.topics()...); err != nil {
		return err
	}
	if err := db.EnsureLayout(ctx, s.partitions(), s.sources()); err != nil {
		return err
	}
	for _, g := range s.gens {
		if err := db.PutRuleVersions(ctx, g.set.Rules); err != nil {
			return err
		}
	}
	return nil
}

// faults decide what fails; the zero value lets everything pass.
type faults struct {
	mu  sync.Mutex
	rnd *rand.Rand
	one int // in how many calls one fails, and one other loses its answer

	before, after map[string]int // faults there were, by call
}

// draw decides for a call. Of each kind the first call fails and the second loses
// its answer, so that no kind goes without, however rare.
func (f *faults) draw(call string) (before, after error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rnd == nil {
		return nil, nil
	}
	if f.before == nil {
		f.before, f.after = make(map[string]int), make(map[string]int)
	}
	n := f.rnd.IntN(f.one)
	switch {
	case n == 0 || f.before[call] == 0:
		f.before[call]++
		return context.DeadlineExceeded, nil
	case n == 1 || f.after[call] == 0:
		f.after[call]++
		return nil, context.DeadlineExceeded
	}
	return nil, nil
}

// complete fails the test unless every call of the seams between the owners and
// the world has failed, and has lost its answer.
func (f *faults) complete(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, seam := range []reflect.Type{
		reflect.TypeFor[match.SourceReader](), reflect.TypeFor[match.Producer](), reflect.TypeFor[match.DeadLetters](),
		reflect.TypeFor[match.Positions](), reflect.TypeFor[match.Standings](), reflect.TypeFor[match.Vectors](),
		reflect.TypeFor[match.Incarnations](), reflect.TypeFor[correlate.PartitionReader](), reflect.TypeFor[correlate.Ledger](),
		reflect.TypeFor[incident.Ledger](),
	} {
		for m := range seam.Methods() {
			if m.Name == "Act" {
				continue // of people, not of an owner
			}
			if f.before[m.Name] == 0 || f.after[m.Name] == 0 {
				t.Errorf("%v.%s: %d calls failed and %d lost their answers", seam, m.Name, f.before[m.Name], f.after[m.Name])
			}
		}
	}
}

func (f *faults) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rnd = nil
}

type faultyReader struct {
	*stream.Reader
	f *faults
}

func (r faultyReader) Read(ctx context.Context) (stream.Batch, error) {
	// A reader stays where it is until it has an answer: losing it is failing.
	if before, after := r.f.draw("Read"); before != nil || after != nil {
		return stream.Batch{}, cmp.Or(before, after)
	}
	return r.Reader.Read(ctx)
}

type faultyProducer struct {
	*stream.Producer
	f *faults
}

func (p faultyProducer) Produce(ctx context.Context, partition int32, recs []stream.Record) (int64, error) {
	before, after := p.f.draw("Produce")
	if before != nil {
		return 0, before
	}
	n, err := p.Producer.Produce(ctx, partition, recs)
	return n, errors.Join(err, after)
}

// faultyDB fails in front of a call, or behind it: what was done is done.
type faultyDB struct {
	*storage.DB
	f *faults
}

func (d faultyDB) AcquireSource(ctx context.Context, inc uint32, p int32) (match.Position, error) {
	before, after := d.f.draw("AcquireSource")
	if before != nil {
		return match.Position{}, before
	}
	pos, err := d.DB.AcquireSource(ctx, inc, p)
	return pos, errors.Join(err, after)
}

func (d faultyDB) SaveSource(ctx context.Context, inc uint32, p int32, pos match.Position) error {
	before, after := d.f.draw("SaveSource")
	if before != nil {
		return before
	}
	return errors.Join(d.DB.SaveSource(ctx, inc, p, pos), after)
}

func (d faultyDB) Acquire(ctx context.Context, p int32) (correlate.Checkpoint, error) {
	before, after := d.f.draw("Acquire")
	if before != nil {
		return correlate.Checkpoint{}, before
	}
	cp, err := d.DB.Acquire(ctx, p)
	return cp, errors.Join(err, after)
}

func (d faultyDB) Commit(ctx context.Context, c correlate.Commit) error {
	before, after := d.f.draw("Commit")
	if before != nil {
		return before
	}
	return errors.Join(d.DB.Commit(ctx, c), after)
}

func (d faultyDB) Assemble(ctx context.Context, shard int32, epoch int64, f func(incident.Tx) error) error {
	before, after := d.f.draw("Assemble")
	if before != nil {
		return before
	}
	return errors.Join(d.DB.Assemble(ctx, shard, epoch, f), after)
}

func (d faultyDB) Standings(ctx context.Context, inc uint32) ([]match.Standing, error) {
	return answer(d.f, "Standings", func() ([]match.Standing, error) { return d.DB.Standings(ctx, inc) })
}

func (d faultyDB) LeastNext(ctx context.Context, s detect.Source) (int64, error) {
	return answer(d.f, "LeastNext", func() (int64, error) { return d.DB.LeastNext(ctx, s) })
}

func (d faultyDB) Incarnation(ctx context.Context, p int32) (match.Incarnation, error) {
	return answer(d.f, "Incarnation", func() (match.Incarnation, error) { return d.DB.Incarnation(ctx, p) })
}

func (d faultyDB) AcquireAssembler(ctx context.Context, shard int32) (int64, error) {
	return answer(d.f, "AcquireAssembler", func() (int64, error) { return d.DB.AcquireAssembler(ctx, shard) })
}

// faultyLetters are dead letters that are not taken, or taken unheard.
type faultyLetters struct {
	*stream.LogAppender
	f *faults
}

func (l faultyLetters) DeadLetters(ctx context.Context, ds []stream.DeadLetter) error {
	_, err := answer(l.f, "DeadLetters", func() (struct{}, error) { return struct{}{}, l.LogAppender.DeadLetters(ctx, ds) })
	return err
}

func answer[T any](f *faults, name string, call func() (T, error)) (T, error) {
	before, after := f.draw(name)
	if before != nil {
		var none T
		return none, before
	}
	v, err := call()
	return v, errors.Join(err, after)
}

// The roles that a crew may have.
const (
	roleMatch     = "match"
	roleCorrelate = "correlate"
	roleAssemble  = "assemble"
)

// crew is one set of owners: match, correlate and the assembler of one process.
type crew struct {
	matcher *match.Owner
	cancel  context.CancelFunc
	done    chan error // one for each part
	parts   int
}

// crewOptions say how hurried the owners are.
type crewOptions struct {
	every   time.Duration // between saves and checkpoints
	faults  *faults
	leave   bool                 // correlate writes a last checkpoint and a snapshot: it is stopped, not killed
	metrics *correlate.Metrics   // may be nil
	share   *stream.GroupOptions // how to join the groups that share the work; nil: all of it is the crew's
	speaks  string               // the one generation that its program can judge; empty: all
	only    string               // the one role, of roles, that it has; empty: all
}

func (s *site) start(db *storage.DB, c *stream.Client, o crewOptions) (*crew, error) {
	fdb := faultyDB{db, o.faults}
	producer, err := c.NewProducer(stream.ProducerOptions{Topic: s.observations})
	if err != nil {
		return nil, err
	}
	dead, err := c.NewLogAppender(stream.AppenderOptions{Partitions: s.sources(), Logger: s.log})
	if err != nil {
		return nil, err
	}
	open := func(topic string, partition int32, offset int64) faultyReader {
		return faultyReader{c.NewReader(stream.ReaderOptions{
			Topic: topic, Partition: partition, Offset: offset, MaxWait: 50 * time.Millisecond, MaxBytes: 64 << 10,
		}), o.faults}
	}
	rewinds := correlate.NewRewinds(db, s.log)
	var snapshots *correlate.Snapshots
	if s.snapshots != "" {
		if snapshots, err = correlate.OpenSnapshots(s.snapshots, s.observations, 0); err != nil {
			return nil, err
		}
	}
	runCorrelate := func(ctx context.Context, p int32, confirm func(context.Context) error) error {
		owner, err := correlate.NewOwner(correlate.OwnerOptions{
			Partition: p, Engine: correlate.Options{Sources: cmp.Or(s.first, s.sources()), EvidenceLimit: evidence},
			Open:   func(offset int64) correlate.PartitionReader { return open(s.observations, p, offset) },
			Ledger: fdb, Generations: s.gens, Rewind: rewinds.Ask, Confirm: confirm,
			CommitEvery: o.every, FindingDelay: o.every / 2, MarkEvery: 2 * o.every, Logger: s.log,
			Snapshots: snapshots, SnapshotEvery: 4 * o.every, SnapshotAtStop: o.leave, Metrics: o.metrics,
		})
		if err != nil {
			return err
		}
		return owner.Run(ctx)
	}
	matcher, err := match.NewOwner(match.OwnerOptions{
		Incarnation: incarnation, All: s.sources(), Partitions: s.partitions(), Observations: faultyProducer{producer, o.faults},
		Open:        func(p int32, offset int64) match.SourceReader { return open(stream.TopicLogs, p, offset) },
		DeadLetters: faultyLetters{dead, o.faults}, Positions: fdb, Standings: fdb, Vectors: fdb, Applied: db, Incarnations: fdb,
		Generations: version{s.gens, o.speaks}, SaveEvery: o.every, Logger: s.log,
	})
	if err != nil {
		return nil, err
	}
	assembler, err := incident.New(incident.Options{
		Ledger: fdb, Receivers: []incident.Receiver{{Name: "slack"}}, Poll: 20 * time.Millisecond, Batch: 50, Logger: s.log,
	})
	if err != nil {
		return nil, err
	}
	has := func(role string) bool { return o.only == "" || o.only == role }
	assemble := func(ctx context.Context) error {
		for {
			err := assembler.Run(ctx)
			if o.share == nil || !errors.Is(err, incident.ErrFenced) {
				return err
			}
			// No group says whose turn it is: whoever is left has to come back.
			select {
			case <-time.After(time.Duration(200+rand.IntN(400)) * time.Millisecond):
			case <-ctx.Done():
				return nil
			}
		}
	}
	parts := []func(context.Context) error{rewinds.Run}
	if has(roleAssemble) {
		parts = append(parts, assemble)
	}
	for _, topic := range []struct {
		role string
		name string
		n    int
		run  func(ctx context.Context, p int32, confirm func(context.Context) error) error
	}{{roleMatch, stream.TopicLogs, s.sources(), matcher.RunSource}, {roleCorrelate, s.observations, s.partitions(), runCorrelate}} {
		if !has(topic.role) {
			continue
		}
		if o.share == nil {
			for p := range int32(topic.n) {
				parts = append(parts, func(ctx context.Context) error { return topic.run(ctx, p, nil) })
			}
			continue
		}
		g := *o.share
		g.ID, g.Topic, g.Logger = s.observations+" "+topic.name, topic.name, s.log
		group, err := c.NewGroup(g)
		if err != nil {
			return nil, err
		}
		parts = append(parts, func(ctx context.Context) error {
			return group.Run(ctx, func(ctx context.Context, l *stream.Lease) error { return topic.run(ctx, l.Partition, l.Confirm) })
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &crew{matcher: matcher, cancel: cancel, done: make(chan error, len(parts)), parts: len(parts)}
	for _, run := range parts {
		go func() { w.done <- run(ctx) }()
	}
	return w, nil
}

// kill ends the owners where they are and waits for them. Being fenced before is
// no error.
func (w *crew) kill() error {
	w.cancel()
	var errs []error
	for range w.parts {
		if err := <-w.done; err != nil && !errors.Is(err, match.ErrFenced) && !errors.Is(err, correlate.ErrFenced) && !errors.Is(err, incident.ErrFenced) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// settled waits until everything in the log is in the ledger and in incidents.
func (s *site) settled(ctx context.Context, db *storage.DB, c *stream.Client) error {
	for {
		err := s.behind(ctx, db, c)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not settled in time: %w\n%s", err, s.stalled(db))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stalled describes a site that does not go on: where everything stands, and what
// everybody waits for.
func (s *site) stalled(db *storage.DB) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var b strings.Builder
	for _, query := range []string{
		"SELECT 'source ' || partition || ': ' || s::text FROM (SELECT partition, incarnation, epoch, next, clock, rewind, saved_at FROM source_position ORDER BY partition) s",
		"SELECT 'partition ' || partition || ': ' || s::text FROM (SELECT partition, epoch, number, position, clock FROM checkpoint ORDER BY partition) s",
	} {
		rows, err := db.Pool().Query(ctx, query)
		if err == nil {
			var lines []string
			if lines, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
				fmt.Fprintln(&b, strings.Join(lines, "\n"))
			}
		}
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	stacks := make([]byte, 4<<20)
	b.Write(stacks[:runtime.Stack(stacks, true)])
	return b.String()
}

// behind says what has not been done yet.
func (s *site) behind(ctx context.Context, db *storage.DB, c *stream.Client) error {
	for p := range int32(s.sources()) {
		_, end, err := c.Bounds(ctx, stream.TopicLogs, p)
		if err != nil {
			return err
		}
		var next int64
		err = db.Pool().QueryRow(ctx, "SELECT coalesce(next, 0) FROM source_position WHERE incarnation = $1 AND partition = $2", incarnation, p).Scan(&next)
		if err != nil || next < end {
			return fmt.Errorf("source %d is at %d of %d: %w", p, next, end, err)
		}
	}
	states, err := db.CheckpointStates(ctx)
	if err != nil {
		return err
	}
	if len(states) < s.partitions() {
		return errors.New("no checkpoints")
	}
	for _, st := range states {
		_, end, err := c.Bounds(ctx, s.observations, st.Partition)
		if err != nil {
			return err
		}
		if st.Mark.Position < end {
			return fmt.Errorf("partition %d is at %d of %d", st.Partition, st.Mark.Position, end)
		}
		var number int64
		err = db.Pool().QueryRow(ctx, "SELECT number FROM assembler_cursor WHERE layout = 1 AND partition = $1", st.Partition).Scan(&number)
		var changed bool
		if err == nil || errors.Is(err, pgx.ErrNoRows) {
			err = db.Pool().QueryRow(ctx, "SELECT exists(SELECT FROM finding WHERE partition = $1 AND number > $2)", st.Partition, number).Scan(&changed)
		}
		if err != nil || changed {
			return fmt.Errorf("assembler is at %d of partition %d: %w", number, st.Partition, err)
		}
	}
	return nil
}

// effects is what the promise covers.
func (s *site) effects(ctx context.Context, db *storage.DB, c *stream.Client) (map[string][]string, error) {
	return effects.Read(ctx, db, c, s.sources())
}

// quiet is a log that shows only when asked for.
func quiet() *slog.Logger {
	if os.Getenv("SPINETEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
