package stream_test

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vedette-sec/vedette/stream"
)

func TestInspect(t *testing.T) {
	_, c := broker(t,
		stream.Topic{Name: "logs", Partitions: 3, Retention: time.Hour},
		stream.Topic{Name: "observations", Partitions: 1})
	got, err := c.Inspect(ctx(t), "observations", "absent", "logs")
	if err != nil {
		t.Fatal(err)
	}
	if got.Brokers != 1 || len(got.Topics) != 3 {
		t.Fatalf("%d brokers and %d topics, want 1 and 3", got.Brokers, len(got.Topics))
	}
	observations, absent, logs := got.Topics[0], got.Topics[1], got.Topics[2]
	if !errors.Is(absent.Err, stream.ErrNoTopic) || absent.Name != "absent" {
		t.Errorf("%s: %v, want ErrNoTopic", absent.Name, absent.Err)
	}
	if observations.Err != nil || observations.Partitions != 1 || observations.Config["retention.ms"] == "3600000" {
		t.Errorf("observations: %+v", observations)
	}
	if logs.Partitions != 3 || logs.Replication != 1 || logs.InSync != 1 || len(logs.Leaderless) > 0 {
		t.Errorf("logs: %+v", logs)
	}
	for k, v := range map[string]string{"retention.ms": "3600000", "cleanup.policy": "delete", "max.message.bytes": "4259840"} {
		if logs.Config[k] != v {
			t.Errorf("logs: %s is %q, want %q", k, logs.Config[k], v)
		}
	}
}

func TestInspectAway(t *testing.T) {
	b, c := broker(t)
	b.Close()
	if _, err := c.Inspect(ctx(t), "logs"); err == nil {
		t.Fatal("no error although the broker is away")
	}
}

// TestPermissions asks a broker with access lists, as three users.
func TestPermissions(t *testing.T) {
	topic := func(op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: "logs", Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser("PLAIN", "root", "pw"),
		kfake.User("PLAIN", "reader", "pw", topic(kmsg.ACLOperationRead), topic(kmsg.ACLOperationDescribe)),
		kfake.User("PLAIN", "stranger", "pw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	as := func(user string) *stream.Client {
		c, err := stream.NewClient(stream.Config{
			Brokers: cluster.ListenAddrs(), SASL: stream.SASLConfig{Mechanism: "PLAIN", Username: user, Password: "pw"},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	root := as("root")
	if err := root.EnsureTopics(ctx(t), stream.Topic{Name: "logs", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := producer(t, root, stream.ProducerOptions{Topic: "logs"}).Produce(ctx(t), 0, []stream.Record{{Value: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		user                string
		sees, config, reads bool
		writes              bool
	}{
		{"root", true, true, true, true},
		{"reader", true, false, true, false},
		{"stranger", false, false, false, false},
	} {
		t.Run(tt.user, func(t *testing.T) {
			c := as(tt.user)
			state, err := c.Inspect(ctx(t), "logs")
			if err != nil {
				t.Fatal(err)
			}
			topic := state.Topics[0]
			if sees := topic.Err == nil; sees != tt.sees {
				t.Errorf("sees the topic: %v, want %v (%v)", sees, tt.sees, topic.Err)
			}
			if tt.sees && (topic.ConfigErr == nil) != tt.config || topic.ConfigErr != nil && !errors.Is(topic.ConfigErr, stream.ErrDenied) {
				t.Errorf("configuration: error %v, want it readable: %v", topic.ConfigErr, tt.config)
			}
			if !tt.sees {
				return
			}
			if _, ok, err := c.RecordAt(ctx(t), "logs", 0, 0); ok != tt.reads {
				t.Errorf("reads: %v (%v), want %v", ok, err, tt.reads)
			}
			if err := c.MayWrite(ctx(t), "logs", 0); (err == nil) != tt.writes || err != nil && !errors.Is(err, stream.ErrDenied) {
				t.Errorf("writes: error %v, want allowed: %v", err, tt.writes)
			}
		})
	}
	if _, end, err := root.Bounds(ctx(t), "logs", 0); err != nil || end != 1 {
		t.Errorf("the log ends at %d (%v), want 1: asking has written to it", end, err)
	}
}

func TestRecordAt(t *testing.T) {
	b, c := broker(t, stream.Topic{Name: "logs", Partitions: 1, RetentionBytes: 2000})
	p := producer(t, c, stream.ProducerOptions{Topic: "logs", Compression: stream.CompressionNone})
	for range 40 {
		if _, err := p.Produce(ctx(t), 0, []stream.Record{{Value: make([]byte, 100)}, {Value: []byte("second")}}); err != nil {
			t.Fatal(err)
		}
	}
	b.Cluster().ApplyRetention()
	first, end, err := c.Bounds(ctx(t), "logs", 0)
	if err != nil || first == 0 {
		t.Fatalf("the log begins at %d (%v), want something lost", first, err)
	}
	for _, tt := range []struct{ at, want int64 }{{0, first}, {first - 1, first}, {first, first}, {first + 1, first + 1}, {end - 1, end - 1}, {end, -1}, {end + 9, -1}} {
		r, ok, err := c.RecordAt(ctx(t), "logs", 0, tt.at)
		if err != nil || ok != (tt.want >= 0) || ok && r.Offset != tt.want {
			t.Errorf("at %d: offset %d, %v, error %v; want %d", tt.at, r.Offset, ok, err, tt.want)
		}
	}
}
