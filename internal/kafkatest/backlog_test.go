package kafkatest_test

import (
	"bytes"
	"context"
	"flag"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/bench"
	"github.com/vedette-sec/vedette/internal/kafkatest"
)

var backlog = flag.Int("kafka.backlog", 200_000, "records that TestBacklog queues")

// TestBacklog has a service catch up with queued records: it finds what one found
// that had them as they came, and what it says of its lag is so.
func TestBacklog(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute+time.Duration(*backlog)*100*time.Microsecond)
	defer cancel()
	r, err := bench.Backlog(ctx, bench.Options{Events: *backlog, Brokers: k.Brokers()})
	if err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	if err := r.Table(&table); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", &table)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if r.Findings < 20 || r.Incidents < 5 {
		t.Errorf("%d findings in %d incidents: too few to compare", r.Findings, r.Incidents)
	}
	// A batch that is being worked on has been read and is still told as lag, and
	// the figures are not of the same instant.
	const slack = 40_000
	for i, s := range r.Lag {
		if off := s.Records + s.Read - s.End; off < -slack || off > slack {
			t.Errorf("after %.1f s: %d records read and a lag of %d, but the log ends at %d", s.Seconds, s.Read, s.Records, s.End)
		}
		if i > 0 && s.Records > r.Lag[i-1].Records+slack {
			t.Errorf("after %.1f s the lag has grown from %d to %d", s.Seconds, r.Lag[i-1].Records, s.Records)
		}
	}
	first, last := r.Lag[0], r.Lag[len(r.Lag)-1]
	if first.Records < int64(*backlog)/2 {
		t.Errorf("the first that it said of its lag is %d records, with %d queued", first.Records, *backlog)
	}
	if first.EventTime <= last.EventTime {
		t.Errorf("a lag of %.1f s in event time at first, of %.1f s in the end", first.EventTime, last.EventTime)
	}
	if last.Records != 0 || last.Messages != 0 || last.Read < int64(*backlog) {
		t.Errorf("in the end: %+v", last)
	}
}
