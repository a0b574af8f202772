package app_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// TestPartitionsAdded gives vedette.logs partitions while the service runs, and while
// it does not, and writes to them before the service can know: it is all found, and
// the new partitions are ticked.
func TestPartitionsAdded(t *testing.T) {
	t.Parallel()
	s := startIn(t, app.Timing{Widen: 300 * time.Millisecond})
	defer func() { s.app.Stop() }()
	c, err := stream.NewClient(stream.Config{Brokers: s.cfg.Kafka.Brokers, MetadataAge: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	producer, err := c.NewProducer(stream.ProducerOptions{Topic: stream.TopicLogs})
	if err != nil {
		t.Fatal(err)
	}
	add := func(p int32, ip string) {
		t.Helper()
		if err := c.AddPartitions(t.Context(), stream.TopicLogs, int(p)+1); err != nil {
			t.Fatal(err)
		}
		var recs []stream.Record
		for line := range bytes.Lines(refusals(40, ip, time.Now().Add(-10*time.Minute))) {
			rec, err := stream.EncodeLog(&stream.LogMessage{
				Tenant: s.cfg.Tenant, Type: string(event.TypeAPIGateway), Origin: "test", Value: bytes.TrimSpace(line),
			})
			if err != nil {
				t.Fatal(err)
			}
			recs = append(recs, rec)
		}
		s.eventually("the partition is there to be written", func() bool {
			at, err := producer.Produce(t.Context(), p, recs)
			if err == nil && at != 0 {
				t.Fatalf("partition %d was written before, up to %d: the test tests nothing", p, at)
			}
			return err == nil
		})
	}
	found := func(n int) {
		t.Helper()
		s.eventually(fmt.Sprintf("%d incidents with all their events", n), func() bool {
			list := s.incidents()
			for _, in := range list {
				if in.Count != 40 {
					return false
				}
			}
			return len(list) == n
		})
	}
	ticked := func(p int32, least int64) {
		t.Helper()
		s.eventually("the new partition is ticked", func() bool {
			_, end, err := c.Bounds(t.Context(), stream.TopicLogs, p)
			return err == nil && end > least
		})
	}
	add(2, "203.0.113.1")
	found(1)
	ticked(2, 41)

	s.app.Stop()
	add(3, "203.0.113.2")
	s.boot()
	found(2)
	ticked(3, 41) // the records, the generation, ticks

	// The count that was configured is the least.
	s.app.Stop()
	s.cfg.Kafka.LogsPartitions = 5
	s.boot()
	ticked(4, 1)
	if n, err := c.Partitions(t.Context(), stream.TopicLogs); err != nil || n != 5 {
		t.Errorf("%d partitions (%v), want 5 as configured", n, err)
	}
}
