package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"unicode/utf8"
)

// MaxSize is the longest record accepted, in bytes. The clouds' own limits are
// 256 KiB (CloudTrail) and 1 MiB (CloudWatch Logs).
const MaxSize = 16 << 20

// Event is one log record, understood. It is meant to be used again and again:
// Decode overwrites it. What its methods return, and its Raw and Doc, alias the
// record's bytes or the event's own memory and hold until the next Decode; they
// must not be written to. An Event is not safe for concurrent use, not even for
// reading: attributes are computed when asked for.
//
// Text from a record is the sender's: it may hold any character, NUL included.
type Event struct {
	Type Type
	Raw  []byte // the record as it came
	// Doc is the record's own JSON document: Raw, or the message of the
	// CloudWatch Logs event in it. It is nil for a line of text.
	Doc      []byte
	Time     int64 // when it happened, ns since the Unix epoch
	Class    Class
	Activity uint8 // OCSF activity_id within the class
	Layer    Layer
	Outcome  Outcome
	Status   int     // HTTP status code, for CloudTrail one that the error code stands for; 0 if there is none
	Duration float64 // ms; 0 if not known

	of      *logType // of Type; nil if it is none of ours
	place   int      // of it in logTypes
	scanned bool     // Doc was, by the type's schema: the slots are of it
	seen    [maxSlots / 64]uint64
	other   keySet
	have    uint64 // attributes computed, by bit
	attrs   [NumAttrs][]byte
	spans   [maxSlots]span
	env     envelope
	line    line
	arena   []byte // unescaped text
	// message is the message of the CloudWatch Logs event, its escapes undone.
	message []byte
}

// envelope is what the CloudWatch Logs event around a record says.
type envelope struct {
	owner, group, stream, id []byte // nil: no envelope
	time                     int64  // ns; 0 if there is none
}

// Decoder decodes records. It is not safe for concurrent use.
type Decoder struct {
	scan   scanner
	habits []*habit // by place in logTypes
	last   int      // place in logTypes of the type decoded last: most come in streaks
}

// NewDecoder returns a decoder for all log types.
func NewDecoder() *Decoder { return &Decoder{habits: make([]*habit, len(logTypes))} }

// Decode makes ev the event of a record. The event aliases r.Data. An empty
// r.Type is told from the content. The error is a *DecodeError; ev then holds
// Type and Raw and nothing else of use.
func (d *Decoder) Decode(ev *Event, r Record) error {
	ev.reset(r)
	if err := d.decode(ev); err != nil {
		err.Type = ev.Type
		return err
	}
	return nil
}

func (d *Decoder) decode(ev *Event) *DecodeError {
	if len(ev.Raw) > MaxSize {
		return &DecodeError{Reason: ReasonSize, Offset: MaxSize}
	}
	// Of an object whose type is known the scanner looks at every byte.
	if ev.Type == TypeUnknown || !isObject(ev.Raw) {
		if !utf8.Valid(ev.Raw) {
			return &DecodeError{Reason: ReasonUTF8, Offset: invalidUTF8(ev.Raw)}
		}
		if len(bytes.TrimSpace(ev.Raw)) == 0 {
			return &DecodeError{Reason: ReasonEmpty}
		}
	}
	if ev.Type == TypeUnknown {
		if ev.Type = DetectType(ev.Raw); ev.Type == TypeUnknown {
			return &DecodeError{Reason: ReasonType}
		}
	}
	if !d.take(ev) {
		return &DecodeError{Reason: ReasonType, Err: errors.New("no decoder of this name")}
	}
	return ev.of.decode(d, ev)
}

// take finds the log type of ev's name.
func (d *Decoder) take(ev *Event) bool {
	if logTypes[d.last].name != ev.Type {
		i, ok := logTypeOf[ev.Type]
		if !ok {
			return false
		}
		d.last = i
	}
	if d.habits[d.last] == nil {
		d.habits[d.last] = new(habit)
	}
	ev.of, ev.place = &logTypes[d.last], d.last
	return true
}

func invalidUTF8(b []byte) int {
	i := 0
	for i < len(b) {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		i += n
	}
	return i
}

// maxArena is how much memory for unescaped text an event keeps between records.
const maxArena = 1 << 20

func (e *Event) reset(r Record) {
	e.Type, e.Raw, e.Doc = r.Type, r.Data, nil
	e.Time, e.Class, e.Activity, e.Layer, e.Outcome, e.Status, e.Duration = 0, 0, 0, 0, 0, 0, 0
	e.of, e.scanned = nil, false
	e.have, e.seen = 0, [maxSlots / 64]uint64{}
	e.env, e.line = envelope{}, line{}
	if cap(e.arena) > maxArena {
		e.arena = nil
	}
	if cap(e.message) > maxArena {
		e.message = nil
	}
	e.arena, e.message = e.arena[:0], e.message[:0]
}

// document scans doc, the whole of the record or the message in it, by the schema of
// the event's type. With outer, a message is taken out of doc. If it fails, refused says why: not
// every failure is an error.
func (d *Decoder) document(ev *Event, doc []byte, outer bool) bool {
	ev.Doc, ev.scanned = doc, false
	ev.seen, ev.other = [maxSlots / 64]uint64{}, keySet{}
	s := &d.scan
	s.b, s.spans, s.seen, s.other, s.fault, s.high = doc, &ev.spans, &ev.seen, &ev.other, faultNone, 0
	s.habit = d.habits[d.last]
	if s.message = nil; outer {
		s.message = &ev.message
	}
	ok := s.scan(ev.of.schema.root)
	if outer && (!ok || s.high&highs != 0) && !utf8.Valid(doc) {
		// What is within doc, or its escapes undone, is UTF-8 if all of it is.
		s.fail(invalidUTF8(doc), faultUTF8)
		ok = false
	}
	s.b, s.spans, s.seen, s.other, s.message = nil, nil, nil, nil, nil
	if !ok {
		ev.Doc, ev.seen = nil, [maxSlots / 64]uint64{}
		return false
	}
	ev.scanned = true
	return true
}

func (d *Decoder) refused() *DecodeError {
	return &DecodeError{Reason: faultReasons[d.scan.fault], Offset: d.scan.at}
}

// unwrap takes the message out of a record that has been scanned, if that is a
// CloudWatch Logs event. The caller scans the message.
func (e *Event) unwrap() (message []byte, wrapped bool) {
	if !e.has(envGroup) || !e.has(envMessage) ||
		e.spans[envGroup].kind != KindString || e.spans[envMessage].kind != KindString {
		return nil, false
	}
	e.env = envelope{
		owner:  e.text(envOwner),
		group:  e.text(envGroup),
		stream: e.text(envStream),
		id:     e.text(envID),
	}
	if ms, ok := parseInt(e.text(envTime)); ok && ms > 0 && ms <= maxMillis {
		e.env.time = ms * 1e6
	}
	e.Doc, e.scanned, e.seen = nil, false, [maxSlots / 64]uint64{}
	return e.message, true
}

func (e *Event) has(s slot) bool { return e.seen[s>>6&1]&(1<<(s&63)) != 0 }

// text is a scalar field's text; nil if it is absent, null or empty.
func (e *Event) text(s slot) []byte {
	if !e.has(s) {
		return nil
	}
	sp := e.spans[s&(maxSlots-1)]
	if sp.start == sp.end {
		return nil
	}
	switch sp.kind {
	case KindString:
		if sp.esc {
			return e.unescaped(e.Doc[sp.start:sp.end])
		}
		return e.Doc[sp.start:sp.end:sp.end]
	case KindBool, KindNumber:
		return e.Doc[sp.start:sp.end:sp.end]
	}
	return nil
}

// first is the text of the first of some fields that has any.
func (e *Event) first(slots ...slot) []byte {
	for _, s := range slots {
		if t := e.text(s); t != nil {
			return t
		}
	}
	return nil
}

func (e *Event) unescaped(raw []byte) []byte {
	// Growing leaves the older texts where they are: they stay valid.
	from := len(e.arena)
	e.arena = appendUnescaped(e.arena, raw)
	return e.arena[from:len(e.arena):len(e.arena)]
}

// join keeps the concatenation of some texts.
func (e *Event) join(parts ...[]byte) []byte {
	from := len(e.arena)
	for _, p := range parts {
		e.arena = append(e.arena, p...)
	}
	return e.arena[from:len(e.arena):len(e.arena)]
}

// Attr is a normalised attribute's text; nil if the record does not say.
func (e *Event) Attr(a Attr) []byte {
	if a >= NumAttrs {
		return nil
	}
	if e.have&(1<<a) == 0 {
		e.attrs[a] = e.attr(a)
		e.have |= 1 << a
	}
	return e.attrs[a]
}

// SetAttr sets an attribute's text until the next Decode; nil makes it absent.
// It keeps v, and changes none of the event's fields.
func (e *Event) SetAttr(a Attr, v []byte) {
	if a < NumAttrs {
		e.attrs[a] = v
		e.have |= 1 << a
	}
}

func (e *Event) attr(a Attr) []byte {
	switch a {
	case AttrUID:
		if uid := e.own(a); uid != nil {
			return uid
		}
		// No id of the provider's: the bytes are the identity. The sender has a hand
		// in them, so the hash must not be one for which collisions can be made.
		sum := sha256.Sum256(e.Raw)
		from := len(e.arena)
		e.arena = hex.AppendEncode(e.arena, sum[:16])
		return e.arena[from:len(e.arena):len(e.arena)]
	case AttrType:
		return e.constant(string(e.Type))
	case AttrLayer:
		return e.constant(e.Layer.String())
	case AttrOutcome:
		return e.constant(e.Outcome.String())
	case AttrClass:
		return e.decimal(int64(e.Class))
	case AttrHTTPStatus:
		if e.Status == 0 {
			return nil
		}
		return e.decimal(int64(e.Status))
	case AttrDuration:
		if e.Duration == 0 {
			return nil
		}
		from := len(e.arena)
		e.arena = strconv.AppendFloat(e.arena, e.Duration, 'f', -1, 64)
		return e.arena[from:len(e.arena):len(e.arena)]
	case AttrCloudProvider:
		if e.of == nil {
			return nil
		}
		return e.constant(e.of.provider)
	}
	return e.own(a)
}

// own is an attribute as the event's own log type has it.
func (e *Event) own(a Attr) []byte {
	if e.of == nil {
		return nil
	}
	return e.of.attr(e, a)
}

func (e *Event) decimal(n int64) []byte {
	from := len(e.arena)
	e.arena = strconv.AppendInt(e.arena, n, 10)
	return e.arena[from:len(e.arena):len(e.arena)]
}

// constant is a word of ours; nil if it is empty.
func (e *Event) constant(s string) []byte {
	if s == "" {
		return nil
	}
	from := len(e.arena)
	e.arena = append(e.arena, s...)
	return e.arena[from:len(e.arena):len(e.arena)]
}

// Discriminator is what picks the kinds of a log type's records apart, for caches of
// what holds for all records of a kind: eventSource and eventName of a CloudTrail
// record. For types that have no such fields both are nil.
func (e *Event) Discriminator() (a, b []byte) {
	if e.of == nil || e.of.by[0] == 0 {
		return nil, nil
	}
	return e.text(e.of.by[0]), e.text(e.of.by[1])
}
