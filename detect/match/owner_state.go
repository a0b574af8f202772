package match

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/vedette-sec/vedette/detect"
)

// state is what a source says about time: it is a function of the records read,
// and travels in every section and with the position.
type state struct {
	clock    int64 // A(s): greatest append stamp, ns
	progress map[progressKey]int64
	seen     map[string]int64
	tails    []detect.Tail // records by which the log is known again, see addTail

	// The same in the form of sections; rebuilt when something has changed, never
	// changed once handed out.
	progressList []detect.Progress
	seenList     []detect.Seen
}

type progressKey struct{ origin, typ string }

// The most origins and log types that are kept: what is past them is not, which
// bounds a section. They are told apart in metrics.
const (
	maxProgress = 4096
	maxSeen     = 256
)

const (
	stateFormat  = 2
	stateFormat1 = 1 // without tails; still read
)

func newState() *state {
	return &state{clock: math.MinInt64, progress: make(map[progressKey]int64), seen: make(map[string]int64)}
}

// tick moves the clock to the stamp of a record, never back, and returns it: it
// is the stamp that counts.
func (s *state) tick(stamp int64) int64 {
	s.clock = max(s.clock, stamp)
	return s.clock
}

// see notes the event time of a record.
func (s *state) see(typ string, t int64) {
	old, ok := s.seen[typ]
	if ok && t <= old || !ok && len(s.seen) >= maxSeen {
		return
	}
	s.seen[typ] = t
	s.seenList = nil
}

// progressed notes a collector's promise. It is about the past: one that runs
// ahead of its own stamp is cut to it. It returns false if there is no room.
func (s *state) progressed(origin, typ string, through, stamp int64) bool {
	k := progressKey{origin, typ}
	if _, ok := s.progress[k]; !ok && len(s.progress) >= maxProgress {
		return false
	}
	s.progress[k] = min(through, stamp)
	s.progressList = nil
	return true
}

// fill puts the state into a section.
func (s *state) fill(sec *detect.Section) {
	if s.progressList == nil && len(s.progress) > 0 {
		s.progressList = make([]detect.Progress, 0, len(s.progress))
		for k, t := range s.progress {
			s.progressList = append(s.progressList, detect.Progress{Origin: k.origin, Type: k.typ, Through: t})
		}
		slices.SortFunc(s.progressList, func(a, b detect.Progress) int {
			return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Type, b.Type))
		})
	}
	if s.seenList == nil && len(s.seen) > 0 {
		s.seenList = make([]detect.Seen, 0, len(s.seen))
		for typ, t := range s.seen {
			s.seenList = append(s.seenList, detect.Seen{Type: typ, Time: t})
		}
		slices.SortFunc(s.seenList, func(a, b detect.Seen) int { return cmp.Compare(a.Type, b.Type) })
	}
	sec.Clock, sec.Progress, sec.Seen = s.clock, s.progressList, s.seenList
}

// encode gives the same bytes for the same state.
func (s *state) encode() []byte {
	var sec detect.Section
	s.fill(&sec)
	b := []byte{stateFormat}
	b = binary.AppendVarint(b, sec.Clock)
	b = binary.AppendUvarint(b, uint64(len(sec.Progress)))
	for _, p := range sec.Progress {
		b = appendString(b, p.Origin)
		b = appendString(b, p.Type)
		b = binary.AppendVarint(b, p.Through)
	}
	b = binary.AppendUvarint(b, uint64(len(sec.Seen)))
	for _, n := range sec.Seen {
		b = appendString(b, n.Type)
		b = binary.AppendVarint(b, n.Time)
	}
	return appendTails(b, s.tails)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decodeState reads what encode wrote; nothing is the state before any record.
func decodeState(b []byte) (*state, error) {
	s := newState()
	if len(b) == 0 {
		return s, nil
	}
	if b[0] != stateFormat && b[0] != stateFormat1 {
		return nil, fmt.Errorf("match state: unknown format %d", b[0])
	}
	r := stateReader{b: b[1:]}
	s.clock = r.varint()
	for range r.count() {
		k := progressKey{r.string(), r.string()}
		s.progress[k] = r.varint()
	}
	for range r.count() {
		typ := r.string()
		s.seen[typ] = r.varint()
	}
	if b[0] != stateFormat1 {
		s.tails = r.tails()
	}
	if r.bad || len(r.b) > 0 {
		return nil, errors.New("match state: malformed")
	}
	return s, nil
}

// stateReader reads from the front of b; after a mistake it reads zeros.
type stateReader struct {
	b   []byte
	bad bool
}

func (r *stateReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *stateReader) count() int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return int(v)
}

func (r *stateReader) string() string {
	n := r.count()
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
