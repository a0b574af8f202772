package kafkatest

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// adminTimeout bounds one request of a test to the cluster.
const adminTimeout = 30 * time.Second

// probe asks one node what it knows, through a client that is not the one under test.
type probe struct{ client *kgo.Client }

func newProbe(addr string) (*probe, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(addr), kgo.DialTimeout(2*time.Second), kgo.RequestRetries(0),
		kgo.WithLogger(kgo.BasicLogger(io.Discard, kgo.LogLevelNone, nil)),
	)
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", addr, err)
	}
	return &probe{cl}, nil
}

func (p *probe) close() { p.client.Close() }

// ask sends a request to the node itself.
func (p *probe) ask(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return p.client.SeedBrokers()[0].Request(ctx, req)
}

// ready tells whether the node answers, is itself among at least so many
// brokers, and can say where groups are coordinated.
func (p *probe) ready(ctx context.Context, node int32, brokers int) error {
	if _, err := p.ask(ctx, kmsg.NewPtrApiVersionsRequest()); err != nil {
		return fmt.Errorf("ask for versions: %w", err)
	}
	md, err := p.metadata(ctx)
	if err != nil {
		return err
	}
	there := false
	for _, b := range md.Brokers {
		there = there || b.NodeID == node
	}
	if !there || len(md.Brokers) < brokers {
		return fmt.Errorf("node %d sees %d brokers, itself among them: %t", node, len(md.Brokers), there)
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = "kafkatest", []string{"kafkatest"}
	res, err := p.ask(ctx, find)
	if err != nil {
		return fmt.Errorf("ask for a coordinator: %w", err)
	}
	for _, c := range res.(*kmsg.FindCoordinatorResponse).Coordinators {
		if err := kerr.ErrorForCode(c.ErrorCode); err != nil {
			return fmt.Errorf("ask for a coordinator: %w", err)
		}
	}
	return nil
}

// metadata asks for the brokers and the topics named.
func (p *probe) metadata(ctx context.Context, topics ...string) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	res, err := p.ask(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask for metadata: %w", err)
	}
	return res.(*kmsg.MetadataResponse), nil
}

// Partition is what the cluster says of one.
type Partition struct {
	Leader   int   // −1: none
	Replicas []int // who should have it
	InSync   []int // who has all of it
}

// Partition asks a running node about a partition; ok is false if it knows none.
func (c *Cluster) Partition(topic string, partition int32) (_ Partition, ok bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	var res *kmsg.MetadataResponse
	err := c.onRunning(ctx, func(p *probe) (err error) {
		res, err = p.metadata(ctx, topic)
		return err
	})
	if err != nil {
		c.t.Fatalf("partition %s/%d: %v", topic, partition, err)
	}
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			if p.Partition == partition {
				return Partition{Leader: int(p.Leader), Replicas: ints(p.Replicas), InSync: ints(p.ISR)}, true
			}
		}
	}
	return Partition{}, false
}

// DeleteRecords has the cluster forget a partition's records below an offset.
func (c *Cluster) DeleteRecords(topic string, partition int32, before int64) {
	c.t.Helper()
	part := kmsg.NewDeleteRecordsRequestTopicPartition()
	part.Partition, part.Offset = partition, before
	t := kmsg.NewDeleteRecordsRequestTopic()
	t.Topic, t.Partitions = topic, []kmsg.DeleteRecordsRequestTopicPartition{part}
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Topics = []kmsg.DeleteRecordsRequestTopic{t}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	err := c.onRunning(ctx, func(p *probe) error {
		res, err := p.client.Request(ctx, req) // goes to the partition's leader
		if err != nil {
			return err
		}
		for _, t := range res.(*kmsg.DeleteRecordsResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("delete records of %s/%d before %d: %v", topic, partition, before, err)
	}
}

// onRunning does f with a running node, the next if the first fails, until ctx ends.
func (c *Cluster) onRunning(ctx context.Context, f func(*probe) error) error {
	err := fmt.Errorf("no node runs")
	for {
		for _, n := range c.nodes {
			if !n.running() {
				continue
			}
			p, perr := newProbe(n.addr(Plaintext))
			if perr != nil {
				return perr
			}
			err = f(p)
			p.close()
			if err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func ints(ids []int32) []int {
	out := make([]int, len(ids))
	for i, id := range ids {
		out[i] = int(id)
	}
	return out
}
