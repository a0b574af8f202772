package spinetest

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// TestAnswersLost has the broker append batches of observations, and say each third
// time that it took too long: they are written again. What they hold counts once.
func TestAnswersLost(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	b, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	s := &site{brokers: []string{b.Addr()}, observations: "lost.observations", dsn: pgtest.NewDSN(t), gens: newGenerations(t), log: quiet()}
	db, c := open(t, ctx, s)
	w := newWriter(t, c, sources, 5, 500)
	for range w.steps {
		if err := w.step(ctx); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	b.Cluster().Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: s.observations, Err: kerr.RequestTimedOut, Count: 25,
		When: func(kmsg.Request) bool { n++; return n%3 == 0 }, // on the cluster's goroutine
	})
	crew, err := s.start(db, c, crewOptions{every: 20 * time.Millisecond, faults: &faults{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	if err := crew.kill(); err != nil {
		t.Fatal(err)
	}

	// The same section stands in the log twice: as it was, or cut elsewhere.
	again, total := 0, 0
	for p := range int32(s.partitions()) {
		next := make(map[int32]int64)
		_, end, err := c.Bounds(ctx, s.observations, p)
		if err != nil {
			t.Fatal(err)
		}
		for r := c.NewReader(stream.ReaderOptions{Topic: s.observations, Partition: p}); r.Next() < end; {
			batch, err := r.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range batch.Records {
				for _, sec := range simSections(rec) {
					total++
					if sec.From < next[sec.Source.Partition] {
						again++
					}
					next[sec.Source.Partition] = max(next[sec.Source.Partition], sec.To)
				}
			}
		}
	}
	t.Logf("%d of %d sections were written again", again, total)
	if again == 0 {
		t.Error("nothing was written twice: the test is empty")
	}
	got, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, undisturbed(t, ctx, s))
}
