package stream_test

import (
	"testing"
	"time"

	"github.com/vedette-sec/vedette/internal/kafkatest"
	"github.com/vedette-sec/vedette/stream"
)

// TestRealKafkaGroup checks against a real Kafka what the tests of groups check
// against the embedded broker.
func TestRealKafkaGroup(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{})
	c := client(t, stream.Config{Brokers: k.Brokers(), RequestTimeout: 30 * time.Second, MetadataAge: 200 * time.Millisecond})
	ensure(t, c, stream.Topic{Name: "shared", Partitions: 4})
	o := stream.GroupOptions{Heartbeat: 200 * time.Millisecond, Session: 6 * time.Second} // the least that a broker allows
	t.Run("Shares", func(t *testing.T) { groupShares(t, c, o) })
	t.Run("HandsBack", func(t *testing.T) { groupHandsBack(t, c, o) })
	t.Run("MemberLost", func(t *testing.T) { groupMemberLost(t, c, o) })
	t.Run("MemberGoneWhileJoining", func(t *testing.T) { groupMemberGoneJoining(t, c, "shared", o) })
	t.Run("SharesAdded", func(t *testing.T) {
		ensure(t, c, stream.Topic{Name: "added", Partitions: 2})
		o.Watch = 200 * time.Millisecond
		groupSharesAdded(t, c, "added", o)
	})
}
