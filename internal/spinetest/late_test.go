package spinetest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// lateGenerations are the rules of the load, each with a lateness of three hours.
func lateGenerations(t *testing.T) generations {
	t.Helper()
	lines := strings.Split(ruleText+ruleTextMore, "\n")
	for i, l := range lines {
		switch {
		case !strings.HasPrefix(l, "correlation: {"):
		case strings.Contains(l, "vedette: {"):
			lines[i] = strings.Replace(l, "vedette: {", "vedette: {lateness: 3h, ", 1)
		default:
			lines[i] = strings.TrimSuffix(l, "}") + ", vedette: {lateness: 3h}}"
		}
	}
	set, _, err := rule.FromSources(map[string][]byte{"rules.yml": []byte(strings.Join(lines, "\n"))})
	if err != nil {
		t.Fatal(err)
	}
	return generations{"generation-0": {set, &match.Program{Digest: "generation-0", Matcher: match.New(set), Enricher: enricher{}}}}
}

// TestHoursLate appends one load twice: as it happened, and with a fifth of the
// records displaced by up to ten minutes and some by hours. Through match, correlate
// and the assembler both come to the same findings, profiles and incidents.
func TestHoursLate(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	steps := 360 // an hour
	if testing.Short() {
		steps = 120
	}
	ctx := within(t, 3*time.Minute)
	gens := lateGenerations(t)
	began := start()
	l := load{rnd: rand.New(rand.NewPCG(seed, 1)), now: began, once: true}
	displace := rand.New(rand.NewPCG(seed, 2))
	const tail = int(3 * time.Hour / stepTime)
	ordered, shuffled := make([][]stream.LogMessage, steps), make([][]stream.LogMessage, steps+tail)
	moved := 0
	for i := range steps {
		for _, m := range l.next() {
			ordered[i] = append(ordered[i], m)
			by := 0
			switch n := displace.IntN(100); {
			case n < 20:
				by = displace.IntN(int(10 * time.Minute / stepTime))
			case n < 24:
				by = displace.IntN(tail - int(5*time.Minute/stepTime))
			}
			moved += min(by, 1)
			shuffled[i+by] = append(shuffled[i+by], m)
		}
	}
	for _, msgs := range shuffled {
		displace.Shuffle(len(msgs), func(i, j int) { msgs[i], msgs[j] = msgs[j], msgs[i] })
	}
	t.Logf("%d records were displaced", moved)
	want := appendedLate(t, ctx, gens, began, ordered)
	got := appendedLate(t, ctx, gens, began, shuffled)
	compare(t, got, want)
}

// appendedLate appends what is given for each step, lets the clock go on for half a day
// until all has settled, and returns what that came to, without where records stand.
func appendedLate(t *testing.T, ctx context.Context, gens generations, began time.Time, steps [][]stream.LogMessage) map[string][]string {
	t.Helper()
	b, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := &site{brokers: []string{b.Addr()}, observations: "late.observations", dsn: pgtest.NewDSN(t), gens: gens, log: quiet()}
	db, c := open(t, ctx, s)
	now := began
	a, err := c.NewLogAppender(stream.AppenderOptions{Partitions: s.sources(), Now: func() time.Time { return now }, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	tick := func() {
		if err := a.Broadcast(ctx, stream.LogMessage{Kind: stream.KindTick}); err != nil {
			t.Fatal(err)
		}
	}
	for i, msgs := range steps {
		now = began.Add(time.Duration(i+1) * stepTime)
		for len(msgs) > 0 {
			n := min(len(msgs), 3) // in small pieces, so that they spread over the partitions
			if err := a.Append(ctx, msgs[:n]); err != nil {
				t.Fatal(err)
			}
			msgs = msgs[n:]
		}
		if i%6 == 5 {
			tick()
		}
	}
	for now.Before(began.Add(16 * time.Hour)) {
		now = now.Add(5 * time.Minute)
		tick()
	}
	w, err := s.start(db, c, crewOptions{every: 50 * time.Millisecond, faults: &faults{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	if err := w.kill(); err != nil {
		t.Fatal(err)
	}
	all, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	findings, err := pgtest.Findings(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	all["finding"] = nil
	for _, f := range findings {
		var events []string
		for _, e := range f.Evidence {
			events = append(events, fmt.Sprint(e.Time, "/", e.IDHash))
		}
		if r := gens["generation-0"].set.ByVersion(f.RuleVersion); f.Late > 0 && !r.Correlation.Implicit {
			t.Errorf("%s: %d events came later than it reckons with", r.Title, f.Late)
		}
		f.Evidence, f.Late = nil, 0
		all["finding"] = append(all["finding"], fmt.Sprintf("%+v %v", f, events))
	}
	return all
}
