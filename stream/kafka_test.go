package stream_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/stream"
)

func TestEnsureTopics(t *testing.T) {
	logs := stream.Topic{Name: "logs", Partitions: 3, Retention: time.Hour, RetentionBytes: 1 << 20, SegmentBytes: 1 << 20}
	_, c := broker(t, logs)
	if err := c.EnsureTopics(ctx(t), logs, stream.Topic{Name: "more", Partitions: 1}); err != nil {
		t.Fatalf("second time: %v", err)
	}
	logs.Partitions = 4
	err := c.EnsureTopics(ctx(t), logs)
	if !errors.Is(err, stream.ErrPartitions) {
		t.Fatalf("another partition count: error %v, want ErrPartitions", err)
	}
	for _, want := range []string{"logs", "has 3 partitions", "must have 4"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestProduceAndRead(t *testing.T) {
	_, c := broker(t, stream.Topic{Name: "logs", Partitions: 2})
	for _, codec := range []stream.Compression{stream.CompressionNone, stream.CompressionSnappy, stream.CompressionLZ4} {
		t.Run(string(codec), func(t *testing.T) {
			noise := make([]byte, 300<<10)
			rand.Read(noise)
			p := producer(t, c, stream.ProducerOptions{Topic: "logs", Compression: codec})
			recs := []stream.Record{
				{Value: []byte("one"), Headers: []stream.Header{{Key: "a", Value: []byte("b")}, {Key: "empty", Value: []byte{}}}},
				{Key: []byte("k"), Value: noise},
				{Value: []byte{}},
				{Value: bytes.Repeat([]byte("long "), 20000)},
			}
			base, err := p.Produce(ctx(t), 1, recs)
			if err != nil {
				t.Fatal(err)
			}
			got := readAll(t, c, "logs", 1, base)
			if len(got) != len(recs) {
				t.Fatalf("%d records read, want %d", len(got), len(recs))
			}
			for i, r := range got {
				if r.Offset != base+int64(i) {
					t.Errorf("record %d has offset %d, want %d", i, r.Offset, base+int64(i))
				}
				if !bytes.Equal(r.Value, recs[i].Value) || !bytes.Equal(r.Key, recs[i].Key) {
					t.Errorf("record %d differs: %d bytes, want %d", i, len(r.Value), len(recs[i].Value))
				}
				if d := time.Since(r.Time); d < 0 || d > time.Minute {
					t.Errorf("record %d stamped %v", i, r.Time)
				}
			}
			if h := got[0].Headers; len(h) != 2 || h[0].Key != "a" || string(h[0].Value) != "b" || h[1].Key != "empty" {
				t.Errorf("headers %v", h)
			}
			// From the middle of a batch: nothing from below.
			if mid := readAll(t, c, "logs", 1, base+2); len(mid) != 2 || mid[0].Offset != base+2 {
				t.Errorf("read from the middle of a batch: %d records", len(mid))
			}
		})
	}
}

func TestProduceTooLarge(t *testing.T) {
	_, c := broker(t, stream.Topic{Name: "logs", Partitions: 1})
	p := producer(t, c, stream.ProducerOptions{Topic: "logs", Compression: stream.CompressionNone})
	_, err := p.Produce(ctx(t), 0, []stream.Record{{Value: make([]byte, stream.MaxMessageBytes)}})
	if !errors.Is(err, stream.ErrTooLarge) || stream.Retriable(err) {
		t.Errorf("error %v, want ErrTooLarge, not retriable", err)
	}
	if _, err := p.Produce(ctx(t), 0, []stream.Record{{Value: make([]byte, stream.MaxRecordBytes)}}); err != nil {
		t.Errorf("the longest record: %v", err)
	}
}

func TestStampNeverGoesBack(t *testing.T) {
	_, c := broker(t, stream.Topic{Name: "logs", Partitions: 1})
	now := time.UnixMilli(1_800_000_000_000)
	p := producer(t, c, stream.ProducerOptions{Topic: "logs", Now: func() time.Time { return now }})
	for _, step := range []time.Duration{0, time.Minute, -time.Hour, 2 * time.Hour} {
		now = now.Add(step)
		if _, err := p.Produce(ctx(t), 0, []stream.Record{{Value: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
	}
	var last time.Time
	var back int
	for _, r := range readAll(t, c, "logs", 0, 0) {
		if r.Time.Before(last) {
			t.Errorf("stamp of %d goes back from %v to %v", r.Offset, last, r.Time)
		}
		if r.Time.Equal(last) {
			back++
		}
		last = r.Time
	}
	if back != 1 || !last.Equal(now) {
		t.Errorf("%d equal stamps and the last %v, want 1 and %v", back, last, now)
	}
}

func TestProduceErrors(t *testing.T) {
	b, c := broker(t, stream.Topic{Name: "logs", Partitions: 1})
	p := producer(t, c, stream.ProducerOptions{Topic: "logs"})
	rec := []stream.Record{{Value: []byte("x")}}
	for name, tc := range map[string]struct {
		err       *kerr.Error
		unknown   bool
		retriable bool
		written   int
	}{
		"leader moved":           {kerr.NotLeaderForPartition, false, true, 0},
		"answer lost":            {kerr.RequestTimedOut, true, true, 1},
		"too few replicas after": {kerr.NotEnoughReplicasAfterAppend, true, true, 1},
		"not allowed":            {kerr.TopicAuthorizationFailed, false, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, before, err := c.Bounds(ctx(t), "logs", 0)
			if err != nil {
				t.Fatal(err)
			}
			b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "logs", Err: tc.err})
			_, err = p.Produce(ctx(t), 0, rec)
			var perr *stream.ProduceError
			if !errors.As(err, &perr) {
				t.Fatalf("error %v, want a ProduceError", err)
			}
			if perr.Unknown != tc.unknown || stream.Retriable(err) != tc.retriable {
				t.Errorf("%v: unknown %v retriable %v, want %v and %v", err, perr.Unknown, stream.Retriable(err), tc.unknown, tc.retriable)
			}
			_, after, err := c.Bounds(ctx(t), "logs", 0)
			if err != nil {
				t.Fatal(err)
			}
			if after-before != int64(tc.written) {
				t.Errorf("%d records written, want %d", after-before, tc.written)
			}
		})
	}
}

func TestProduceDeadline(t *testing.T) {
	b, c := broker(t, stream.Topic{Name: "logs", Partitions: 1})
	hang := make(chan struct{})
	b.Cluster().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.Cluster().SleepControl(func() { <-hang })
		return nil, nil, false
	})
	defer close(hang)
	p := producer(t, c, stream.ProducerOptions{Topic: "logs", Timeout: 100 * time.Millisecond})
	_, err := p.Produce(ctx(t), 0, []stream.Record{{Value: []byte("x")}})
	var perr *stream.ProduceError
	if !errors.As(err, &perr) || !perr.Unknown || !stream.Retriable(err) {
		t.Errorf("a broker that hangs: error %v, want an unknown outcome that is retriable", err)
	}
}

func TestReaderTellsGaps(t *testing.T) {
	b, c := broker(t, stream.Topic{Name: "logs", Partitions: 1, RetentionBytes: 2000})
	p := producer(t, c, stream.ProducerOptions{Topic: "logs", Compression: stream.CompressionNone})
	for i := range 40 {
		if _, err := p.Produce(ctx(t), 0, []stream.Record{{Value: fmt.Appendf(nil, "%0100d", i)}, {Value: []byte("second")}}); err != nil {
			t.Fatal(err)
		}
	}
	b.Cluster().ApplyRetention()
	first, end, err := c.Bounds(ctx(t), "logs", 0)
	if err != nil {
		t.Fatal(err)
	}
	if first == 0 || end != 80 {
		t.Fatalf("log is [%d, %d), want something lost", first, end)
	}
	r := c.NewReader(stream.ReaderOptions{Topic: "logs", Offset: 3, MaxWait: 10 * time.Millisecond})
	_, err = r.Read(ctx(t))
	var gap *stream.GapError
	if !errors.As(err, &gap) || !errors.Is(err, stream.ErrGap) {
		t.Fatalf("error %v, want a GapError", err)
	}
	if want := (stream.GapError{Topic: "logs", From: 3, To: first}); *gap != want {
		t.Errorf("gap %+v, want %+v", *gap, want)
	}
	batch, err := r.Read(ctx(t))
	if err != nil {
		t.Fatalf("reading on behind the gap: %v", err)
	}
	if batch.Records[0].Offset != first {
		t.Errorf("reads on at %d, want %d", batch.Records[0].Offset, first)
	}
	for r.Next() < end {
		if _, err := r.Read(ctx(t)); err != nil {
			t.Fatal(err)
		}
	}
	batch, err = r.Read(ctx(t))
	if err != nil || len(batch.Records) != 0 || batch.Next != end || batch.End != end {
		t.Errorf("at the end: %+v, %v; want an empty batch", batch, err)
	}
}

func TestReaderRefusesTruncatedLog(t *testing.T) {
	_, c := broker(t, stream.Topic{Name: "logs", Partitions: 1})
	r := c.NewReader(stream.ReaderOptions{Topic: "logs", Offset: 5})
	for range 2 {
		if _, err := r.Read(ctx(t)); !errors.Is(err, stream.ErrTruncated) {
			t.Fatalf("error %v, want ErrTruncated", err)
		}
	}
}

func TestReaderSurvivesFaults(t *testing.T) {
	b, c := broker(t, stream.Topic{Name: "logs", Partitions: 1})
	p := producer(t, c, stream.ProducerOptions{Topic: "logs"})
	if _, err := p.Produce(ctx(t), 0, []stream.Record{{Value: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	r := c.NewReader(stream.ReaderOptions{Topic: "logs"})
	b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "logs", Err: kerr.NotLeaderForPartition})
	if _, err := r.Read(ctx(t)); !stream.Retriable(err) {
		t.Fatalf("error %v, want one to retry", err)
	}
	batch, err := r.Read(ctx(t))
	if err != nil || len(batch.Records) != 1 {
		t.Fatalf("read again: %d records, %v", len(batch.Records), err)
	}
	done, cancel := context.WithCancel(ctx(t))
	cancel()
	if _, err := r.Read(done); !errors.Is(err, context.Canceled) || stream.Retriable(err) {
		t.Errorf("cancelled: error %v", err)
	}
}

// TestReaderSkipsMarkers: offsets that transaction markers occupy are no gap.
func TestReaderSkipsMarkers(t *testing.T) {
	b, c := broker(t, stream.Topic{Name: "logs", Partitions: 1})
	k := &kafka.Client{Addr: kafka.TCP(b.Addr()), Transport: &kafka.Transport{}}
	t.Cleanup(k.Transport.(*kafka.Transport).CloseIdleConnections)
	p := producer(t, c, stream.ProducerOptions{Topic: "logs"})
	add := func(v string) {
		t.Helper()
		if _, err := p.Produce(ctx(t), 0, []stream.Record{{Value: []byte(v)}}); err != nil {
			t.Fatal(err)
		}
	}
	add("before")
	writeTransaction(t, k, "logs", "inside")
	add("after")
	var got []string
	for _, r := range readAll(t, c, "logs", 0, 0) {
		got = append(got, fmt.Sprintf("%d %s", r.Offset, r.Value))
	}
	if want := "0 before, 1 inside, 3 after"; strings.Join(got, ", ") != want {
		t.Errorf("read %q, want %q", got, want)
	}
}

func TestPingSaysWhatIsWrong(t *testing.T) {
	c, err := stream.NewClient(stream.Config{Brokers: []string{"127.0.0.1:1"}, RequestTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(ctx(t)); err == nil || !stream.Retriable(err) {
		t.Errorf("nobody listens: error %v, want one to retry", err)
	}
}

func TestSASL(t *testing.T) {
	cl, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "vedette", "right"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for password, ok := range map[string]bool{"right": true, "wrong-one": false} {
		c, err := stream.NewClient(stream.Config{
			Brokers: cl.ListenAddrs(), RequestTimeout: 3 * time.Second,
			SASL: stream.SASLConfig{Mechanism: "scram-sha-256", Username: "vedette", Password: secret.String(password)},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = c.Ping(ctx(t))
		if (err == nil) != ok {
			t.Errorf("password %q: error %v", password, err)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("error %q shows the password", err)
		}
		if err != nil && !strings.Contains(err.Error(), "password") && !strings.Contains(strings.ToLower(err.Error()), "sasl") {
			t.Errorf("error %q does not say what is wrong", err)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	ok := stream.Config{Brokers: []string{"kafka.example:9092"}}
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*stream.Config){
		"brokers":    func(c *stream.Config) { c.Brokers = nil },
		"host:port":  func(c *stream.Config) { c.Brokers = []string{"kafka"} },
		"key file":   func(c *stream.Config) { c.TLS.CertFile = "x" },
		"mechanism":  func(c *stream.Config) { c.SASL.Mechanism = "GSSAPI" },
		"user name":  func(c *stream.Config) { c.SASL.Mechanism = "SCRAM-SHA-512" },
		"enable TLS": func(c *stream.Config) { c.SASL = stream.SASLConfig{Mechanism: "PLAIN", Username: "u", Password: "p"} },
		"token file": func(c *stream.Config) { c.SASL.Mechanism = "OAUTHBEARER" },
		"the token readably": func(c *stream.Config) {
			c.SASL = stream.SASLConfig{Mechanism: "oauthbearer", OAuth: stream.OAuthConfig{TokenFile: "x"}}
		},
		"invalid chara": func(c *stream.Config) {
			c.SASL = stream.SASLConfig{Mechanism: "SCRAM-SHA-256", Username: "\u0000", Password: "p"}
		},
	} {
		c := ok
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) && want != "invalid chara" {
			t.Errorf("error %v does not name %q", err, want)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", stream.SASLConfig{Password: "hunter2"}, stream.SASLConfig{Password: "hunter2"}, stream.SASLConfig{Password: "hunter2"}); strings.Contains(s, "hunter2") {
		t.Errorf("printed secret: %s", s)
	}
}

func appender(t testing.TB, c *stream.Client, o stream.AppenderOptions) *stream.LogAppender {
	t.Helper()
	a, err := c.NewLogAppender(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func TestAppend(t *testing.T) {
	const parts = 3
	b, c := broker(t, stream.Topic{Name: stream.TopicLogs, Partitions: parts}, stream.Topic{Name: stream.TopicDeadLetter, Partitions: 1})
	a := appender(t, c, stream.AppenderOptions{Partitions: parts})
	b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: 2})

	var wg sync.WaitGroup
	want := make(map[string]int)
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
	if err := a.Broadcast(ctx(t), stream.LogMessage{Kind: stream.KindProgress, Origin: "test", Type: "aws.cloudtrail", Through: time.Unix(9, 0)}); err != nil {
		t.Fatal(err)
	}
	for p := range int32(parts) {
		recs := readAll(t, c, stream.TopicLogs, p, 0)
		if len(recs) < 100 {
			t.Errorf("partition %d has only %d records: not spread", p, len(recs))
		}
		for i, r := range recs {
			m, err := stream.DecodeLog(&r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if i == len(recs)-1 {
				if m.Kind != stream.KindProgress || !m.Through.Equal(time.Unix(9, 0)) {
					t.Errorf("partition %d ends with %+v, want the progress", p, m)
				}
				continue
			}
			want[string(m.Value)]--
		}
	}
	for v, n := range want {
		if n != 0 {
			t.Fatalf("%.10s appended %d times too few", v, n)
		}
	}

	if err := a.DeadLetter(ctx(t), stream.DeadLetter{Reason: "too_large", Partition: -1, Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if recs := readAll(t, c, stream.TopicDeadLetter, 0, 0); len(recs) != 1 {
		t.Errorf("%d dead letters, want 1", len(recs))
	}
}

func TestAppendRefusesBeforeWriting(t *testing.T) {
	_, c := broker(t, stream.Topic{Name: stream.TopicLogs, Partitions: 1})
	a := appender(t, c, stream.AppenderOptions{Partitions: 1})
	err := a.Append(ctx(t), []stream.LogMessage{{Value: []byte("fine")}, {Value: make([]byte, stream.MaxRecordBytes+1)}})
	if !errors.Is(err, stream.ErrTooLarge) || !strings.Contains(err.Error(), "message 2 of 2") {
		t.Errorf("error %v, want ErrTooLarge of the second message", err)
	}
	if _, end, err := c.Bounds(ctx(t), stream.TopicLogs, 0); err != nil || end != 0 {
		t.Errorf("log ends at %d (%v), want nothing written", end, err)
	}
}

func TestAppendGivesUpWhenAsked(t *testing.T) {
	b, c := broker(t, stream.Topic{Name: stream.TopicLogs, Partitions: 1})
	a := appender(t, c, stream.AppenderOptions{Partitions: 1})
	h := b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: -1})
	done, cancel := context.WithCancel(ctx(t))
	result := make(chan error)
	go func() { result <- a.Append(done, []stream.LogMessage{{Value: []byte("x")}}) }()
	if err := h.Wait(ctx(t), 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the cancellation", err)
	}
}

func TestTicks(t *testing.T) {
	b, c := broker(t, stream.Topic{Name: stream.TopicLogs, Partitions: 2})
	a := appender(t, c, stream.AppenderOptions{Partitions: 2, TickEvery: 20 * time.Millisecond})
	h := b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	run, stop := context.WithCancel(ctx(t))
	result := make(chan error)
	go func() { result <- a.Run(run) }()
	if err := h.Wait(ctx(t), 6); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) {
		recs := readAll(t, c, stream.TopicLogs, p, 0)
		if len(recs) < 2 {
			t.Errorf("partition %d has %d ticks, want 2 or more", p, len(recs))
		}
		for _, r := range recs {
			if m, err := stream.DecodeLog(&r, nil); err != nil || m.Kind != stream.KindTick {
				t.Errorf("%+v (%v), want a tick", m, err)
			}
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	_, c := broker(b, stream.Topic{Name: stream.TopicLogs, Partitions: 4})
	a := appender(b, c, stream.AppenderOptions{Partitions: 4})
	value := bytes.Repeat([]byte(`{"eventVersion":"1.08",`), 60)
	msgs := make([]stream.LogMessage, 2000)
	for i := range msgs {
		msgs[i] = stream.LogMessage{Tenant: "default", Type: "aws.cloudtrail", Origin: "bench", Value: value}
	}
	b.SetBytes(int64(len(value) * len(msgs)))
	for b.Loop() {
		if err := a.Append(b.Context(), msgs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(msgs))/b.Elapsed().Seconds(), "records/s")
}
