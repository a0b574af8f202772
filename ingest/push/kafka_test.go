package push_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/ingest/push"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

var _ push.Appender = (*stream.LogAppender)(nil)

// What is answered with 202 is on the topics of a real broker, whole and in its
// place; a broker that went away is answered with 503.
func TestWithABroker(t *testing.T) {
	const parts = 2
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
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
	if err := c.EnsureTopics(ctx, stream.Topic{Name: stream.TopicLogs, Partitions: parts}, stream.Topic{Name: stream.TopicDeadLetter, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	a, err := c.NewLogAppender(stream.AppenderOptions{Partitions: parts, Attempts: 1, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	srv := serve(t, a, nil)

	// Several batches, records of every size up to the greatest there may be, and
	// one above it.
	var body bytes.Buffer
	var want []string
	line := func(i, size int) string { return fmt.Sprintf(`{"i":%d,"x":"%s"}`, i, strings.Repeat("x", size)) }
	for i := range 3000 {
		want = append(want, line(i, i))
	}
	largest := line(3000, 4<<20-len(line(3000, 0)))
	want = append(want, largest)
	for _, w := range want {
		body.WriteString(w + "\n")
	}
	body.WriteString(line(3001, 4<<20) + "\n")
	post(t, srv, "?type=aws.cloudtrail", &body).wantsResult(t, len(want), 1)

	var got []string
	for p := range int32(parts) {
		for _, r := range read(ctx, t, c, stream.TopicLogs, p) {
			m, err := stream.DecodeLog(&r, new(stream.Interner))
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind != stream.KindRecord || m.Tenant != "default" || m.Origin != "push:ci" || m.Type != "aws.cloudtrail" {
				t.Fatalf("message %+v", m)
			}
			got = append(got, string(m.Value))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records differ: %d, want %d", len(got), len(want))
	}
	dead := read(ctx, t, c, stream.TopicDeadLetter, 0)
	if len(dead) != 1 {
		t.Fatalf("%d dead letters", len(dead))
	}
	d, err := stream.DecodeDeadLetter(&dead[0])
	if err != nil || d.Reason != "too_large" || !strings.HasPrefix(string(d.Value), `{"i":3001,`) {
		t.Errorf("dead letter %s, %v", d.Reason, err)
	}

	b.Close()
	res := post(t, srv, "", strings.NewReader(`{"a":1}`)).wants(t, 503)
	if res.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func read(ctx context.Context, t *testing.T, c *stream.Client, topic string, partition int32) []stream.Record {
	t.Helper()
	from, end, err := c.Bounds(ctx, topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	r := c.NewReader(stream.ReaderOptions{Topic: topic, Partition: partition, Offset: from})
	var all []stream.Record
	for r.Next() < end {
		b, err := r.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b.Records...)
	}
	return all
}
