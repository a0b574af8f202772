// Package stream is Kafka: the topics, the messages that travel on vedette.logs,
// producers that keep a prefix, partition readers that notice gaps, and the
// broker that `vedette dev` runs in its own process.
package stream

import (
	"time"
)

// The topics, with their default names.
const (
	TopicLogs         = "vedette.logs"         // raw records and control records, by source
	TopicObservations = "vedette.observations" // batches of sections, by rule and key
	TopicDeadLetter   = "vedette.deadletter"   // what could not be decoded, with the reason
)

// Kind tells the messages on vedette.logs apart.
type Kind string

// The kinds.
const (
	KindRecord     Kind = ""           // one log record
	KindTick       Kind = "tick"       // nothing but its append stamp: the clock of a silent partition
	KindProgress   Kind = "progress"   // a collector's promise
	KindGeneration Kind = "generation" // puts a generation into force from this offset on
)

// LogMessage is one message on vedette.logs. Value is the record, untouched but
// for credentials; all else travels in headers.
type LogMessage struct {
	Kind   Kind
	Tenant string
	Type   string // log type, empty if it is to be told from the content
	Origin string // which collector or token it came from
	Value  []byte

	Through    time.Time // KindProgress: complete up to here, of Origin and Type
	Generation string    // KindGeneration: the digest

	// Set when read.
	Partition int32
	Offset    int64
	Stamp     time.Time // append stamp
}

// DeadLetter is one message on vedette.deadletter.
type DeadLetter struct {
	Reason    string // bounded: a label of a metric
	Detail    string // for people
	Tenant    string
	Type      string
	Origin    string
	Partition int32 // where it stood on vedette.logs; −1 if it never got there
	Offset    int64
	SHA256    string // of the whole, hexadecimal, where Value is truncated
	Value     []byte
}
