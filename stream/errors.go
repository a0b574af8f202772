package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/segmentio/kafka-go"
)

var (
	// ErrGap says that records between where a reader stood and what the log
	// still holds are lost. The error is a [*GapError].
	ErrGap = errors.New("kafka: records are missing from the log")
	// ErrTruncated says that a partition ends before the position it is read
	// from: its topic was replaced or cut. Reading on would be reading another log.
	ErrTruncated = errors.New("kafka: the partition ends before the position: topic replaced or truncated")
	// ErrTooLarge says that one message exceeds what the topic accepts.
	ErrTooLarge = errors.New("kafka: message too large")
)

// GapError is a lost range: offsets [From, To) of a partition are gone.
type GapError struct {
	Topic     string
	Partition int32
	From, To  int64
}

func (e *GapError) Error() string {
	return fmt.Sprintf("%s/%d: offsets %d to %d are missing from the log", e.Topic, e.Partition, e.From, e.To-1)
}

// Is makes errors.Is(err, ErrGap) true.
func (e *GapError) Is(target error) bool { return target == ErrGap }

// ProduceError is a batch that was not acknowledged.
type ProduceError struct {
	Topic     string
	Partition int32
	Unknown   bool // true if the batch may have been written all the same
	Err       error
}

func (e *ProduceError) Error() string {
	outcome := "not written"
	if e.Unknown {
		outcome = "outcome unknown"
	}
	return fmt.Sprintf("produce to %s/%d (%s): %v", e.Topic, e.Partition, outcome, e.Err)
}

// Unwrap returns what Kafka or the network said.
func (e *ProduceError) Unwrap() error { return e.Err }

// Retriable tells whether the same request may succeed later: the network, a
// broker that is away, a leader that moved. It is false for what no repetition
// mends (a message too large, a topic we may not write) and for the caller's
// own cancellation.
func Retriable(err error) bool {
	var k kafka.Error
	var netErr net.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, ErrTooLarge), errors.Is(err, ErrTruncated), errors.Is(err, ErrGap):
		return false
	case errors.As(err, &k):
		return k.Temporary() || k.Timeout() || k == kafka.BrokerNotAvailable || k == kafka.Unknown
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return true
	case errors.As(err, &netErr):
		return true
	}
	return false
}

// rejected tells whether the broker itself said that it did not write the batch.
func rejected(err error) bool {
	var k kafka.Error
	if !errors.As(err, &k) {
		return false
	}
	switch k {
	case kafka.RequestTimedOut, kafka.NotEnoughReplicasAfterAppend, kafka.NetworkException, kafka.Unknown, kafka.KafkaStorageError:
		return false
	}
	return true
}

// explain adds what an error of the client library usually means.
func (c *Client) explain(err error) error {
	if c.sasl && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return fmt.Errorf("%w (a broker that refuses the user name or password hangs up like this)", err)
	}
	return err
}
