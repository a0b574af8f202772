package layout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/stream"
)

// move writes history into a new layout and puts that into force. With another
// number of partitions all of the old ones have to stand at the same place.
func (m *mover) move(ctx context.Context, t *taken, n int) (Report, error) {
	r := Report{From: m.layout}
	h, err := m.history(ctx, t, n)
	if err != nil {
		return r, err
	}
	if err := m.Step("plan"); err != nil {
		return r, err
	}
	if r.To, err = m.plan(ctx, n); err != nil {
		return r, err
	}
	if err := m.Step("write history"); err != nil {
		return r, err
	}
	m.Say(fmt.Sprintf("writing what windows need of history to %s", r.To.Topic))
	if err := m.write(ctx, h, r.To); err != nil {
		return r, fmt.Errorf("write history: %w", err)
	}
	if err := m.Step("read history"); err != nil {
		return r, err
	}
	sw := correlate.Switch{From: m.layout.ID, To: r.To.ID}
	for i, s := range t.sources {
		sw.Sources = append(sw.Sources, correlate.SwitchSource{Source: s, Epoch: t.positions[i].Epoch, Offset: h.switchAt(s)})
	}
	for p, cp := range t.checkpoints {
		sw.Old = append(sw.Old, correlate.SwitchFrom{Partition: int32(p), Epoch: cp.Epoch, Number: cp.Number})
	}
	pages, err := m.pages(ctx, t, n)
	if err != nil {
		return r, err
	}
	for q := range n {
		to, err := m.begin(ctx, h, r.To, int32(q))
		if err != nil {
			return r, fmt.Errorf("partition %d of %s: %w", q, r.To.Topic, err)
		}
		to.Pages = pages[q]
		r.Written += to.Mark.Position
		sw.Partitions = append(sw.Partitions, to)
	}
	r.Lost = h.lost
	for _, l := range h.lost {
		f := lostFinding(l, h.clock(l.Source), m.Now())
		q := detect.KeyPartition(f.RuleVersion, f.Key, n)
		sw.Partitions[q].Findings = append(sw.Partitions[q].Findings, f)
	}
	if err := m.Step("switch"); err != nil {
		return r, err
	}
	if err := m.Ledger.SwitchLayout(ctx, sw); err != nil {
		return r, err
	}
	return r, m.Step("end")
}

// history is what has to be written again, and up to where.
type history struct {
	begin []byte                                    // state behind which it begins; nil: the sources' beginnings
	from  map[detect.Source]correlate.SourceState   // what begin says
	to    []map[detect.Source]correlate.SourceState // by new partition: where its owner is to go live
	live  map[detect.Source]bool                    // sources that can be read
	lost  []Lost
}

func (m *mover) history(ctx context.Context, t *taken, n int) (*history, error) {
	h := &history{from: map[detect.Source]correlate.SourceState{}, live: map[detect.Source]bool{}}
	for _, s := range t.sources {
		h.live[s] = true
	}
	var begins [][]byte
	for p, cp := range t.checkpoints {
		mark, err := correlate.RebuildMark(ctx, m.engine, m.Correlate, cp)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p, err)
		}
		begins = append(begins, mark.State)
	}
	var err error
	if h.begin, err = correlate.EarliestState(m.layout.Sources, begins); err != nil {
		return nil, err
	}
	states, err := correlate.SourceStates(h.begin)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		h.from[s.Source] = s
	}
	// With as many partitions as before each goes on where it stood; otherwise all
	// stand at the same place.
	for q := range n {
		to := map[detect.Source]correlate.SourceState{}
		for p, states := range t.states {
			if n == len(t.states) && p != q {
				continue
			}
			for _, s := range states {
				if have, ok := to[s.Source]; !ok || s.Next > have.Next {
					to[s.Source] = s
				}
			}
		}
		h.to = append(h.to, to)
	}
	return h, m.missing(ctx, h)
}

// missing finds out what of history the log does not hold any more. Only what lies
// behind begin counts: before it there is nothing that windows need.
func (m *mover) missing(ctx context.Context, h *history) error {
	all := map[detect.Source]bool{}
	for s := range h.from {
		all[s] = true
	}
	for s := range h.live {
		all[s] = true
	}
	for s := range all {
		end := h.switchAt(s)
		first := end
		if h.live[s] {
			var err error
			if first, _, err = m.Kafka.Bounds(ctx, stream.TopicLogs, s.Partition); err != nil {
				return err
			}
			life, err := m.Ledger.Incarnation(ctx, s.Partition)
			if err != nil {
				return err
			}
			if first <= life.First {
				continue // what lies before was of another life
			}
		}
		if from, to := h.from[s].Next, min(first, end); to > from {
			h.lost = append(h.lost, Lost{Source: s, From: from, To: to, Windows: true})
		}
	}
	slices.SortFunc(h.lost, func(a, b Lost) int {
		return cmp.Or(cmp.Compare(a.Source.Partition, b.Source.Partition), cmp.Compare(a.Source.Incarnation, b.Source.Incarnation))
	})
	return nil
}

// switchAt is how far the first of the new partitions to come there is; all of
// history lies below where the last is.
func (h *history) switchAt(s detect.Source) int64 {
	at := int64(0)
	for _, to := range h.to {
		at = max(at, to[s].Next)
	}
	return at
}

func (h *history) clock(s detect.Source) int64 { return h.from[s].Clock }

// plan makes the layout and its topic.
func (m *mover) plan(ctx context.Context, n int) (correlate.Layout, error) {
	l, abandoned, err := m.Ledger.PlanLayout(ctx, n)
	if err != nil {
		return l, err
	}
	for _, topic := range abandoned {
		if err := m.Kafka.DeleteTopic(ctx, topic); err != nil {
			m.Say(fmt.Sprintf("topic %s is of an attempt that was given up and can be deleted: %v", topic, err))
		}
	}
	t := m.Topic
	t.Name, t.Partitions = l.Topic, l.Partitions
	if err := m.Kafka.EnsureTopics(ctx, t); err != nil {
		return l, err
	}
	for p := range int32(n) {
		if _, end, err := m.Kafka.Bounds(ctx, l.Topic, p); err != nil || end > 0 {
			return l, errors.Join(err, fmt.Errorf("topic %s has messages already: delete it and try again", l.Topic))
		}
	}
	return l, nil
}

// write has match write history into the topic. What of it belongs to lives of
// sources that cannot be read any more is an empty section.
func (m *mover) write(ctx context.Context, h *history, l correlate.Layout) error {
	producer, err := m.Kafka.Producer(l.Topic)
	if err != nil {
		return err
	}
	until := make(map[int32]int64)
	for s := range h.live {
		until[s.Partition] = h.switchAt(s)
	}
	for q, to := range h.to {
		var secs []detect.Section
		for s, st := range to {
			if from := h.from[s].Next; !h.live[s] && from < st.Next {
				secs = append(secs, cut(detect.Section{Source: s, From: from, To: st.Next}, st))
			}
		}
		if len(secs) > 0 {
			if _, err := producer.Produce(ctx, int32(q), []stream.Record{{Value: detect.AppendBatch(nil, secs)}}); err != nil {
				return err
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	past := &past{h: h, ledger: m.Ledger, incarnation: m.Incarnation, left: map[int32]int64{}, done: make(chan struct{})}
	for s := range h.live {
		if until[s.Partition] > h.from[s].Next {
			past.left[s.Partition] = until[s.Partition]
		}
	}
	if len(past.left) == 0 {
		return nil
	}
	matcher, err := match.NewOwner(match.OwnerOptions{
		Incarnation: m.Incarnation, Sources: partitions(l.Sources), Partitions: l.Partitions, Until: until,
		Open: m.logs, Observations: clipped{producer, h.to}, DeadLetters: buried{}, Positions: past, Incarnations: m.Ledger,
		Generations: m.Match, SaveEvery: hurry, Logger: m.Logger,
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- matcher.Run(ctx) }()
	select {
	case <-past.done:
		cancel()
		<-ended
		return nil
	case err := <-ended:
		return errors.Join(err, ctx.Err())
	}
}

// buried takes dead letters that were written when the records were first read.
type buried struct{}

func (buried) DeadLetters(context.Context, []stream.DeadLetter) error { return nil }

// past is match's positions in history: nobody needs them afterwards.
type past struct {
	h           *history
	ledger      Ledger
	incarnation uint32

	mu   sync.Mutex
	left map[int32]int64 // sources that are not through, and their ends
	done chan struct{}   // closed when all are
}

func (p *past) AcquireSource(ctx context.Context, inc uint32, partition int32) (match.Position, error) {
	s := detect.Source{Incarnation: inc, Partition: partition}
	st, ok := p.h.from[s]
	if !ok {
		pos, err := p.ledger.SourcePosition(ctx, s)
		return match.Position{Epoch: 1, First: pos.First}, err
	}
	return match.Position{
		Epoch: 1, Next: st.Next, Known: true, Generation: st.Generation, Clock: st.Clock,
		State: match.StateAt(st.Clock, st.Progress, st.Seen, st.Tail),
	}, nil
}

func (p *past) SaveSource(_ context.Context, _ uint32, partition int32, pos match.Position) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end, ok := p.left[partition]; ok && pos.Next >= end {
		if delete(p.left, partition); len(p.left) == 0 {
			close(p.done)
		}
	}
	return nil
}

// clipped leaves out what lies behind where the partitions go live.
type clipped struct {
	match.Producer
	to []map[detect.Source]correlate.SourceState
}

func (c clipped) Produce(ctx context.Context, partition int32, recs []stream.Record) (int64, error) {
	var kept []stream.Record
	for _, rec := range recs {
		secs, err := detect.DecodeBatch(rec.Value)
		if err != nil {
			return 0, err
		}
		var in []detect.Section
		whole := true
		for _, s := range secs {
			st := c.to[partition][s.Source]
			switch {
			case s.From >= st.Next:
				whole = false
				continue
			case s.To > st.Next:
				whole = false
				s = cut(s, st)
			}
			in = append(in, s)
		}
		switch {
		case whole:
			kept = append(kept, rec)
		case len(in) > 0:
			kept = append(kept, stream.Record{Value: detect.AppendBatch(nil, in)})
		}
	}
	if len(kept) == 0 {
		return 0, nil
	}
	return c.Producer.Produce(ctx, partition, kept)
}

// cut ends a section where a state stands.
func cut(s detect.Section, at correlate.SourceState) detect.Section {
	s.To, s.Generation, s.Clock, s.Tail, s.Progress, s.Seen = at.Next, at.Generation, at.Clock, at.Tail, at.Progress, at.Seen
	groups := s.Groups
	s.Groups = nil
	for _, g := range groups {
		obs := g.Obs
		g.Obs = nil
		for _, o := range obs {
			if o.Offset < at.Next {
				g.Obs = append(g.Obs, o)
			}
		}
		if len(g.Obs) > 0 {
			s.Groups = append(s.Groups, g)
		}
	}
	return s
}

// begin reads what was written to a partition and works out where its owner stands
// behind it.
func (m *mover) begin(ctx context.Context, h *history, l correlate.Layout, q int32) (correlate.SwitchTo, error) {
	to := correlate.SwitchTo{Partition: q}
	fold, err := correlate.NewFold(ctx, m.engine, m.Correlate, h.begin)
	if err != nil {
		return to, err
	}
	if h.begin != nil {
		to.Marks = []correlate.Mark{{Clock: fold.Clock(), State: h.begin}}
	}
	_, end, err := m.Kafka.Bounds(ctx, l.Topic, q)
	if err != nil {
		return to, err
	}
	for r := m.Kafka.Reader(l.Topic, q, 0); r.Next() < end; {
		b, err := r.Read(ctx)
		if err != nil {
			return to, err
		}
		for i := range b.Records {
			rec := &b.Records[i]
			secs, err := detect.DecodeBatch(rec.Value)
			if err != nil {
				return to, fmt.Errorf("message %d: %w", rec.Offset, err)
			}
			for _, s := range secs {
				res, err := fold.Apply(ctx, s)
				if err != nil {
					return to, err
				}
				if res == correlate.Gap {
					return to, fmt.Errorf("message %d: section of source %d from %d does not follow %d", rec.Offset, s.Source.Partition, s.From, fold.Next(s.Source))
				}
			}
			to.Mark.Last = detect.Tail{End: rec.Offset + 1, CRC: stream.Checksum(rec)}
		}
	}
	for s, st := range h.to[q] {
		if got := fold.Next(s); got != st.Next {
			return to, fmt.Errorf("history of source %d ends at %d, want %d", s.Partition, got, st.Next)
		}
	}
	to.Mark.Position, to.Mark.Clock, to.Mark.State = end, fold.Clock(), fold.State()
	return to, nil
}

// pages divides the profiles among n partitions.
func (m *mover) pages(ctx context.Context, t *taken, n int) ([][]correlate.Page, error) {
	var all []correlate.Page
	byPartition := make([][]correlate.Page, 0, n)
	for p, cp := range t.checkpoints {
		pages, err := correlate.UpgradePages(ctx, m.engine, m.Correlate, cp.Mark.State, cp.Pages)
		if err != nil {
			return nil, fmt.Errorf("profiles of partition %d: %w", p, err)
		}
		all, byPartition = append(all, pages...), append(byPartition, pages)
	}
	if n == len(t.checkpoints) {
		return byPartition, nil
	}
	return correlate.Repartition(all, n)
}

// lostFinding tells of a range of the log that is gone. The same range makes the
// same finding, whoever tells of it again.
func lostFinding(l Lost, clock int64, now interface{ UnixNano() int64 }) detect.Finding {
	r := rule.VisibilityLost()
	name := rule.LostRange(stream.TopicLogs, l.Source, l.From, l.To)
	if l.Windows {
		name += ", for windows"
	}
	if clock <= 0 {
		clock = now.UnixNano()
	}
	f := detect.Finding{
		Tenant: detect.DefaultTenant, RuleVersion: r.Version, Key: detect.AppendKey(nil, []byte(name)), Merge: detect.MergeLeast,
		Count: 1, Peak: 1, First: clock, Last: clock,
	}
	f.ID = detect.NewFindingID(f.Tenant, f.RuleVersion, f.Key, f.Tile)
	return f
}
