package spinetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vedette-sec/vedette/detect/layout"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// logs reads all of vedette.logs.
func (m *moving) readLogs(t *testing.T) [][]stream.Record {
	t.Helper()
	out := make([][]stream.Record, m.sources())
	for p := range out {
		first, end, err := m.c.Bounds(m.ctx, stream.TopicLogs, int32(p))
		if err != nil {
			t.Fatal(err)
		}
		for r := m.c.NewReader(stream.ReaderOptions{Topic: stream.TopicLogs, Partition: int32(p), Offset: first}); r.Next() < end; {
			b, err := r.Read(m.ctx)
			if err != nil {
				t.Fatal(err)
			}
			out[p] = append(out[p], b.Records...)
		}
	}
	return out
}

// writeLogs makes vedette.logs anew, on a broker, with the records and their stamps.
func (m *moving) writeLogs(t *testing.T, broker string, logs [][]stream.Record) {
	t.Helper()
	c, err := stream.NewClient(stream.Config{Brokers: []string{broker}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m.replaceTopic(t, c, stream.TopicLogs, len(logs))
	for p, recs := range logs {
		var now time.Time
		producer, err := c.NewProducer(stream.ProducerOptions{Topic: stream.TopicLogs, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		for len(recs) > 0 {
			n := 1
			for n < len(recs) && n < 200 && recs[n].Time.Equal(recs[0].Time) {
				n++
			}
			now = recs[0].Time
			if _, err := producer.Produce(m.ctx, int32(p), recs[:n]); err != nil {
				t.Fatal(err)
			}
			recs = recs[n:]
		}
	}
}

func (m *moving) replaceTopic(t *testing.T, c *stream.Client, topic string, partitions int) {
	t.Helper()
	if err := c.DeleteTopic(m.ctx, topic); err != nil {
		t.Fatal(err)
	}
	for {
		state, err := c.Inspect(m.ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		if errors.Is(state.Topics[0].Err, stream.ErrNoTopic) {
			break
		}
	}
	if err := c.EnsureTopics(m.ctx, stream.Topic{Name: topic, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
}

// reconnect gives the test itself and the writer connections that know nothing of
// the topics that there were.
func (m *moving) reconnect(t *testing.T) {
	t.Helper()
	_, c, err := m.open(m.ctx)
	if err != nil {
		t.Fatal(err)
	}
	m.c = c
	t.Cleanup(c.Close)
	a, err := c.NewLogAppender(stream.AppenderOptions{
		Partitions: m.sources(), Now: func() time.Time { return time.Unix(0, m.w.now.Load()) }, Logger: m.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	m.w.appender = a
}

// refuses lets the service begin, which has to end by itself and say what to do.
func (m *moving) refuses(t *testing.T) {
	t.Helper()
	c := m.join(t)
	err := <-c.done
	c.parts--
	if err := c.leave(); err != nil && !errors.Is(err, stream.ErrTruncated) {
		t.Error(err)
	}
	if !errors.Is(err, stream.ErrTruncated) || !strings.Contains(err.Error(), "vedette repair") {
		t.Fatalf("the service ended with %v; want ErrTruncated, and what to do", err)
	}
}

// outcome is found without evidence, which says where in a log something stood,
// and apart from it the incidents that tell of what could not be seen.
func (m *moving) outcome(t *testing.T) (all map[string][]string, blind []string) {
	t.Helper()
	all = map[string][]string{"profile": m.profiles(t)}
	lost := rule.VisibilityLost()
	findings, err := pgtest.Findings(m.ctx, m.db)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		f.Evidence = nil
		if f.RuleVersion != lost.Version {
			all["finding"] = append(all["finding"], fmt.Sprintf("%+v", f))
		}
	}
	for what, query := range map[string]string{
		"incident": `SELECT concat_ws(' ', tenant, encode(opener, 'hex'), rule_id, rule_ids, title, severity, account, tags, count, first_seen, last_seen, status)
			FROM incident WHERE status <> 'merged' AND rule_id <> $1`,
		"intent": `SELECT concat_ws(' ', i.tenant, encode(i.opener, 'hex'), n.receiver, n.event, n.wanted = i.version)
			FROM intent n JOIN incident i ON i.tenant = n.tenant AND i.id = n.incident_id WHERE i.status <> 'merged' AND i.rule_id <> $1`,
		"blind":  `SELECT title FROM incident WHERE rule_id = $1 ORDER BY title`,
		"entity": `SELECT concat_ws(' ', tenant, encode(finding_id, 'hex'), type, value) FROM finding_entity WHERE type <> 'log.range' AND $1 <> ''`,
	} {
		rows, err := m.db.Pool().Query(m.ctx, query, lost.ID)
		if err != nil {
			t.Fatal(err)
		}
		if all[what], err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	return all, all["blind"]
}

// untouched is what a service finds that reads the logs from a broker of its own.
func (m *moving) untouched(t *testing.T, logs [][]stream.Record) map[string][]string {
	t.Helper()
	b, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	u := &moving{site: &site{brokers: []string{b.Addr()}, observations: stream.TopicObservations, dsn: pgtest.NewDSN(t), gens: m.gens, log: m.log}, ctx: m.ctx}
	u.db, u.c = open(t, m.ctx, u.site)
	u.writeLogs(t, b.Addr(), logs)
	c := u.join(t)
	u.through(t)
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	all, blind := u.outcome(t)
	if len(blind) > 0 {
		t.Fatalf("an untouched log is blind: %q", blind)
	}
	return all
}

// appended is the logs as they were, with what was written behind them since.
func appended(was, is [][]stream.Record, kept []int) [][]stream.Record {
	out := make([][]stream.Record, len(was))
	for p := range was {
		out[p] = append(slices.Clone(was[p]), is[p][kept[p]:]...)
	}
	return out
}

func repair(ctx context.Context, o layout.Options) (layout.Report, error) {
	return layout.Repair(ctx, o)
}

// TestRepairTruncated: one source loses its end, another is replaced wholly. What
// had been read of them is found once, and so is what comes after.
func TestRepairTruncated(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	m := repairing(t)
	was := m.readLogs(t)
	now, kept := slices.Clone(was), []int{len(was[0]), len(was[1]) * 9 / 10, 0}
	now[1], now[2] = was[1][:kept[1]], nil
	m.writeLogs(t, m.brokers[0], now)
	m.reconnect(t)
	if err := m.write(t, 40); err != nil { // somebody writes before anybody notices
		t.Fatal(err)
	}
	m.refuses(t)

	o, done := m.options(t)
	problems, err := layout.Examine(m.ctx, o)
	done()
	if err != nil || len(problems) != 2 || problems[0].Partition != 1 || problems[1].Partition != 2 {
		t.Fatalf("problems %v (%v), want one of source 1 and one of source 2", problems, err)
	}
	if !strings.Contains(problems[0].What, "same up to") || strings.Contains(problems[1].What, "same up to") {
		t.Errorf("problems %v: source 1 is the same up to somewhere, source 2 is not", problems)
	}
	r := m.killing(t, false, repair)
	t.Logf("%d kills; lost %v", m.kills, r.Lost)

	c := m.join(t)
	if err := m.write(t, m.w.steps-m.w.load.step); err != nil {
		t.Fatal(err)
	}
	m.through(t)
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	got, blind := m.outcome(t)
	if len(blind) != 2 || !strings.Contains(blind[0], "Visibility lost: vedette.logs partition 1") || !strings.Contains(blind[1], "partition 2") {
		t.Errorf("incidents %q, want one of each source that was replaced", blind)
	}
	compare(t, got, m.untouched(t, appended(was, m.readLogs(t), kept)))
}

// repairing is a service that was stopped after all that was written had been read.
func repairing(t *testing.T) *moving {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	m := newMoving(t, seed, 600)
	c := m.join(t)
	if err := m.write(t, 350); err != nil {
		t.Fatal(err)
	}
	m.through(t)
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	return m
}

// deleteRecords deletes the records of a source below an offset, as retention does.
func (m *moving) deleteRecords(t *testing.T, partition int32, first int64) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(m.brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	req := kmsg.NewDeleteRecordsRequest()
	req.TimeoutMillis = 5000
	part := kmsg.NewDeleteRecordsRequestTopicPartition()
	part.Partition, part.Offset = partition, first
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic, topic.Partitions = stream.TopicLogs, []kmsg.DeleteRecordsRequestTopicPartition{part}
	req.Topics = append(req.Topics, topic)
	if _, err := req.RequestWith(m.ctx, client); err != nil {
		t.Fatal(err)
	}
}

// TestLostRange: records are deleted before they were read. All others count, and
// an incident names those that do not.
func TestLostRange(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	m := repairing(t)
	was := m.readLogs(t)
	// What is lost is not delivered again: it would be news, and late.
	m.w.load.once = true
	if err := m.write(t, 60); err != nil {
		t.Fatal(err)
	}
	m.w.load.once = false
	first := int64(len(was[1])) + 30
	m.deleteRecords(t, 1, first)

	// The service may be killed while it steps over them.
	for range 4 {
		c := m.join(t)
		time.Sleep(time.Duration(m.rnd.IntN(150)) * time.Millisecond)
		if err := c.leave(); err != nil {
			t.Fatal(err)
		}
	}
	c := m.join(t)
	if err := m.write(t, m.w.steps-m.w.load.step); err != nil {
		t.Fatal(err)
	}
	m.through(t)
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	got, blind := m.outcome(t)
	want := fmt.Sprintf("Visibility lost: vedette.logs partition 1 (incarnation 1) offsets %d–%d", len(was[1]), first-1)
	if len(blind) != 1 || blind[0] != want {
		t.Errorf("incidents %q, want %q", blind, want)
	}
	is := m.readLogs(t)
	compare(t, got, m.untouched(t, appended(was, is, []int{len(was[0]), 0, len(was[2])})))
}

// TestRepairObservations: the observations are deleted. They are written anew and
// nothing is lost.
func TestRepairObservations(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	m := repairing(t)
	if err := m.write(t, 60); err != nil { // not read yet
		t.Fatal(err)
	}
	m.replaceTopic(t, m.c, m.observations, m.partitions())
	m.refuses(t)
	o, done := m.options(t)
	problems, err := layout.Examine(m.ctx, o)
	done()
	if err != nil || len(problems) != m.partitions() || problems[0].Topic != m.observations {
		t.Fatalf("problems %v (%v), want one of each partition of the observations", problems, err)
	}
	r := m.killing(t, false, repair)
	t.Logf("%d kills; lost %v", m.kills, r.Lost)
	m.follow(t)
	c := m.join(t)
	if err := m.write(t, m.w.steps-m.w.load.step); err != nil {
		t.Fatal(err)
	}
	m.through(t)
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	got, blind := m.outcome(t)
	if len(blind) > 0 {
		t.Errorf("incidents %q, want none: all of it was still there", blind)
	}
	compare(t, got, m.untouched(t, m.readLogs(t)))
}

// TestRepairWithoutHistory: the log has lost what windows would need. The service
// goes on all the same, with what is there, and says so.
func TestRepairWithoutHistory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	m := repairing(t)
	read := int64(len(m.readLogs(t)[1]))
	m.deleteRecords(t, 1, read-20)
	m.replaceTopic(t, m.c, m.observations, m.partitions())
	r := m.killing(t, false, repair)
	t.Logf("%d kills; lost %v", m.kills, r.Lost) // nothing if it was killed behind the last step
	before, _ := m.outcome(t)
	m.follow(t)
	c := m.join(t)
	if err := m.write(t, m.w.steps-m.w.load.step); err != nil {
		t.Fatal(err)
	}
	m.through(t)
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	after, blind := m.outcome(t)
	if len(blind) != 1 || !strings.HasSuffix(blind[0], fmt.Sprintf("–%d, for windows", read-21)) {
		t.Errorf("incidents %q, want one of the windows", blind)
	}
	if len(after["finding"]) <= len(before["finding"]) {
		t.Errorf("%d findings, as many as before", len(after["finding"]))
	}
}
