package app_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/stream"
)

// TestPartitionsAdded gives vedette.logs partitions while the service runs, and while
// it does not, and writes to them before the service can know: it is all found, and
// the new partitions are ticked.
func TestPartitionsAdded(t *testing.T) {
	t.Parallel()
	s := startIn(t, app.Timing{Widen: 300 * time.Millisecond})
	defer func() { s.App.Stop() }()
	c, err := stream.NewClient(stream.Config{Brokers: s.Config.Kafka.Brokers, MetadataAge: 100 * time.Millisecond})
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
		for line := range bytes.Lines(servicetest.Refusals(40, ip, time.Now().Add(-10*time.Minute))) {
			rec, err := stream.EncodeLog(&stream.LogMessage{
				Tenant: s.Config.Tenant, Type: string(event.TypeAPIGateway), Origin: "test", Value: bytes.TrimSpace(line),
			})
			if err != nil {
				t.Fatal(err)
			}
			recs = append(recs, rec)
		}
		s.Eventually("the partition is there to be written", func() bool {
			at, err := producer.Produce(t.Context(), p, recs)
			if err == nil && at != 0 {
				t.Fatalf("partition %d was written before, up to %d: the test tests nothing", p, at)
			}
			return err == nil
		})
	}
	ticked := func(p int32, least int64) {
		t.Helper()
		s.Eventually("the new partition is ticked", func() bool {
			_, end, err := c.Bounds(t.Context(), stream.TopicLogs, p)
			return err == nil && end > least
		})
	}
	add(2, "203.0.113.1")
	s.Found(1, 40)
	ticked(2, 41)

	s.App.Stop()
	add(3, "203.0.113.2")
	s.Boot()
	s.Found(2, 40)
	ticked(3, 41) // the records, the generation, ticks

	// The count that was configured is the least.
	s.App.Stop()
	s.Config.Kafka.LogsPartitions = 5
	s.Boot()
	ticked(4, 1)
	if n, err := c.Partitions(t.Context(), stream.TopicLogs); err != nil || n != 5 {
		t.Errorf("%d partitions (%v), want 5 as configured", n, err)
	}
}
