package correlate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// SourceState is how far a state has come on one source, and what was known there.
type SourceState struct {
	detect.Source
	Next       int64
	Generation string
	Clock      int64
	Tail       detect.Tail
	Progress   []detect.Progress
	Seen       []detect.Seen
}

// SourceStates takes a state of a mark or checkpoint apart, by source. An empty
// state has none.
func SourceStates(state []byte) ([]SourceState, error) {
	f, c, err := decodeOwnerState(state, 0)
	if err != nil {
		return nil, err
	}
	var out []SourceState
	for i := range c.sources {
		s := &c.sources[i]
		st := SourceState{Source: s.Source, Next: s.next, Generation: f.sources[s.Source], Clock: s.clock, Tail: s.tail}
		for _, o := range c.origins {
			if i < len(o.through) && o.through[i] != never {
				st.Progress = append(st.Progress, detect.Progress{Origin: o.name, Type: o.typ, Through: o.through[i]})
			}
		}
		for _, t := range slices.Sorted(maps.Keys(s.seen)) {
			st.Seen = append(st.Seen, detect.Seen{Type: t, Time: s.seen[t]})
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b SourceState) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return out, nil
}

func decodeOwnerState(state []byte, sources int) (*inForce, clocks, error) {
	f, engine, err := decodeInForce(state)
	if err != nil {
		return nil, clocks{}, err
	}
	c := newClocks(sources)
	if err := c.decode(engine); err != nil {
		return nil, clocks{}, err
	}
	return f, c, nil
}

// EarliestState composes a state behind which the sections of all the given states
// follow: of each source what the state says that has come least far. A source
// that one of them has not heard of is at its beginning.
func EarliestState(sources int, states [][]byte) ([]byte, error) {
	if len(states) == 0 {
		return nil, nil
	}
	fs, cs := make([]*inForce, len(states)), make([]clocks, len(states))
	for i, s := range states {
		var err error
		if fs[i], cs[i], err = decodeOwnerState(s, sources); err != nil {
			return nil, err
		}
	}
	f, c := newInForce(), newClocks(sources)
	for k := range cs[0].sources {
		id := cs[0].sources[k].Source
		from, at := 0, k
		missing := false
		for i := range cs {
			j, ok := cs[i].index[id]
			if !ok {
				missing = true
				break
			}
			if cs[i].sources[j].next < cs[from].sources[at].next {
				from, at = i, j
			}
		}
		if missing {
			continue
		}
		to := c.source(id)
		c.sources[to] = cs[from].sources[at]
		if digest, ok := fs[from].sources[id]; ok {
			f.sources[id] = digest
		}
		for _, o := range cs[from].origins {
			if at >= len(o.through) {
				continue
			}
			mine := c.origin(o.name, o.typ)
			for len(mine.through) <= to {
				mine.through = append(mine.through, never)
			}
			mine.through[to] = o.through[at]
		}
	}
	if len(c.sources) == 0 {
		return nil, nil
	}
	running := slices.Collect(maps.Values(f.sources))
	for i := range cs {
		for _, o := range cs[i].origins {
			mine := c.origin(o.name, o.typ)
			mine.renewed = max(mine.renewed, o.renewed)
		}
		for digest, left := range fs[i].retired {
			if !slices.Contains(running, digest) {
				f.retired[digest] = max(left, f.retired[digest])
			}
		}
	}
	c.update()
	return f.append(nil, c.append(nil)), nil
}

// Fold moves a state by sections as an owner does that rebuilds, but holds no
// windows: what it comes to is what the owner has to find.
type Fold struct {
	s *session
}

// NewFold begins at a state.
func NewFold(ctx context.Context, o Options, g Generations, state []byte) (*Fold, error) {
	owner := &Owner{
		o: OwnerOptions{Engine: o, Generations: g, Metrics: NewMetrics(nil)}, log: slog.New(slog.DiscardHandler),
		sets: make(map[string]*rule.Set), lost: rule.VisibilityLost(),
	}
	s := &session{owner: owner}
	var err error
	if s.engine, s.inForce, err = s.engineAt(ctx, state); err != nil {
		return nil, err
	}
	return &Fold{s}, nil
}

// Apply applies a section but for what was observed. sec is not changed.
func (f *Fold) Apply(ctx context.Context, sec detect.Section) (Result, error) {
	next := f.s.engine.Next(sec.Source)
	if at := greatestStamp(&sec); sec.Source.Derived() && at != never {
		sec.Seen = append(slices.Clip(sec.Seen), detect.Seen{Type: stampSeen, Time: at})
	}
	sec.Groups = nil
	if err := f.s.section(ctx, &sec, true, 0); err != nil {
		return 0, err
	}
	switch {
	case sec.From > next:
		return Gap, nil
	case sec.To <= next:
		return Repeat, nil
	}
	return Applied, nil
}

// State is the state come to.
func (f *Fold) State() []byte { return f.s.state() }

// Clock is A there.
func (f *Fold) Clock() int64 { return f.s.engine.Clock() }

// Next is the offset that follows on a source.
func (f *Fold) Next(s detect.Source) int64 { return f.s.engine.Next(s) }

// RebuildMark is the mark from which an owner that takes the checkpoint over
// rebuilds its windows; the zero mark is the beginning.
func RebuildMark(ctx context.Context, o Options, g Generations, cp Checkpoint) (Mark, error) {
	f, err := NewFold(ctx, o, g, cp.Mark.State)
	if err != nil {
		return Mark{}, fmt.Errorf("checkpoint %d: %w", cp.Number, err)
	}
	var marks []mark
	for _, m := range cp.Marks {
		_, c, err := decodeOwnerState(m.State, o.Sources)
		if err != nil {
			return Mark{}, fmt.Errorf("mark at %d: %w", m.Position, err)
		}
		marks = append(marks, mark{m, reach(&c)})
	}
	return usable(marks, f.s.engine), nil
}

// Switch is what puts a layout into force, all of it or nothing.
type Switch struct {
	From, To   int32 // layouts
	Sources    []SwitchSource
	Old        []SwitchFrom
	Partitions []SwitchTo
}

// SwitchSource is a source as it was taken over: it must not have moved since.
type SwitchSource struct {
	detect.Source
	Epoch  int64
	Offset int64 // what lies below was found in the old layout
}

// SwitchFrom is a partition of the old layout as it was taken over.
type SwitchFrom struct {
	Partition     int32
	Epoch, Number int64
}

// SwitchTo is where a partition of the new layout begins.
type SwitchTo struct {
	Partition int32
	Mark      Mark
	Marks     []Mark // to rebuild windows from
	Pages     []Page
	Findings  []detect.Finding
}

// Layout is a partitioning of the observations.
type Layout struct {
	ID         int32
	Partitions int // of Topic
	First      int // partitions of vedette.logs at the first start
	Sources    int // partitions of vedette.logs that were ever read, or have to be
	Topic      string
}
