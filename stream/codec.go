package stream

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// Header is one header of a message.
type Header = kafka.Header

// Record is a message as Kafka keeps it.
type Record struct {
	Offset  int64     // set when read
	Time    time.Time // append stamp, whole milliseconds
	Key     []byte
	Value   []byte
	Headers []Header
}

// The headers of our messages. Absent means empty.
const (
	headerKind       = "kind"
	headerTenant     = "tenant"
	headerType       = "type"
	headerOrigin     = "origin"
	headerThrough    = "through" // ns since the Unix epoch, decimal
	headerGeneration = "generation"
	headerReason     = "reason"
	headerDetail     = "detail"
	headerPartition  = "partition"
	headerOffset     = "offset"
	headerSHA256     = "sha256"
)

// maxHeader is the longest header value that is accepted, in bytes.
const maxHeader = 1024

// ErrMessage says that a message is none of ours.
var ErrMessage = errors.New("stream: not a message of this topic")

func appendHeader(hs []Header, key, value string) []Header {
	if value == "" {
		return hs
	}
	if len(value) > maxHeader {
		value = value[:maxHeader]
	}
	return append(hs, Header{Key: key, Value: []byte(value)})
}

// EncodeLog turns m into what Kafka keeps of it. The record's value is m's own.
func EncodeLog(m *LogMessage) (Record, error) {
	r := Record{Value: m.Value, Time: m.Stamp}
	for _, s := range []string{string(m.Kind), m.Tenant, m.Type, m.Origin, m.Generation} {
		if len(s) > maxHeader {
			return Record{}, fmt.Errorf("encode log message: header of %d bytes: %w", len(s), ErrTooLarge)
		}
	}
	if len(m.Value) > MaxRecordBytes {
		return Record{}, fmt.Errorf("encode log message: value of %d bytes: %w", len(m.Value), ErrTooLarge)
	}
	hs := make([]Header, 0, 4)
	hs = appendHeader(hs, headerKind, string(m.Kind))
	hs = appendHeader(hs, headerTenant, m.Tenant)
	hs = appendHeader(hs, headerType, m.Type)
	hs = appendHeader(hs, headerOrigin, m.Origin)
	switch m.Kind {
	case KindRecord, KindTick:
	case KindProgress:
		if m.Origin == "" || m.Type == "" {
			return Record{}, errors.New("encode log message: progress needs an origin and a log type")
		}
		hs = appendHeader(hs, headerThrough, strconv.FormatInt(m.Through.UnixNano(), 10))
	case KindGeneration:
		if m.Generation == "" {
			return Record{}, errors.New("encode log message: generation without a digest")
		}
		hs = appendHeader(hs, headerGeneration, m.Generation)
	default:
		return Record{}, fmt.Errorf("encode log message: kind %q: %w", m.Kind, ErrMessage)
	}
	r.Headers = hs
	return r, nil
}

// DecodeLog reads what EncodeLog wrote, and what anybody else put on the topic:
// a message without headers is a log record. The strings of a log record may be
// shared between messages through in; it may be nil. The value is r's own.
func DecodeLog(r *Record, in *Interner) (LogMessage, error) {
	m := LogMessage{Value: r.Value, Offset: r.Offset, Stamp: r.Time}
	var seen [6]bool
	for _, h := range r.Headers {
		var dst *string
		var i int
		switch h.Key {
		case headerKind:
			i, dst = 0, (*string)(&m.Kind)
		case headerTenant:
			i, dst = 1, &m.Tenant
		case headerType:
			i, dst = 2, &m.Type
		case headerOrigin:
			i, dst = 3, &m.Origin
		case headerThrough:
			i = 4
		case headerGeneration:
			i, dst = 5, &m.Generation
		default:
			continue // somebody's own, or a later version's
		}
		if seen[i] {
			return m, fmt.Errorf("header %q twice: %w", h.Key, ErrMessage)
		}
		seen[i] = true
		if len(h.Value) > maxHeader {
			return m, fmt.Errorf("header %q of %d bytes: %w", h.Key, len(h.Value), ErrMessage)
		}
		if dst != nil {
			*dst = in.String(h.Value)
			continue
		}
		ns, err := strconv.ParseInt(string(h.Value), 10, 64)
		if err != nil {
			return m, fmt.Errorf("header %q: %w: %w", h.Key, err, ErrMessage)
		}
		m.Through = time.Unix(0, ns)
	}
	switch m.Kind {
	case KindRecord, KindTick:
	case KindProgress:
		if m.Origin == "" || m.Type == "" || m.Through.IsZero() {
			return m, fmt.Errorf("progress without origin, type or time: %w", ErrMessage)
		}
	case KindGeneration:
		if m.Generation == "" {
			return m, fmt.Errorf("generation without a digest: %w", ErrMessage)
		}
	default:
		return m, fmt.Errorf("kind %q: %w", m.Kind, ErrMessage)
	}
	return m, nil
}

// Interner keeps one copy of each of the few strings that headers repeat. It is
// for one goroutine.
type Interner struct {
	known map[string]string
}

// maxInterned bounds what a flood of different header values can occupy.
const maxInterned = 4096

// String returns b as a string.
func (in *Interner) String(b []byte) string {
	if in == nil {
		return string(b)
	}
	if s, ok := in.known[string(b)]; ok {
		return s
	}
	if in.known == nil || len(in.known) >= maxInterned {
		in.known = make(map[string]string)
	}
	s := string(b)
	in.known[s] = s
	return s
}

// EncodeDeadLetter turns d into what Kafka keeps of it. A detail that is too
// long is cut.
func EncodeDeadLetter(d *DeadLetter) Record {
	hs := make([]Header, 0, 8)
	hs = appendHeader(hs, headerReason, d.Reason)
	hs = appendHeader(hs, headerDetail, d.Detail)
	hs = appendHeader(hs, headerTenant, d.Tenant)
	hs = appendHeader(hs, headerType, d.Type)
	hs = appendHeader(hs, headerOrigin, d.Origin)
	hs = appendHeader(hs, headerPartition, strconv.Itoa(int(d.Partition)))
	hs = appendHeader(hs, headerOffset, strconv.FormatInt(d.Offset, 10))
	hs = appendHeader(hs, headerSHA256, d.SHA256)
	return Record{Value: d.Value, Headers: hs}
}

// DecodeDeadLetter reads what EncodeDeadLetter wrote.
func DecodeDeadLetter(r *Record) (DeadLetter, error) {
	d := DeadLetter{Value: r.Value, Partition: -1}
	for _, h := range r.Headers {
		if len(h.Value) > maxHeader {
			return d, fmt.Errorf("header %q of %d bytes: %w", h.Key, len(h.Value), ErrMessage)
		}
		v := string(h.Value)
		switch h.Key {
		case headerReason:
			d.Reason = v
		case headerDetail:
			d.Detail = v
		case headerTenant:
			d.Tenant = v
		case headerType:
			d.Type = v
		case headerOrigin:
			d.Origin = v
		case headerSHA256:
			d.SHA256 = v
		case headerPartition:
			n, err := strconv.ParseInt(v, 10, 32)
			if err != nil {
				return d, fmt.Errorf("header %q: %w: %w", h.Key, err, ErrMessage)
			}
			d.Partition = int32(n)
		case headerOffset:
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return d, fmt.Errorf("header %q: %w: %w", h.Key, err, ErrMessage)
			}
			d.Offset = n
		}
	}
	if d.Reason == "" {
		return d, fmt.Errorf("dead letter without a reason: %w", ErrMessage)
	}
	return d, nil
}
