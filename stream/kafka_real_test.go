package stream_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/vedette-sec/vedette/internal/kafkatest"
	"github.com/vedette-sec/vedette/stream"
)

// patient is a context for what waits until a broker is back.
func patient(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return c
}

func client(t testing.TB, cfg stream.Config) *stream.Client {
	t.Helper()
	c, err := stream.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := patient(t)
	for !ok() {
		select {
		case <-deadline.Done():
			t.Fatalf("never came true: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ensure makes a topic that no other test uses.
func ensure(t testing.TB, c *stream.Client, topic stream.Topic) {
	t.Helper()
	if err := c.EnsureTopics(patient(t), topic); err != nil {
		t.Fatal(err)
	}
}

// TestRealKafka checks against a real Kafka what the other tests check against
// the embedded broker, as far as the two could differ.
func TestRealKafka(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{Secure: true})
	c := client(t, stream.Config{Brokers: k.Brokers(), RequestTimeout: 30 * time.Second})
	for name, test := range map[string]func(*testing.T, *kafkatest.Cluster, *stream.Client){
		"EnsureTopics":       realTopics,
		"Produce":            realProduce,
		"Errors":             realErrors,
		"Gaps":               realGaps,
		"TransactionMarkers": realTransaction,
		"Append":             realAppend,
		"Security":           realSecurity,
		"OAuthBearer":        realOAuth,
	} {
		t.Run(name, func(t *testing.T) { test(t, k, c) })
	}
	// The last, since it ends the broker.
	t.Run("Restart", func(t *testing.T) { realRestart(t, k, c) })
}

func realTopics(t *testing.T, _ *kafkatest.Cluster, c *stream.Client) {
	topic := stream.Topic{Name: "ensured", Partitions: 3, Retention: time.Hour, RetentionBytes: 64 << 20, SegmentBytes: 16 << 20}
	for range 2 {
		ensure(t, c, topic)
	}
	state, err := c.Inspect(ctx(t), "ensured", "nowhere")
	if err != nil {
		t.Fatal(err)
	}
	if state.Brokers != 1 || state.ID == "" || len(state.Topics) != 2 || !errors.Is(state.Topics[1].Err, stream.ErrNoTopic) {
		t.Errorf("cluster %+v, want one broker and only the first topic", state)
	}
	if got := state.Topics[0]; got.Err != nil || got.Partitions != 3 || got.Replication != 1 || got.InSync != 1 || len(got.Leaderless) != 0 || got.ConfigErr != nil {
		t.Errorf("topic %+v, want 3 partitions that are led, one copy of each", got)
	}
	for key, want := range map[string]string{
		"retention.ms": "3600000", "retention.bytes": "67108864", "segment.bytes": "16777216", "cleanup.policy": "delete",
		"max.message.bytes": strconv.Itoa(stream.MaxMessageBytes), "message.timestamp.type": "CreateTime",
	} {
		if got := state.Topics[0].Config[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	topic.Partitions = 4
	if err := c.EnsureTopics(ctx(t), topic); !errors.Is(err, stream.ErrPartitions) {
		t.Errorf("another partition count: error %v, want ErrPartitions", err)
	}
	impossible := stream.Topic{Name: "impossible", Partitions: 1, Replication: 3}
	if err := c.EnsureTopics(ctx(t), impossible); !errors.Is(err, kafka.InvalidReplicationFactor) {
		t.Errorf("three copies on one broker: error %v", err)
	}
	// Many at once: whoever comes second finds what the first one made.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := c.EnsureTopics(ctx(t), stream.Topic{Name: "raced", Partitions: 2}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A broker checks batches and gives them their offsets: ours have to be right in
// every codec, and what is read has to be what was written, under the same
// offsets however often it is read.
func realProduce(t *testing.T, _ *kafkatest.Cluster, c *stream.Client) {
	ensure(t, c, stream.Topic{Name: "produced", Partitions: 3})
	for i, codec := range []stream.Compression{stream.CompressionNone, stream.CompressionSnappy, stream.CompressionLZ4} {
		p := producer(t, c, stream.ProducerOptions{Topic: "produced", Compression: codec})
		noise := make([]byte, 300<<10)
		rand.Read(noise)
		long := make([]byte, stream.MaxRecordBytes)
		rand.Read(long)
		batches := [][]stream.Record{
			{
				{Value: []byte("one"), Headers: []stream.Header{{Key: "a", Value: []byte("b")}, {Key: "empty", Value: []byte{}}}},
				{Key: []byte("k"), Value: noise},
				{Value: []byte{}},
				{Value: bytes.Repeat([]byte("long "), 20000)},
			},
			{{Value: long}},
		}
		var many []stream.Record
		for n := range 3000 {
			many = append(many, stream.Record{Value: fmt.Appendf(nil, "%d %0100d", n, n)})
		}
		batches = append(batches, many)
		var want []stream.Record
		for _, b := range batches {
			base, err := p.Produce(ctx(t), int32(i), b)
			if err != nil {
				t.Fatalf("%s: %v", codec, err)
			}
			if base != int64(len(want)) {
				t.Errorf("%s: batch begins at %d, want %d", codec, base, len(want))
			}
			want = append(want, b...)
		}
		for range 2 {
			got := readAll(t, c, "produced", int32(i), 0)
			if len(got) != len(want) {
				t.Fatalf("%s: %d records read, want %d", codec, len(got), len(want))
			}
			for n, r := range got {
				if r.Offset != int64(n) || !bytes.Equal(r.Value, want[n].Value) || !bytes.Equal(r.Key, want[n].Key) || len(r.Headers) != len(want[n].Headers) {
					t.Fatalf("%s: record %d differs (offset %d, %d bytes)", codec, n, r.Offset, len(r.Value))
				}
				if d := time.Since(r.Time); d < 0 || d > 5*time.Minute {
					t.Fatalf("%s: record %d is stamped %v", codec, n, r.Time)
				}
			}
		}
		if mid := readAll(t, c, "produced", int32(i), 2); len(mid) != len(want)-2 || mid[0].Offset != 2 {
			t.Errorf("%s: from the middle of a batch: %d records", codec, len(mid))
		}
	}
}

func realErrors(t *testing.T, _ *kafkatest.Cluster, c *stream.Client) {
	ensure(t, c, stream.Topic{Name: "errors", Partitions: 1})
	for topic, partition := range map[string]int32{"errors": 1, "missing": 0} {
		p := producer(t, c, stream.ProducerOptions{Topic: topic, Timeout: 3 * time.Second})
		_, err := p.Produce(ctx(t), partition, []stream.Record{{Value: []byte("x")}})
		var perr *stream.ProduceError
		if !errors.As(err, &perr) {
			t.Errorf("%s/%d: error %v, want a ProduceError", topic, partition, err)
		}
	}
	r := c.NewReader(stream.ReaderOptions{Topic: "errors", Offset: 5})
	for range 2 {
		if _, err := r.Read(ctx(t)); !errors.Is(err, stream.ErrTruncated) {
			t.Errorf("past the end: error %v, want ErrTruncated", err)
		}
	}
}

func realGaps(t *testing.T, k *kafkatest.Cluster, c *stream.Client) {
	ensure(t, c, stream.Topic{Name: "gaps", Partitions: 2})
	p := producer(t, c, stream.ProducerOptions{Topic: "gaps"})
	for i := range 40 {
		if _, err := p.Produce(ctx(t), 1, []stream.Record{{Value: fmt.Appendf(nil, "%d", i)}, {Value: []byte("second")}}); err != nil {
			t.Fatal(err)
		}
	}
	behind := c.NewReader(stream.ReaderOptions{Topic: "gaps", Partition: 1, Offset: 3})
	k.DeleteRecords("gaps", 1, 21) // in the middle of a batch
	if first, end, err := c.Bounds(ctx(t), "gaps", 1); err != nil || first != 21 || end != 80 {
		t.Fatalf("log is [%d, %d) (%v), want [21, 80)", first, end, err)
	}
	_, err := behind.Read(ctx(t))
	var gap *stream.GapError
	if !errors.As(err, &gap) || *gap != (stream.GapError{Topic: "gaps", Partition: 1, From: 3, To: 21}) {
		t.Fatalf("error %v, want the gap from 3 to 21", err)
	}
	next := int64(21)
	for next < 80 {
		b, err := behind.Read(ctx(t))
		if err != nil {
			t.Fatalf("reading on behind the gap at %d: %v", next, err)
		}
		for _, r := range b.Records {
			if r.Offset != next {
				t.Fatalf("offset %d, want %d", r.Offset, next)
			}
			next++
		}
	}
	// All of it gone: what comes next is told from what is lost.
	k.DeleteRecords("gaps", 1, 80)
	behind = c.NewReader(stream.ReaderOptions{Topic: "gaps", Partition: 1, Offset: 30})
	if _, err := behind.Read(ctx(t)); !errors.As(err, &gap) || gap.From != 30 || gap.To != 80 {
		t.Fatalf("error %v, want the gap from 30 to 80", err)
	}
	if b, err := behind.Read(ctx(t)); err != nil || len(b.Records) != 0 || b.Next != 80 {
		t.Errorf("at the end: %+v, %v", b, err)
	}
}

func realTransaction(t *testing.T, k *kafkatest.Cluster, c *stream.Client) {
	ensure(t, c, stream.Topic{Name: "transactions", Partitions: 1})
	tr := &kafka.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	admin := &kafka.Client{Addr: kafka.TCP(k.Brokers()...), Transport: tr}
	p := producer(t, c, stream.ProducerOptions{Topic: "transactions"})
	add := func(v string) {
		t.Helper()
		if _, err := p.Produce(ctx(t), 0, []stream.Record{{Value: []byte(v)}}); err != nil {
			t.Fatal(err)
		}
	}
	// Asked for the first time, Kafka makes its topic of transactions first.
	until(t, "transactions are coordinated", func() bool {
		id, err := admin.InitProducerID(ctx(t), &kafka.InitProducerIDRequest{TransactionalID: "warm-up", TransactionTimeoutMs: 10000, ProducerID: -1, ProducerEpoch: -1})
		return err == nil && id.Error == nil
	})
	add("before")
	writeTransaction(t, admin, "transactions", "inside")
	// Kafka answers that a transaction has ended before it has written the marker.
	until(t, "the marker is written", func() bool {
		_, end, err := c.Bounds(ctx(t), "transactions", 0)
		return err == nil && end == 3
	})
	add("after")
	var got []string
	for _, r := range readAll(t, c, "transactions", 0, 0) {
		got = append(got, fmt.Sprintf("%d %s", r.Offset, r.Value))
	}
	if want := "0 before, 1 inside, 3 after"; strings.Join(got, ", ") != want {
		t.Errorf("read %q, want %q", got, want)
	}
}

func realAppend(t *testing.T, _ *kafkatest.Cluster, c *stream.Client) {
	const parts = 3
	ensure(t, c, stream.Topic{Name: "appended", Partitions: parts})
	ensure(t, c, stream.Topic{Name: "dead", Partitions: 1})
	a := appender(t, c, stream.AppenderOptions{Topic: "appended", DeadLetterTopic: "dead", Partitions: parts, TickEvery: 50 * time.Millisecond})
	want := make(map[string]int)
	var wg sync.WaitGroup
	for w := range 8 {
		var msgs []stream.LogMessage
		for i := range 500 {
			v := fmt.Sprintf("%d/%d %s", w, i, strings.Repeat("x", 900))
			want[v]++
			msgs = append(msgs, stream.LogMessage{Tenant: "default", Type: "aws.cloudtrail", Origin: "test", Value: []byte(v)})
		}
		wg.Go(func() {
			if err := a.Append(ctx(t), msgs); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	through := time.Unix(9, 0)
	if err := a.Broadcast(ctx(t), stream.LogMessage{Kind: stream.KindProgress, Origin: "test", Type: "aws.cloudtrail", Through: through}); err != nil {
		t.Fatal(err)
	}
	var ends [parts]int64
	for p := range int32(parts) {
		recs := readAll(t, c, "appended", p, 0)
		ends[p] = int64(len(recs))
		for i, r := range recs {
			m, err := stream.DecodeLog(&r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if last := i == len(recs)-1; last != (m.Kind == stream.KindProgress) || last && !m.Through.Equal(through) {
				t.Errorf("partition %d, record %d of %d: %+v", p, i, len(recs), m)
			}
			if m.Kind == stream.KindRecord {
				want[string(m.Value)]--
			}
		}
	}
	for v, n := range want {
		if n != 0 {
			t.Fatalf("%.10s appended %d times too few", v, n)
		}
	}

	// The clock of silent partitions.
	run, stop := context.WithCancel(ctx(t))
	result := make(chan error, 1)
	go func() { result <- a.Run(run) }()
	for p := range int32(parts) {
		r := c.NewReader(stream.ReaderOptions{Topic: "appended", Partition: p, Offset: ends[p]})
		for r.Next() < ends[p]+2 {
			b, err := r.Read(ctx(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range b.Records {
				if m, err := stream.DecodeLog(&rec, nil); err != nil || m.Kind != stream.KindTick {
					t.Errorf("%+v (%v), want a tick", m, err)
				}
			}
		}
	}
	stop()
	if err := <-result; err != nil {
		t.Error(err)
	}

	if err := a.DeadLetter(ctx(t), stream.DeadLetter{Reason: "too_large", Partition: -1, Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if recs := readAll(t, c, "dead", 0, 0); len(recs) != 1 {
		t.Errorf("%d dead letters, want 1", len(recs))
	}
}

// writers append numbered records until they are told to stop, as collectors do:
// what was not acknowledged is appended again.
type writers struct {
	a     *stream.LogAppender
	wg    sync.WaitGroup
	stop  atomic.Bool
	acked atomic.Int64 // calls
	fails atomic.Int64
	calls [3]int // of each writer, when it has stopped
}

const perCall = 20

func startWriters(t *testing.T, a *stream.LogAppender) *writers {
	w := &writers{a: a}
	deadline := patient(t)
	for i := range w.calls {
		w.wg.Go(func() {
			for !w.stop.Load() {
				var msgs []stream.LogMessage
				for n := range perCall {
					msgs = append(msgs, stream.LogMessage{Origin: "test", Value: fmt.Appendf(nil, "%d/%d", i, w.calls[i]*perCall+n)})
				}
				err := a.Append(deadline, msgs)
				for err != nil && deadline.Err() == nil {
					if !stream.Retriable(err) {
						t.Errorf("an error that nobody would try again: %v", err)
						return
					}
					w.fails.Add(1)
					err = a.Append(deadline, msgs)
				}
				if err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
				w.calls[i]++
				w.acked.Add(1)
			}
		})
	}
	return w
}

// more waits until so many more calls have been acknowledged.
func (w *writers) more(t *testing.T, n int64) {
	t.Helper()
	want := w.acked.Load() + n
	until(t, fmt.Sprintf("%d more calls are acknowledged", n), func() bool { return w.acked.Load() >= want })
}

// follow reads a partition until everything up to the offset that end tells is
// read, and checks that there is no hole. It outlives brokers.
func follow(t *testing.T, c *stream.Client, topic string, partition int32, end func() int64, seen func(string)) {
	deadline := patient(t)
	r := c.NewReader(stream.ReaderOptions{Topic: topic, Partition: partition, MaxWait: 100 * time.Millisecond})
	var next int64
	for next < end() {
		b, err := r.Read(deadline)
		if err != nil {
			if !stream.Retriable(err) {
				t.Errorf("reading %s/%d at %d: %v", topic, partition, next, err)
				return
			}
			continue
		}
		for _, rec := range b.Records {
			if rec.Offset != next {
				t.Errorf("%s/%d: offset %d, want %d", topic, partition, rec.Offset, next)
				return
			}
			next++
			m, err := stream.DecodeLog(&rec, nil)
			if err != nil {
				t.Error(err)
				return
			}
			seen(string(m.Value))
		}
	}
}

// survive has records appended and read while disturb does its worst, and checks
// that nothing acknowledged is lost.
func survive(t *testing.T, c *stream.Client, topic string, parts int, disturb func(*writers)) {
	a := appender(t, c, stream.AppenderOptions{Topic: topic, Partitions: parts, Timeout: 3 * time.Second})
	w := startWriters(t, a)
	ends := make([]atomic.Int64, parts)
	counts := make([]map[string]int, parts)
	var readers sync.WaitGroup
	for p := range parts {
		ends[p].Store(math.MaxInt64)
		counts[p] = make(map[string]int)
		readers.Go(func() {
			follow(t, c, topic, int32(p), ends[p].Load, func(v string) { counts[p][v]++ })
		})
	}
	w.more(t, 20)
	disturb(w)
	w.more(t, 20)
	w.stop.Store(true)
	w.wg.Wait()
	for p := range parts {
		_, end, err := c.Bounds(ctx(t), topic, int32(p))
		if err != nil {
			t.Error(err)
		}
		ends[p].Store(end)
	}
	readers.Wait()

	all, copies := make(map[string]int), 0
	for _, m := range counts {
		for v, n := range m {
			all[v] += n
			copies += n
		}
	}
	for i, calls := range w.calls {
		for n := range calls * perCall {
			if all[fmt.Sprintf("%d/%d", i, n)] == 0 {
				t.Fatalf("record %d of writer %d was acknowledged and is lost", n, i)
			}
		}
	}
	t.Logf("%d records acknowledged, %d written twice; %d calls failed and were repeated", len(all), copies-len(all), w.fails.Load())
}

// A broker that stops in order, and one that is killed, while records are appended and read.
func realRestart(t *testing.T, k *kafkatest.Cluster, c *stream.Client) {
	ensure(t, c, stream.Topic{Name: "restarts", Partitions: 2})
	survive(t, c, "restarts", 2, func(w *writers) {
		k.Restart(1)
		w.more(t, 20)
		k.Kill(1)
		k.Start(1)
	})
}

// TestRealKafkaLeaderChange kills the leader of partitions that are written and
// read: another node takes over with all that was acknowledged.
func TestRealKafkaLeaderChange(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{Nodes: 3})
	c := client(t, stream.Config{Brokers: k.Brokers(), RequestTimeout: 30 * time.Second})
	ensure(t, c, stream.Topic{Name: "led", Partitions: 2, Replication: 3})
	survive(t, c, "led", 2, func(w *writers) {
		before, ok := k.Partition("led", 0)
		if !ok || len(before.Replicas) != 3 {
			t.Fatalf("partition %+v, want three copies", before)
		}
		k.Kill(before.Leader)
		until(t, "another node leads", func() bool {
			after, ok := k.Partition("led", 0)
			return ok && after.Leader >= 0 && after.Leader != before.Leader
		})
		w.more(t, 20)
		k.Start(before.Leader)
		until(t, "all three have everything again", func() bool {
			after, ok := k.Partition("led", 0)
			return ok && len(after.InSync) == 3
		})
		// Those that were followers are the leaders now, and go in order.
		k.Restart(1 + before.Leader%3)
	})
}
