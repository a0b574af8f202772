package devbroker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

func start(t *testing.T, o devbroker.Options) (*devbroker.Broker, *stream.Client) {
	t.Helper()
	b, err := devbroker.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	c, err := stream.NewClient(stream.Config{Brokers: []string{b.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return b, c
}

func TestDataSurvivesRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	topic := stream.Topic{Name: "logs", Partitions: 2}
	for round := range int64(3) {
		b, c := start(t, devbroker.Options{Dir: dir})
		if err := c.EnsureTopics(ctx, topic); err != nil {
			t.Fatal(err)
		}
		if _, end, err := c.Bounds(ctx, "logs", 1); err != nil || end != round {
			t.Fatalf("round %d: log ends at %d (%v)", round, end, err)
		}
		p, err := c.NewProducer(stream.ProducerOptions{Topic: "logs"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Produce(ctx, 1, []stream.Record{{Value: fmt.Appendf(nil, "round %d", round)}}); err != nil {
			t.Fatal(err)
		}
		batch, err := c.NewReader(stream.ReaderOptions{Topic: "logs", Partition: 1}).Read(ctx)
		if err != nil || string(batch.Records[0].Value) != "round 0" {
			t.Fatalf("round %d: read %v (%v)", round, batch.Records, err)
		}
		b.Close()
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	b, _ := start(t, devbroker.Options{Dir: dir})
	_, err := devbroker.Start(devbroker.Options{Dir: dir})
	if !errors.Is(err, devbroker.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("error %v, want ErrInUse with the directory", err)
	}
	b.Close()
	start(t, devbroker.Options{Dir: dir})
}

func TestAddressInUse(t *testing.T) {
	b, _ := start(t, devbroker.Options{})
	dir := t.TempDir()
	_, err := devbroker.Start(devbroker.Options{Dir: dir, Listen: b.Addr()})
	if !errors.Is(err, devbroker.ErrPort) || !strings.Contains(err.Error(), b.Addr()) {
		t.Fatalf("error %v, want ErrPort with the address", err)
	}
	start(t, devbroker.Options{Dir: dir}) // the directory was given up
}

func TestRefusesForeignAddress(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":9092", "192.0.2.1:9092", "nonsense"} {
		if b, err := devbroker.Start(devbroker.Options{Listen: addr}); err == nil {
			b.Close()
			t.Errorf("listens on %s", addr)
		}
	}
}

func TestUnwritableDirectory(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := devbroker.Start(devbroker.Options{Dir: file}); err == nil {
		b.Close()
		t.Error("keeps data in a file that is no directory")
	}
}

// TestRetentionAfterRestart: the broker drops what is too old although kfake
// forgets to after a restart.
func TestRetentionAfterRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	b, c := start(t, devbroker.Options{Dir: dir, RetentionEvery: time.Hour})
	if err := c.EnsureTopics(ctx, stream.Topic{Name: "logs", Partitions: 1, RetentionBytes: 500}); err != nil {
		t.Fatal(err)
	}
	p, err := c.NewProducer(stream.ProducerOptions{Topic: "logs", Compression: stream.CompressionNone})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := p.Produce(ctx, 0, []stream.Record{{Value: make([]byte, 200)}}); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
	_, c = start(t, devbroker.Options{Dir: dir, RetentionEvery: time.Millisecond})
	for {
		first, end, err := c.Bounds(ctx, "logs", 0)
		if err != nil {
			t.Fatal(err)
		}
		if first > 0 && end == 10 {
			return
		}
	}
}
