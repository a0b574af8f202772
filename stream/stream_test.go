package stream_test

import (
	"context"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// broker starts a broker in memory and a client of it.
func broker(t testing.TB, topics ...stream.Topic) (*devbroker.Broker, *stream.Client) {
	t.Helper()
	b, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	c, err := stream.NewClient(stream.Config{Brokers: []string{b.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if len(topics) > 0 {
		if err := c.EnsureTopics(ctx(t), topics...); err != nil {
			t.Fatal(err)
		}
	}
	return b, c
}

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func producer(t testing.TB, c *stream.Client, o stream.ProducerOptions) *stream.Producer {
	t.Helper()
	p, err := c.NewProducer(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readAll reads a partition from an offset to its end.
func readAll(t testing.TB, c *stream.Client, topic string, partition int32, from int64) []stream.Record {
	t.Helper()
	_, end, err := c.Bounds(ctx(t), topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	r := c.NewReader(stream.ReaderOptions{Topic: topic, Partition: partition, Offset: from})
	var all []stream.Record
	for r.Next() < end {
		b, err := r.Read(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b.Records...)
	}
	return all
}
