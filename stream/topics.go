package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// MaxRecordBytes is the longest log record that travels whole; ingest truncates
// what is longer and keeps its hash.
const MaxRecordBytes = 4 << 20

// MaxMessageBytes is the max.message.bytes of the topics: a record of
// MaxRecordBytes and room for its headers.
const MaxMessageBytes = MaxRecordBytes + 64<<10

// Topic describes a topic that has to exist.
type Topic struct {
	Name           string
	Partitions     int
	Grow           bool          // Partitions is the least: fewer are added to, more are left as they are
	Replication    int           // 1 if zero: one copy, which only development bears
	Retention      time.Duration // how long records are kept; zero: the broker's default
	RetentionBytes int64         // at most so much a partition; zero: no limit
	SegmentBytes   int64         // zero: the broker's default
}

// ErrPartitions says that a topic exists with another number of partitions than
// it must have. The count is part of what keys and positions mean, so it is
// never changed in place, but for a topic that may grow.
var ErrPartitions = errors.New("kafka: wrong number of partitions")

// EnsureTopics creates the topics that are missing and checks that those that
// exist have the right number of partitions, or gives them more if they may grow. It
// returns once all can be used.
func (c *Client) EnsureTopics(ctx context.Context, topics ...Topic) error {
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	for {
		n, err := c.ensureTopics(ctx, topics)
		if err == nil && n == 0 {
			return nil
		}
		// A topic created a moment ago may not be led yet, and the library
		// caches what it knows of the cluster for some seconds.
		if err != nil && !Retriable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("ensure topics: %d not usable yet: %w", n, ctx.Err())
			}
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ensureTopics is one attempt; it returns how many topics are not usable yet.
func (c *Client) ensureTopics(ctx context.Context, topics []Topic) (int, error) {
	have, err := c.partitions(ctx, topics)
	if err != nil {
		return 0, err
	}
	pending := 0
	for _, t := range topics {
		n, ok := have[t.Name]
		if ok && t.Grow && n < t.Partitions {
			pending++
			if err := c.AddPartitions(ctx, t.Name, t.Partitions); err != nil {
				return 0, err
			}
			continue
		}
		if ok && n != t.Partitions && !t.Grow {
			return 0, fmt.Errorf("topic %s has %d partitions and must have %d: the count is fixed once a topic is in use; "+
				"restore the configured count, or point Vedette at a new topic: %w", t.Name, n, t.Partitions, ErrPartitions)
		}
		if ok {
			continue
		}
		pending++
		if err := c.createTopic(ctx, t); err != nil {
			return 0, err
		}
	}
	return pending, nil
}

// Partitions returns how many partitions a topic has. What was added a moment ago
// may not be known yet: the answer can be as old as some seconds.
func (c *Client) Partitions(ctx context.Context, topic string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	have, err := c.partitions(ctx, []Topic{{Name: topic}})
	if err != nil {
		return 0, err
	}
	n, ok := have[topic]
	if !ok {
		return 0, fmt.Errorf("count the partitions of %s: %w", topic, kafka.LeaderNotAvailable)
	}
	return n, nil
}

// AddPartitions gives a topic more partitions, so that it has n. One that has so
// many or more stays as it is.
func (c *Client) AddPartitions(ctx context.Context, topic string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	res, err := c.kafka.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{
		Topics: []kafka.TopicPartitionsConfig{{Name: topic, Count: int32(n)}},
	})
	if err == nil {
		err = res.Errors[topic]
	}
	if err != nil && !errors.Is(err, kafka.InvalidPartitionNumber) {
		return fmt.Errorf("give topic %s %d partitions: %w", topic, n, c.explain(err))
	}
	return nil
}

// partitions returns the number of partitions of those topics that exist and
// have a leader for each.
func (c *Client) partitions(ctx context.Context, topics []Topic) (map[string]int, error) {
	req := &kafka.MetadataRequest{}
	for _, t := range topics {
		req.Topics = append(req.Topics, t.Name)
	}
	res, err := c.kafka.Metadata(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask kafka for its topics: %w", c.explain(err))
	}
	have := make(map[string]int)
	for _, t := range res.Topics {
		switch {
		case errors.Is(t.Error, kafka.UnknownTopicOrPartition), errors.Is(t.Error, kafka.LeaderNotAvailable):
			continue
		case t.Error != nil:
			return nil, fmt.Errorf("ask kafka for topic %s: %w", t.Name, t.Error)
		}
		led := true
		for _, p := range t.Partitions {
			led = led && p.Error == nil
		}
		if led {
			have[t.Name] = len(t.Partitions)
		}
	}
	return have, nil
}

func (c *Client) createTopic(ctx context.Context, t Topic) error {
	cfg := kafka.TopicConfig{
		Topic:             t.Name,
		NumPartitions:     t.Partitions,
		ReplicationFactor: max(1, t.Replication),
		ConfigEntries: []kafka.ConfigEntry{
			{ConfigName: "cleanup.policy", ConfigValue: "delete"},
			{ConfigName: "max.message.bytes", ConfigValue: strconv.Itoa(MaxMessageBytes)},
			{ConfigName: "message.timestamp.type", ConfigValue: "CreateTime"},
		},
	}
	add := func(name string, v int64) {
		cfg.ConfigEntries = append(cfg.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: strconv.FormatInt(v, 10)})
	}
	if t.Retention > 0 {
		add("retention.ms", t.Retention.Milliseconds())
	}
	if t.RetentionBytes > 0 {
		add("retention.bytes", t.RetentionBytes)
	}
	if t.SegmentBytes > 0 {
		add("segment.bytes", t.SegmentBytes)
	}
	if t.Replication > 2 {
		add("min.insync.replicas", int64(t.Replication-1))
		cfg.ConfigEntries = append(cfg.ConfigEntries, kafka.ConfigEntry{ConfigName: "unclean.leader.election.enable", ConfigValue: "false"})
	}
	res, err := c.kafka.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{cfg}})
	if err == nil {
		err = res.Errors[t.Name]
	}
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", t.Name, c.explain(err))
	}
	return nil
}

// Bounds returns the first offset that a partition still holds and the offset
// that the next record will get.
func (c *Client) Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	res, err := c.kafka.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{
		topic: {kafka.FirstOffsetOf(int(partition)), kafka.LastOffsetOf(int(partition))},
	}})
	if err != nil {
		return 0, 0, fmt.Errorf("bounds of %s/%d: %w", topic, partition, c.explain(err))
	}
	for _, p := range res.Topics[topic] {
		if p.Partition != int(partition) {
			continue
		}
		if p.Error != nil {
			return 0, 0, fmt.Errorf("bounds of %s/%d: %w", topic, partition, p.Error)
		}
		return p.FirstOffset, p.LastOffset, nil
	}
	return 0, 0, fmt.Errorf("bounds of %s/%d: %w", topic, partition, kafka.UnknownTopicOrPartition)
}
