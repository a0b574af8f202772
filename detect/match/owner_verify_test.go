package match_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/stream"
)

type tails []detect.Tail

func (a tails) Tails(context.Context, detect.Source) ([]detect.Tail, error) { return a, nil }

type incarnations match.Incarnation

func (i incarnations) Incarnation(context.Context, int32) (match.Incarnation, error) {
	return match.Incarnation(i), nil
}

// TestOwnerKnowsTheLogAgain: an owner begins only if the record before its position,
// and those that correlate has applied beyond it, are still there.
func TestOwnerKnowsTheLogAgain(t *testing.T) {
	for name, c := range map[string]struct {
		meddle  func(w *world)
		applied func(w *world) tails
		refused bool
	}{
		"the same log": {},
		"another record before the position": {
			meddle:  func(w *world) { w.logs[0][9].Time = w.logs[0][9].Time.Add(time.Millisecond) },
			refused: true,
		},
		"it ends before the position": {meddle: func(w *world) { w.logs[0] = w.logs[0][:9] }, refused: true},
		"another record, but retention has it": {
			meddle: func(w *world) { w.logs[0][9].Value, w.first[0] = nil, 10 },
		},
		"another record behind the position, which correlate has": {
			applied: func(w *world) tails {
				return tails{{}, {End: 11, CRC: stream.Checksum(&w.logs[0][10])}, {End: 12, CRC: 1}}
			},
			refused: true,
		},
		"the same behind the position": {
			applied: func(w *world) tails {
				return tails{{}, {End: 11, CRC: stream.Checksum(&w.logs[0][10])}, {End: 12, CRC: stream.Checksum(&w.logs[0][11])}}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 1)
				for i := range 10 {
					w.record(0, base.Add(time.Duration(i)*time.Second), base, "GetUser", "AccessDenied")
				}
				o := w.options()
				_, stop := start(t, o)
				w.until(t, w.saved)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				w.record(0, base.Add(time.Minute), base, "GetUser", "")
				w.record(0, base.Add(time.Minute), base, "GetUser", "")
				if c.meddle != nil {
					c.meddle(w)
				}
				if c.applied != nil {
					o.Applied = c.applied(w)
				}
				if !c.refused {
					_, stop := start(t, o)
					w.until(t, w.saved)
					if err := stop(); err != nil {
						t.Error(err)
					}
					return
				}
				owner, err := match.NewOwner(o)
				if err != nil {
					t.Fatal(err)
				}
				if err := owner.Run(t.Context()); !errors.Is(err, stream.ErrTruncated) || !strings.Contains(err.Error(), "vedette repair") {
					t.Errorf("%v, want ErrTruncated, and what to do", err)
				}
				if n := w.positions[0].Next; n != 10 {
					t.Errorf("position %d, want the one that was saved", n)
				}
			})
		})
	}
}

// TestOwnerTellsOfLostRecords: records that are gone before they were read make an
// observation of the rule that is always in force.
func TestOwnerTellsOfLostRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.first[0] = 2 // what was there before the first start is not missed
		for i := range 6 {
			w.record(0, base.Add(time.Duration(i)*time.Second), base, "GetUser", "")
		}
		o := w.options()
		_, stop := start(t, o)
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for range 6 {
			w.record(0, base.Add(time.Minute), base, "GetUser", "")
		}
		w.first[0] = 9
		_, stop = start(t, o)
		w.until(t, w.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, r := range w.out[0] {
			secs, err := detect.DecodeBatch(r.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range secs {
				for _, g := range s.Groups {
					key, err := detect.SplitKey(g.Key)
					if err != nil || g.RuleVersion != rule.VisibilityLost().Version || len(g.Obs) != 1 {
						t.Fatalf("group %+v (%v)", g, err)
					}
					told = append(told, key...)
					if got, want := g.Obs[0].Time, base.Add(5*time.Second).UnixNano(); got != want || g.Obs[0].Offset != 8 {
						t.Errorf("observation %+v, want the time of the last record before, and the last offset", g.Obs[0])
					}
				}
			}
		}
		if want := "vedette.logs partition 0 (incarnation 1) offsets 6–8"; len(told) != 1 || told[0] != want {
			t.Errorf("told of %q, want %q", told, want)
		}
	})
}

// TestOwnerOfANewIncarnation: reading begins where the incarnation does, sections at
// 0, and what was known before goes on, also after everything has to be written
// again.
func TestOwnerOfANewIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		for i := range 8 {
			w.record(0, base.Add(time.Duration(i)*time.Second), base, "GetUser", "AccessDenied")
		}
		clock := base.Add(time.Hour).UnixNano()
		o := w.options()
		o.Incarnations = incarnations{
			Number: 3, First: 5, Generation: "generation-1",
			State: match.StateAt(clock, []detect.Progress{{Origin: "o", Type: "aws.lambda", Through: 7}}, nil),
		}
		owner, stop := start(t, o)
		w.until(t, w.saved)
		check := func(when string) {
			t.Helper()
			secs, err := detect.DecodeBatch(w.out[0][0].Value)
			if err != nil {
				t.Fatal(err)
			}
			s := secs[0]
			if s.Source.Incarnation != 3 || s.From != 0 || s.To <= 5 || s.Generation != "generation-1" || s.Clock != clock || len(s.Progress) != 1 {
				t.Errorf("%s: first section %+v", when, s)
			}
			obs := observations(w.apply(t))
			if len(obs) != 3 || strings.Contains(strings.Join(obs, "\n"), " 0/4 ") {
				t.Errorf("%s: observations %q, want those of the records from 5 on", when, obs)
			}
		}
		check("at first")
		w.mu.Lock()
		w.out = make([][]stream.Record, 1)
		w.mu.Unlock()
		owner.Rewind(detect.Source{Incarnation: 3}, 0)
		w.until(t, func() bool { return len(w.out[0]) > 0 && w.rewritten() })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		check("again")
	})
}
