package stream_test

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/internal/kafkatest"
	"github.com/vedette-sec/vedette/stream"
)

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
