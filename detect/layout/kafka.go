package layout

import (
	"context"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/stream"
)

// Kafka is the log as a move needs it; [Cluster] is a real one.
type Kafka interface {
	// Partitions, Bounds, EnsureTopics, DeleteTopic and Inspect are as of [*stream.Client].
	Partitions(ctx context.Context, topic string) (int, error)
	Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error)
	EnsureTopics(ctx context.Context, topics ...stream.Topic) error
	DeleteTopic(ctx context.Context, topic string) error
	Inspect(ctx context.Context, topics ...string) (stream.ClusterState, error)

	// Reader reads a partition from an offset on.
	Reader(topic string, partition int32, offset int64) Reader
	// Producer writes to a topic of observations.
	Producer(topic string) (match.Producer, error)
	// Appender appends to vedette.logs and to the dead letters.
	Appender(o stream.AppenderOptions) (Appender, error)
}

// Reader reads one partition; [*stream.Reader] is one.
type Reader interface {
	Read(ctx context.Context) (stream.Batch, error)
	Next() int64 // the offset that is read next
}

// Appender appends to vedette.logs; [*stream.LogAppender] is one.
type Appender interface {
	match.DeadLetters
	Broadcast(ctx context.Context, m stream.LogMessage) error
	Close()
}

// Cluster is Kafka by a client.
type Cluster struct{ *stream.Client }

var _ Kafka = Cluster{}

// Reader implements [Kafka].
func (c Cluster) Reader(topic string, partition int32, offset int64) Reader {
	return c.NewReader(stream.ReaderOptions{Topic: topic, Partition: partition, Offset: offset})
}

// Producer implements [Kafka].
func (c Cluster) Producer(topic string) (match.Producer, error) {
	return c.NewProducer(stream.ProducerOptions{Topic: topic})
}

// Appender implements [Kafka].
func (c Cluster) Appender(o stream.AppenderOptions) (Appender, error) { return c.NewLogAppender(o) }
