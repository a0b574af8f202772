package detect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// A batch is a sequence of sections. Each is a format byte, the length of its
// body as a uvarint, and the body. All integers are varints in their shortest
// form, signed ones in zigzag; differences wrap around.
//
//	body      incarnation partition from to−from clock tail strings progress seen groups
//	tail      to−end crc(4); absent in format 1
//	strings   n, then n times length and bytes: generation first, then tenants,
//	          rule versions, origins and log types, each once
//	progress  n, then n times origin type (indexes of strings) clock−through
//	seen      n, then n times type clock−time
//	groups    observations (of all groups), n, then n times
//	          tenant rule (indexes) key (length and bytes), observations, …
//
// and an observation is
//
//	flags(1) offset−previous crc(4) id(8) stamp−previous stamp−time [ref(1)] [number] [label]
//
// "Previous" is the observation before it in its group; before the first stand
// from and clock. With flagMillis both times are in milliseconds. A number is the
// byte-reversed bits of the float64 as a uvarint, so that small integers are short.
const (
	formatSection  = 2
	formatSection1 = 1 // without a tail; still read
)

const (
	flagMillis = 1 << iota
	flagRef
	flagNumber
	flagLabel     // a label follows
	flagSameLabel // the label of the observation before it in the group
	flagsKnown    = flagMillis | flagRef | flagNumber | flagLabel | flagSameLabel
)

// The shortest encodings, which bound what a count may claim.
const (
	minObservation = 1 + 1 + 4 + 8 + 1 + 1
	minGroup       = 4 + minObservation
	minProgress    = 3
	minSeen        = 2
)

// usualObservation is what room is made for, that nothing need be copied as a
// section grows: one with a number or a short label takes as much.
const usualObservation = minObservation + 9

const milli = 1e6

// maxOffset keeps sums of offsets and positions clear of overflow.
const maxOffset = math.MaxInt64 / 2

var (
	errTruncated = errors.New("truncated")
	errVarint    = errors.New("varint too long")
	errCount     = errors.New("count exceeds what follows")
)

// AppendBatch appends the encoding of secs. An observation's source is its
// section's and is not written apart. Offsets must lie within the section.
func AppendBatch(dst []byte, secs []Section) []byte {
	var e encoder
	for i := range secs {
		e.reset()
		e.section(&secs[i])
		dst = append(dst, formatSection)
		dst = binary.AppendUvarint(dst, uint64(len(e.head)+len(e.table)+len(e.body)))
		dst = append(dst, e.head...)
		dst = append(dst, e.table...)
		dst = append(dst, e.body...)
	}
	return dst
}

// encoder writes one section; the string table stands before the body but is
// known only after it.
type encoder struct {
	head, table, body []byte
	strings           []string
	index             map[string]uint64
}

func (e *encoder) reset() {
	e.head, e.table, e.body = e.head[:0], e.table[:0], e.body[:0]
	e.strings = e.strings[:0]
	clear(e.index)
}

// str gives the index of s in the table. The table is small as a rule, and its
// latest entry is the one asked for again.
func (e *encoder) str(s string) uint64 {
	if n := len(e.strings); n > 0 && e.strings[n-1] == s {
		return uint64(n - 1)
	}
	if i, ok := e.index[s]; ok {
		return i
	}
	if e.index == nil {
		e.index = make(map[string]uint64)
	}
	i := uint64(len(e.strings))
	e.index[s] = i
	e.strings = append(e.strings, s)
	return i
}

func (e *encoder) section(s *Section) {
	h := e.head
	h = binary.AppendUvarint(h, uint64(s.Source.Incarnation))
	h = binary.AppendUvarint(h, uint64(uint32(s.Source.Partition)))
	h = binary.AppendUvarint(h, uint64(s.From))
	h = binary.AppendUvarint(h, uint64(s.To-s.From))
	h = binary.AppendVarint(h, s.Clock)
	h = binary.AppendUvarint(h, uint64(s.To-s.Tail.End))
	e.head = binary.LittleEndian.AppendUint32(h, s.Tail.CRC)

	obs, groups, size := 0, 0, 0
	for i := range s.Groups {
		if n := len(s.Groups[i].Obs); n > 0 {
			obs += n
			groups++
			size += len(s.Groups[i].Key)
		}
	}
	e.str(s.Generation)
	e.body = slices.Grow(e.body, size+obs*usualObservation+groups*minGroup)
	b := binary.AppendUvarint(e.body, uint64(len(s.Progress)))
	for _, p := range s.Progress {
		b = binary.AppendUvarint(b, e.str(p.Origin))
		b = binary.AppendUvarint(b, e.str(p.Type))
		b = binary.AppendVarint(b, s.Clock-p.Through)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Seen)))
	for _, n := range s.Seen {
		b = binary.AppendUvarint(b, e.str(n.Type))
		b = binary.AppendVarint(b, s.Clock-n.Time)
	}
	b = binary.AppendUvarint(b, uint64(obs))
	b = binary.AppendUvarint(b, uint64(groups))
	for i := range s.Groups {
		g := &s.Groups[i]
		if len(g.Obs) == 0 {
			continue
		}
		b = binary.AppendUvarint(b, e.str(g.Tenant))
		b = binary.AppendUvarint(b, e.str(g.RuleVersion))
		b = binary.AppendUvarint(b, uint64(len(g.Key)))
		b = append(b, g.Key...)
		b = binary.AppendUvarint(b, uint64(len(g.Obs)))
		b = appendObservations(b, g.Obs, s.From, s.Clock)
	}
	e.body = b

	t := binary.AppendUvarint(e.table, uint64(len(e.strings)))
	for _, s := range e.strings {
		t = binary.AppendUvarint(t, uint64(len(s)))
		t = append(t, s...)
	}
	e.table = t
}

func appendObservations(b []byte, obs []Observation, offset, stamp int64) []byte {
	label := ""
	for i := range obs {
		o := &obs[i]
		var flags byte
		number := bits.ReverseBytes64(math.Float64bits(o.Number))
		ds, dt := o.Stamp-stamp, o.Stamp-o.Time
		if ds%milli == 0 && dt%milli == 0 {
			flags |= flagMillis
			ds, dt = ds/milli, dt/milli
		}
		if o.Ref != 0 {
			flags |= flagRef
		}
		if number != 0 {
			flags |= flagNumber
		}
		switch {
		case o.Label == "":
		case o.Label == label:
			flags |= flagSameLabel
		default:
			flags |= flagLabel
		}
		b = append(b, flags)
		b = binary.AppendVarint(b, o.Offset-offset)
		b = binary.LittleEndian.AppendUint32(b, o.CRC)
		b = binary.LittleEndian.AppendUint64(b, o.IDHash)
		b = binary.AppendVarint(b, ds)
		b = binary.AppendVarint(b, dt)
		if flags&flagRef != 0 {
			b = append(b, o.Ref)
		}
		if flags&flagNumber != 0 {
			b = binary.AppendUvarint(b, number)
		}
		if flags&flagLabel != 0 {
			b = binary.AppendUvarint(b, uint64(len(o.Label)))
			b = append(b, o.Label...)
		}
		offset, stamp, label = o.Offset, o.Stamp, o.Label
	}
	return b
}

// DecodeBatch reads what AppendBatch writes. It trusts nothing: what it allocates
// is bounded by a small multiple of len(b), and it refuses unknown formats and
// flags, counts that cannot be, ranges that run backwards, offsets outside their
// section and bytes that are left over. Keys alias b.
func DecodeBatch(b []byte) ([]Section, error) {
	var secs []Section
	for start := b; len(b) > 0; {
		at := len(start) - len(b)
		format := b[0]
		if format != formatSection && format != formatSection1 {
			return nil, fmt.Errorf("section %d at byte %d: unknown format %d", len(secs), at, format)
		}
		d := decoder{b: b[1:]}
		n := d.uvarint()
		if d.err == nil && n > uint64(d.left()) {
			d.fail(errTruncated)
		}
		if d.err != nil {
			return nil, fmt.Errorf("section %d at byte %d: %w", len(secs), at, d.err)
		}
		body := d.b[d.at:][:n:n]
		b = d.b[d.at+int(n):]
		d = decoder{b: body, text: string(body)} // one copy for all strings
		var s Section
		d.section(&s, format)
		if d.err == nil && d.left() > 0 {
			d.fail(fmt.Errorf("%d bytes left over", d.left()))
		}
		if d.err != nil {
			return nil, fmt.Errorf("section %d at byte %d: %w", len(secs), at, d.err)
		}
		secs = append(secs, s)
	}
	return secs, nil
}

// decoder reads b from at on; after the first error it reads zeros. It moves an
// index and not the slice: a pointer written costs while the collector marks.
type decoder struct {
	b       []byte
	at      int
	text    string // b
	strings []string
	err     error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.at = len(d.b)
}

// left is how many bytes have not been read.
func (d *decoder) left() int { return len(d.b) - d.at }

func (d *decoder) uvarint() uint64 {
	if d.at < len(d.b) && d.b[d.at] < 0x80 {
		d.at++
		return uint64(d.b[d.at-1])
	}
	return d.longUvarint()
}

func (d *decoder) longUvarint() uint64 {
	v, n := binary.Uvarint(d.b[d.at:])
	switch {
	case n == 0:
		d.fail(errTruncated)
		return 0
	case n < 0 || d.b[d.at+n-1] == 0:
		d.fail(errVarint)
		return 0
	}
	d.at += n
	return v
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// count reads how many items of at least size bytes follow.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(d.left()/size) {
		d.fail(errCount)
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(d.left()) {
		d.fail(errTruncated)
		return nil
	}
	v := d.b[d.at:][:n:n]
	d.at += int(n)
	return v
}

func (d *decoder) string() string {
	n := len(d.bytes())
	if d.err != nil {
		return ""
	}
	return d.text[d.at-n : d.at]
}

func (d *decoder) ref() string {
	i := d.uvarint()
	if i >= uint64(len(d.strings)) {
		d.fail(errors.New("string index out of range"))
		return ""
	}
	return d.strings[i]
}

func (d *decoder) section(s *Section, format byte) {
	inc, part, from, span := d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	s.Clock = d.varint()
	if d.err != nil {
		return
	}
	if inc > math.MaxUint32 || part > math.MaxInt32 {
		d.fail(errors.New("source out of range"))
		return
	}
	if from > maxOffset || span > maxOffset {
		d.fail(errors.New("offset range out of range"))
		return
	}
	s.Source = Source{Incarnation: uint32(inc), Partition: int32(part)}
	s.From, s.To = int64(from), int64(from+span)
	if format != formatSection1 {
		d.tail(s)
	}

	n := d.count(1)
	d.strings = make([]string, n)
	for i := range d.strings {
		d.strings[i] = d.string()
	}
	if len(d.strings) == 0 {
		d.fail(errors.New("no generation"))
		return
	}
	s.Generation = d.strings[0]

	if n = d.count(minProgress); n > 0 {
		s.Progress = make([]Progress, n)
		for i := range s.Progress {
			s.Progress[i] = Progress{Origin: d.ref(), Type: d.ref(), Through: s.Clock - d.varint()}
		}
	}
	if n = d.count(minSeen); n > 0 {
		s.Seen = make([]Seen, n)
		for i := range s.Seen {
			s.Seen[i] = Seen{Type: d.ref(), Time: s.Clock - d.varint()}
		}
	}
	d.groups(s)
}

func (d *decoder) tail(s *Section) {
	behind := d.uvarint()
	if d.left() < 4 {
		d.fail(errTruncated)
		return
	}
	if behind > uint64(s.To) {
		d.fail(errors.New("tail before the log"))
		return
	}
	s.Tail = Tail{End: s.To - int64(behind), CRC: binary.LittleEndian.Uint32(d.b[d.at:])}
	d.at += 4
}

func (d *decoder) groups(s *Section) {
	obs := make([]Observation, d.count(minObservation))
	n := d.count(minGroup)
	if n == 0 {
		if len(obs) > 0 {
			d.fail(errCount)
		}
		return
	}
	s.Groups = make([]Group, n)
	for i := range s.Groups {
		g := &s.Groups[i]
		g.Tenant, g.RuleVersion, g.Key = d.ref(), d.ref(), d.bytes()
		m := d.uvarint()
		if d.err != nil {
			return
		}
		if m == 0 || m > uint64(len(obs)) {
			d.fail(errCount)
			return
		}
		g.Obs, obs = obs[:m:m], obs[m:]
		if d.observations(g.Obs, s); d.err != nil {
			return
		}
	}
	if len(obs) > 0 {
		d.fail(errCount)
	}
}

func (d *decoder) observations(obs []Observation, s *Section) {
	offset, stamp, label := s.From, s.Clock, ""
	for i := range obs {
		o := &obs[i]
		if d.left() < minObservation {
			d.fail(errTruncated)
			return
		}
		flags := d.b[d.at]
		d.at++
		if flags&^flagsKnown != 0 || flags&(flagLabel|flagSameLabel) == flagLabel|flagSameLabel {
			d.fail(fmt.Errorf("unknown flags %#x", flags))
			return
		}
		offset += d.varint()
		if d.left() < 4+8 {
			d.fail(errTruncated)
			return
		}
		o.CRC = binary.LittleEndian.Uint32(d.b[d.at:])
		o.IDHash = binary.LittleEndian.Uint64(d.b[d.at+4:])
		d.at += 12
		ds, dt := d.varint(), d.varint()
		if flags&flagMillis != 0 {
			ds, dt = ds*milli, dt*milli
		}
		stamp += ds
		if flags&flagRef != 0 {
			if d.left() == 0 {
				d.fail(errTruncated)
				return
			}
			o.Ref = d.b[d.at]
			d.at++
		}
		if flags&flagNumber != 0 {
			o.Number = math.Float64frombits(bits.ReverseBytes64(d.uvarint()))
		}
		switch {
		case flags&flagLabel != 0:
			label = d.string()
		case flags&flagSameLabel == 0:
			label = ""
		}
		if offset < s.From || offset >= s.To {
			d.fail(errors.New("offset outside its section"))
		}
		if d.err != nil {
			return
		}
		o.Source, o.Offset = s.Source, offset
		o.Stamp, o.Time = stamp, stamp-dt
		if label != "" {
			o.Label = label
		}
	}
}
