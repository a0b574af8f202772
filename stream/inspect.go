package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// ErrNoTopic says that a topic does not exist, or that this user may not see
// that it does: brokers do not tell the difference.
var ErrNoTopic = errors.New("kafka: no such topic, or none that this user may describe")

// ErrDenied says that Kafka's access lists do not allow this user what was asked.
var ErrDenied = errors.New("kafka: not allowed to this user")

// ClusterState is what the brokers say of themselves.
type ClusterState struct {
	ID      string
	Brokers int // those that are up
	Topics  []TopicState
}

// TopicState is what the brokers say of a topic.
type TopicState struct {
	Name        string
	Err         error // why nothing else is known; ErrNoTopic if there is none
	Partitions  int
	Leaderless  []int32 // partitions that nobody leads: they can be neither read nor written
	Replication int     // copies of the partition that has the fewest
	InSync      int     // copies in sync of the partition that has the fewest

	Config    map[string]string // by Kafka's names, the brokers' defaults included
	ConfigErr error             // why Config is nil
}

// Inspect asks the brokers for the state of topics, in their order. It changes
// nothing. Topics that are missing do not make it fail.
func (c *Client) Inspect(ctx context.Context, topics ...string) (ClusterState, error) {
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	res, err := c.kafka.Metadata(ctx, &kafka.MetadataRequest{Topics: topics})
	if err != nil {
		return ClusterState{}, fmt.Errorf("ask kafka for its topics: %w", c.explain(err))
	}
	state := ClusterState{ID: res.ClusterID, Brokers: len(res.Brokers)}
	for _, name := range topics {
		t := TopicState{Name: name, Err: ErrNoTopic}
		for i := range res.Topics {
			if res.Topics[i].Name == name {
				t.describe(&res.Topics[i])
			}
		}
		if t.Err == nil {
			t.Config, t.ConfigErr = c.topicConfig(ctx, name)
		}
		state.Topics = append(state.Topics, t)
	}
	return state, nil
}

func (t *TopicState) describe(m *kafka.Topic) {
	switch {
	case errors.Is(m.Error, kafka.UnknownTopicOrPartition):
		return
	case m.Error != nil && !errors.Is(m.Error, kafka.LeaderNotAvailable):
		t.Err = denied(m.Error)
		return
	}
	t.Err = nil
	t.Partitions = len(m.Partitions)
	for i := range m.Partitions {
		p := &m.Partitions[i]
		if p.Error != nil {
			t.Leaderless = append(t.Leaderless, int32(p.ID))
		}
		if i == 0 || len(p.Replicas) < t.Replication {
			t.Replication = len(p.Replicas)
		}
		if i == 0 || len(p.Isr) < t.InSync {
			t.InSync = len(p.Isr)
		}
	}
}

func (c *Client) topicConfig(ctx context.Context, topic string) (map[string]string, error) {
	res, err := c.kafka.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic}},
	})
	if err == nil && len(res.Resources) != 1 {
		err = fmt.Errorf("%d answers to one question", len(res.Resources))
	}
	if err == nil {
		err = res.Resources[0].Error
	}
	if err != nil {
		return nil, fmt.Errorf("describe the configuration of %s: %w", topic, denied(c.explain(err)))
	}
	cfg := make(map[string]string)
	for _, e := range res.Resources[0].ConfigEntries {
		cfg[e.ConfigName] = e.ConfigValue
	}
	return cfg, nil
}

// denied makes the refusals of access lists one.
func denied(err error) error {
	if errors.Is(err, kafka.TopicAuthorizationFailed) || errors.Is(err, kafka.ClusterAuthorizationFailed) {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}

// MayWrite finds out whether this user may write to a partition without writing
// to it: it sends a request without a batch, which a broker refuses, but only after it has
// looked at its access lists. The error is ErrDenied if it may not.
func (c *Client) MayWrite(ctx context.Context, topic string, partition int32) error {
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	res, err := c.kafka.RawProduce(ctx, &kafka.RawProduceRequest{
		Topic: topic, Partition: int(partition), RequiredAcks: kafka.RequireAll,
		RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(make([]byte, 4))}, // the size: no batch follows
	})
	if err == nil {
		err = res.Error
	}
	if err == nil || errors.Is(err, kafka.InvalidRecord) || errors.Is(err, kafka.InvalidMessage) {
		return nil
	}
	return fmt.Errorf("may %s/%d be written: %w", topic, partition, denied(c.explain(err)))
}

// RecordAt returns the first record of a partition at or after an offset; false
// if there is none.
func (c *Client) RecordAt(ctx context.Context, topic string, partition int32, offset int64) (Record, bool, error) {
	r := c.NewReader(ReaderOptions{Topic: topic, Partition: partition, Offset: offset, MaxBytes: 1, Timeout: c.requestTimeout})
	for {
		b, err := r.Read(ctx)
		switch {
		case errors.Is(err, ErrGap):
			continue // the next read goes on behind it
		case errors.Is(err, ErrTruncated):
			return Record{}, false, nil
		case err != nil:
			return Record{}, false, denied(err)
		case len(b.Records) > 0:
			return b.Records[0], true, nil
		case b.Next >= b.End:
			return Record{}, false, nil
		}
	}
}
