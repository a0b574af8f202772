package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// ProducerOptions says how a producer writes its topic.
type ProducerOptions struct {
	Topic       string
	Compression Compression      // snappy if empty
	Timeout     time.Duration    // of one produce request; 5 s if zero
	Now         func() time.Time // the clock of the append stamps; time.Now if nil
	Metrics     *Metrics         // may be nil
}

// Producer writes batches to the partitions of one topic. It has at most one
// unacknowledged request a partition and never sends a batch of its own accord,
// so that what was written of a partition is always a prefix of what was asked
// for. It is safe for concurrent use.
type Producer struct {
	client  *Client
	topic   string
	codec   kafka.Compression
	timeout time.Duration
	now     func() time.Time
	metrics *Metrics

	mu         sync.Mutex
	partitions map[int32]*producerPartition
}

type producerPartition struct {
	turn  chan struct{} // holds a token while a request is outstanding
	stamp int64         // of the last batch sent, ms; guarded by turn
}

// NewProducer makes a producer.
func (c *Client) NewProducer(o ProducerOptions) (*Producer, error) {
	if o.Topic == "" {
		return nil, errors.New("kafka producer: no topic")
	}
	codec, err := o.Compression.codec()
	if err != nil {
		return nil, err
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return &Producer{
		client: c, topic: o.Topic, codec: codec, timeout: o.Timeout, now: o.Now, metrics: o.Metrics,
		partitions: make(map[int32]*producerPartition),
	}, nil
}

func (p *Producer) partition(n int32) *producerPartition {
	p.mu.Lock()
	defer p.mu.Unlock()
	pp := p.partitions[n]
	if pp == nil {
		pp = &producerPartition{turn: make(chan struct{}, 1)}
		p.partitions[n] = pp
	}
	return pp
}

// Produce writes recs as one batch and returns the offset of the first once
// every in-sync replica has them. All get the same append stamp, the time of
// sending in whole milliseconds; it never goes back within a partition. recs
// are not referred to after Produce has returned.
//
// An error is a [*ProduceError], or ctx's if the batch was never sent. Produce
// does not try again: whether that keeps the order is the caller's to know.
func (p *Producer) Produce(ctx context.Context, partition int32, recs []Record) (int64, error) {
	if len(recs) == 0 {
		return 0, fmt.Errorf("produce to %s/%d: empty batch", p.topic, partition)
	}
	pp := p.partition(partition)
	select {
	case pp.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-pp.turn }()

	stamp := max(p.now().UnixMilli(), pp.stamp)
	b, err := encodeBatch(recs, stamp, p.codec)
	if err != nil {
		return 0, &ProduceError{Topic: p.topic, Partition: partition, Err: err}
	}
	if len(b) > MaxMessageBytes {
		err := fmt.Errorf("batch of %d records and %d bytes: %w", len(recs), len(b), ErrTooLarge)
		return 0, &ProduceError{Topic: p.topic, Partition: partition, Err: err}
	}
	pp.stamp = stamp

	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	start := time.Now()
	res, err := p.client.kafka.RawProduce(ctx, &kafka.RawProduceRequest{
		Topic:        p.topic,
		Partition:    int(partition),
		RequiredAcks: kafka.RequireAll,
		RawRecords:   protocol.RawRecordSet{Reader: bytes.NewReader(b)},
	})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		if errors.Is(err, kafka.MessageSizeTooLarge) {
			err = fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		perr := &ProduceError{Topic: p.topic, Partition: partition, Unknown: !rejected(err), Err: p.client.explain(err)}
		outcome := "rejected"
		if perr.Unknown {
			outcome = "unknown"
		}
		p.metrics.Errors.WithLabelValues(p.topic, outcome).Inc()
		return 0, perr
	}
	p.metrics.Seconds.WithLabelValues(p.topic).Observe(time.Since(start).Seconds())
	p.metrics.Records.WithLabelValues(p.topic).Add(float64(len(recs)))
	p.metrics.Bytes.WithLabelValues(p.topic).Add(float64(len(b)))
	return res.BaseOffset, nil
}
