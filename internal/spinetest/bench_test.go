package spinetest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// BenchmarkSpine measures the whole path: records appended to the embedded
// broker, matched, correlated, and committed to Postgres beside it. One operation
// is one record, from its Append to the checkpoint behind it.
func BenchmarkSpine(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
	defer cancel()
	dsn := pgtest.NewDSN(b)
	broker, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Close)
	s := &site{brokers: []string{broker.Addr()}, observations: stream.TopicObservations, dsn: dsn, gens: newGenerations(b), log: quiet()}
	db, c := open(b, ctx, s)
	a, err := c.NewLogAppender(stream.AppenderOptions{Partitions: sources, Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(a.Close)

	// Records of one hour, sent over and over with ids of their own.
	l := load{rnd: rand.New(rand.NewPCG(1, 1)), now: time.Now().Add(-time.Hour)}
	var pool []stream.LogMessage
	size := 0
	for range 360 {
		for _, m := range l.next() {
			pool = append(pool, m)
			size += len(m.Value)
		}
	}
	const batch = 2000
	round := 0
	var msgs []stream.LogMessage
	fill := func(n int) {
		msgs = msgs[:0]
		for len(msgs) < n {
			m := pool[round%len(pool)]
			m.Value = bytes.ReplaceAll(m.Value, []byte("8b0f2f4e"), fmt.Appendf(nil, "%08x", round/len(pool)))
			m.Value = bytes.ReplaceAll(m.Value, []byte("9c1f2f4e"), fmt.Appendf(nil, "%08x", round/len(pool)))
			msgs = append(msgs, m)
			round++
		}
	}
	w, err := s.start(db, c, crewOptions{every: time.Second, faults: &faults{}})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size / len(pool)))
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= batch {
		fill(min(left, batch))
		if err := a.Append(ctx, msgs); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.settled(ctx, db, c); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	if err := w.kill(); err != nil {
		b.Fatal(err)
	}
}
