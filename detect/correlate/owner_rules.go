package correlate

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// Generations gives the rules of a generation by its digest.
type Generations interface {
	// Rules returns the rules of the generation of that digest. An error means
	// that this owner is not ready; it asks again and reads no further.
	Rules(ctx context.Context, digest string) (*rule.Set, error)
}

// inForce is which generations the sources are in. It is a function of the
// sections applied, like everything else that decides what is found, and travels
// with the engine's state in marks and checkpoints.
//
// Sources change generation at offsets of their own, so the engine runs the rules
// of all generations that some source is in, and of those that none is in any
// more until what they hold must have been judged.
type inForce struct {
	sources map[detect.Source]string
	retired map[string]int64 // A when the last source left it
}

func newInForce() *inForce {
	return &inForce{sources: make(map[detect.Source]string), retired: make(map[string]int64)}
}

// enter notes that a source is in a generation from here on. It returns false
// if that is nothing new.
func (f *inForce) enter(s detect.Source, digest string, clock int64) bool {
	old, ok := f.sources[s]
	if ok && old == digest {
		return false
	}
	f.sources[s] = digest
	delete(f.retired, digest)
	if ok && !slices.Contains(slices.Collect(maps.Values(f.sources)), old) {
		f.retired[old] = clock
	}
	return true
}

// hear enters the generation of a section, if it is news, and returns whether the rules
// to run may be others. What another partition derives enters none: of its
// generations those that nobody is in here run as if they had just been left, until
// sources enter them or they expire.
func (f *inForce) hear(sec *detect.Section, clock int64) bool {
	if !sec.Source.Derived() {
		return f.enter(sec.Source, sec.Generation, clock)
	}
	if sec.Generation == "" {
		return false
	}
	news := false
	running := f.digests()
	for digest := range strings.SplitSeq(sec.Generation, ",") {
		if _, ok := slices.BinarySearch(running, digest); !ok {
			f.retired[digest] = clock
			news = true
		}
	}
	return news
}

// running lists the generations that sources are in.
func (f *inForce) running() []string {
	return slices.Compact(slices.Sorted(maps.Values(f.sources)))
}

// expire forgets generations that were left more than after ago. It returns
// false if there were none.
func (f *inForce) expire(clock int64, after time.Duration) bool {
	some := false
	for digest, left := range f.retired {
		switch {
		case left == never:
			f.retired[digest] = clock // the clock had not started
		case clock-int64(after) > left:
			delete(f.retired, digest)
			some = true
		}
	}
	return some
}

// digests lists the generations whose rules are to run.
func (f *inForce) digests() []string {
	set := make(map[string]struct{})
	for _, d := range f.sources {
		set[d] = struct{}{}
	}
	for d := range f.retired {
		set[d] = struct{}{}
	}
	return slices.Sorted(maps.Keys(set))
}

const formatOwner = 1

// append encodes f and the engine's state; equal ones have equal encodings.
func (f *inForce) append(b, engine []byte) []byte {
	digests := f.digests()
	b = append(b, formatOwner)
	b = binary.AppendUvarint(b, uint64(len(digests)))
	for _, d := range digests {
		b = detect.AppendKey(b, []byte(d))
	}
	sources := slices.SortedFunc(maps.Keys(f.sources), func(a, b detect.Source) int {
		return cmp.Or(cmp.Compare(a.Incarnation, b.Incarnation), cmp.Compare(a.Partition, b.Partition))
	})
	b = binary.AppendUvarint(b, uint64(len(sources)))
	for _, s := range sources {
		i, _ := slices.BinarySearch(digests, f.sources[s])
		b = binary.AppendUvarint(b, uint64(s.Incarnation))
		b = binary.AppendUvarint(b, uint64(uint32(s.Partition)))
		b = binary.AppendUvarint(b, uint64(i))
	}
	b = binary.AppendUvarint(b, uint64(len(f.retired)))
	for _, d := range slices.Sorted(maps.Keys(f.retired)) {
		i, _ := slices.BinarySearch(digests, d)
		b = binary.AppendUvarint(b, uint64(i))
		b = binary.AppendVarint(b, f.retired[d])
	}
	return append(b, engine...)
}

// decodeInForce undoes append; nothing is the beginning of a partition.
func decodeInForce(b []byte) (f *inForce, engine []byte, err error) {
	f = newInForce()
	if len(b) == 0 {
		return f, nil, nil
	}
	r := reader{b: b}
	if v := r.byte(); v != formatOwner {
		return nil, nil, fmt.Errorf("owner's state: unknown format %d", v)
	}
	digests := make([]string, r.count(1))
	for i := range digests {
		digests[i] = r.string()
	}
	digest := func() string {
		i := r.uvarint()
		if i >= uint64(len(digests)) {
			r.fail()
			return ""
		}
		return digests[i]
	}
	for range r.count(3) {
		s := detect.Source{Incarnation: uint32(r.uvarint()), Partition: int32(uint32(r.uvarint()))}
		f.sources[s] = digest()
	}
	for range r.count(2) {
		d := digest()
		f.retired[d] = r.varint()
	}
	if r.err != nil {
		return nil, nil, errors.New("owner's state: malformed")
	}
	return f, r.b, nil
}

// rules gives the engine the rules of the generations in f.
func (o *Owner) rules(ctx context.Context, e *Engine, f *inForce) error {
	union := &rule.Set{Correlations: []*rule.Rule{o.lost}}
	known := make(map[string]struct{})
	for _, digest := range f.digests() {
		set, err := o.set(ctx, digest)
		if err != nil {
			return err
		}
		for _, r := range set.Correlations {
			if _, ok := known[r.Version]; !ok {
				known[r.Version] = struct{}{}
				union.Correlations = append(union.Correlations, r)
			}
		}
	}
	if err := e.AddRules(union); err != nil {
		// The rules that can run do; those that cannot were refused when the
		// generation was made, unless this is another version of the program.
		o.log.Error("rules that cannot run", "err", err)
	}
	return nil
}

// set returns the rules of a generation; it keeps those in use.
func (o *Owner) set(ctx context.Context, digest string) (*rule.Set, error) {
	if s := o.sets[digest]; s != nil {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := o.o.Generations.Rules(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("load rules of generation %.12s: %w", digest, err)
	}
	if len(o.sets) >= maxSets {
		clear(o.sets)
	}
	o.sets[digest] = s
	return s, nil
}

// maxSets is how many generations' rules are kept ready.
const maxSets = 16
