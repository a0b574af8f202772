package replay_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest/file"
	"github.com/vedette-sec/vedette/replay"
	"github.com/vedette-sec/vedette/stream"
)

// service judges what a file collector appends as the service does: by append
// stamps and progress, not by event time.
type service struct {
	o        replay.Options
	now      func() time.Time
	dec      *event.Decoder
	ev       event.Event
	matcher  *match.Matcher
	engine   *correlate.Engine
	builder  detect.SectionBuilder
	from, at int64
	clock    int64
	progress map[string]detect.Progress
	seen     map[string]int64
	findings map[detect.FindingID]*detect.Finding
	end      time.Time
	done     chan struct{} // closed when a log type is complete through end
}

func (s *service) Append(_ context.Context, msgs []stream.LogMessage) error {
	s.clock = max(s.clock, s.now().UnixNano())
	for _, m := range msgs {
		if err := s.dec.Decode(&s.ev, event.Record{Type: event.Type(m.Type), Data: m.Value}); err != nil {
			return err
		}
		s.o.Enricher.Enrich(&s.ev)
		s.seen[m.Type] = max(s.seen[m.Type], s.ev.Time)
		s.matcher.Observe(&s.ev, "default", detect.Pointer{Offset: s.at}, s.clock, s)
		s.at++
	}
	s.section()
	return nil
}

func (s *service) Observe(r *rule.Rule, tenant string, key []byte, o detect.Observation) {
	s.builder.Add(tenant, r.Version, key, o)
}

func (s *service) Broadcast(_ context.Context, m stream.LogMessage) error {
	s.clock = max(s.clock, s.now().UnixNano())
	s.at++
	s.progress[m.Type] = detect.Progress{Origin: m.Origin, Type: m.Type, Through: m.Through.UnixNano()}
	s.section()
	if len(s.progress) == 3 {
		for _, p := range s.progress {
			if p.Through < s.end.UnixNano() {
				return nil
			}
		}
		select {
		case <-s.done:
		default:
			close(s.done)
		}
	}
	return nil
}

func (s *service) DeadLetter(_ context.Context, d stream.DeadLetter) error {
	return fmt.Errorf("dead letter: %s: %s", d.Reason, d.Value)
}

func (s *service) section() {
	sec := detect.Section{From: s.from, To: s.at, Clock: s.clock, Groups: s.builder.Groups()}
	for _, p := range s.progress {
		sec.Progress = append(sec.Progress, p)
	}
	for typ, at := range s.seen {
		sec.Seen = append(sec.Seen, detect.Seen{Type: typ, Time: at})
	}
	s.engine.Apply(&sec, false)
	s.builder.Reset()
	s.from = s.at
	deltas, _ := s.engine.Flush()
	for _, d := range deltas {
		if f, ok := s.findings[d.ID]; ok {
			f.Add(d, 0)
			continue
		}
		s.findings[d.ID] = &d
	}
}

func (s *service) Cursor(context.Context, string) ([]byte, error)         { return nil, nil }
func (s *service) SaveCursor(_ context.Context, _ string, _ []byte) error { return nil }

// testCollected collects the logs in dir after the simulation has ended, all of
// it within seconds of append time, and expects what the replay found.
func testCollected(t *testing.T, dir string, end time.Time, want replay.Result) {
	t.Helper()
	ahead := time.Until(end.Add(30 * time.Second))
	s := &service{
		o: shipped(t), now: func() time.Time { return time.Now().Add(ahead) }, dec: event.NewDecoder(),
		engine: correlate.NewEngine(correlate.Options{Sources: 1}), progress: map[string]detect.Progress{}, seen: map[string]int64{},
		findings: map[detect.FindingID]*detect.Finding{}, end: end, done: make(chan struct{}),
	}
	s.matcher = match.New(s.o.Rules)
	if err := s.engine.AddRules(s.o.Rules); err != nil {
		t.Fatal(err)
	}
	c, err := file.New(file.Options{
		Origin: "file:test", Paths: []string{filepath.Join(dir, "logs")}, Appender: s, Cursors: s, Now: s.now, Rest: time.Nanosecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- c.Run(ctx) }()
	select {
	case <-s.done:
	case <-time.After(5 * time.Minute):
		t.Error("the collector does not come to the end")
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	replayed, collected := map[string]string{}, map[string]string{}
	for _, f := range want.Findings {
		replayed[f.ID] = fmt.Sprint(f.RuleTitle, " ", f.Count, " ", f.Verdict)
	}
	for id, f := range s.findings {
		collected[id.String()] = fmt.Sprint(s.o.Rules.ByVersion(f.RuleVersion).Title, " ", f.Count, " ", f.Verdict)
	}
	if d := cmp.Diff(replayed, collected); d != "" {
		t.Errorf("findings (-replayed +collected):\n%s", d)
	}
}
