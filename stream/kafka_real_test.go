package stream_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
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
