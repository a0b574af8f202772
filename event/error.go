package event

import "fmt"

// Reason says in one word why a record was refused. The set is bounded, so that
// it may label a metric; Reasons lists it.
type Reason string

// The reasons.
const (
	ReasonEmpty     Reason = "empty"     // nothing but white space
	ReasonSize      Reason = "size"      // longer than MaxSize
	ReasonUTF8      Reason = "utf8"      // not UTF-8
	ReasonTruncated Reason = "truncated" // ends within a value
	ReasonTrailing  Reason = "trailing"  // bytes after the document
	ReasonSyntax    Reason = "syntax"    // not JSON, for a type that is
	ReasonControl   Reason = "control"   // raw control character within a string
	ReasonEscape    Reason = "escape"    // no such escape
	ReasonNumber    Reason = "number"    // malformed number
	ReasonDepth     Reason = "depth"     // nested deeper than MaxDepth
	ReasonDuplicate Reason = "duplicate" // a key that matters occurs twice in its object
	ReasonType      Reason = "type"      // of no log type that is decoded here
	ReasonMissing   Reason = "missing"   // a field that every record of the type has is not there
	ReasonTime      Reason = "time"      // no event time, or none that can be read
)

// Reasons lists every reason, for metrics that want to start at zero.
func Reasons() []Reason {
	return []Reason{
		ReasonEmpty, ReasonSize, ReasonUTF8, ReasonTruncated, ReasonTrailing, ReasonSyntax, ReasonControl,
		ReasonEscape, ReasonNumber, ReasonDepth, ReasonDuplicate, ReasonType, ReasonMissing, ReasonTime,
	}
}

// String is the reason itself.
func (r Reason) String() string { return string(r) }

// DecodeError says why a record was refused, and where.
type DecodeError struct {
	Type   Type   // as which it was read
	Reason Reason // bounded
	Offset int    // in bytes, within the record or the message in it; 0 if it is about the whole
	Err    error  // more, for people; may be nil
}

// Error implements error.
func (e *DecodeError) Error() string {
	t := e.Type
	if t == TypeUnknown {
		t = "unknown"
	}
	if e.Err != nil {
		return fmt.Sprintf("decode %s record: %s at byte %d: %v", t, e.Reason, e.Offset, e.Err)
	}
	return fmt.Sprintf("decode %s record: %s at byte %d", t, e.Reason, e.Offset)
}

// Unwrap returns Err.
func (e *DecodeError) Unwrap() error { return e.Err }
