package match_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// golden is what the sample records come to, by semantics. A number that was
// released keeps its digest: if the digest changes, raise match.Semantics and add
// a line.
var golden = map[int]string{
	1: "9772d1e2cd50030e03ed9de98f9c2f4c839130bcd3cfa064786c11a061bbf602",
}

const semanticsRules = `
title: Trail
id: 8f3f1a52-3c0b-4c3e-9d0a-0000000000a1
status: test
level: low
logsource: {product: aws, service: cloudtrail}
detection:
  sel: {eventName|re: '.*'}
  odd: {userAgent|contains: [console, Boto], errorCode|startswith: Access}
  not_here: {sourceIPAddress|cidr: 10.0.0.0/8}
  condition: sel and not not_here or odd
---
title: Gateway
id: 8f3f1a52-3c0b-4c3e-9d0a-0000000000a2
name: gateway
status: test
level: low
logsource: {product: vedette, category: http_activity}
detection: {sel: {src_endpoint.ip|exists: true}, condition: sel}
---
title: Function
id: 8f3f1a52-3c0b-4c3e-9d0a-0000000000a3
name: function
status: test
level: low
logsource: {product: vedette, service: aws.lambda}
detection: {sel: {function.name|exists: true}, condition: sel}
`

// TestSemanticsIsRaised holds the number to what it stands for: every attribute of
// every sample record, and the observations that they come to, byte by byte.
func TestSemanticsIsRaised(t *testing.T) {
	set, _, err := rule.FromSources(map[string][]byte{"r.yml": []byte(semanticsRules)})
	if err != nil {
		t.Fatal(err)
	}
	m := match.New(set)
	d, ev, sum := event.NewDecoder(), new(event.Event), sha256.New()
	counted := 0
	for _, of := range []struct {
		file string
		typ  event.Type
	}{{"cloudtrail", event.TypeCloudTrail}, {"apigateway", event.TypeAPIGateway}, {"lambda", event.TypeLambda}} {
		b, err := os.ReadFile(filepath.Join("..", "..", "event", "testdata", of.file+".log"))
		if err != nil {
			t.Fatal(err)
		}
		before := counted
		for line := range bytes.Lines(b) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			if bytes.HasPrefix(line, []byte("# ")) {
				continue
			}
			if err := d.Decode(ev, event.Record{Type: of.typ, Data: line}); err != nil {
				fmt.Fprintf(sum, "refused %v\n", errors.As(err, new(*event.DecodeError)))
				continue
			}
			fmt.Fprintf(sum, "%s %d %d %d\n", ev.Type, ev.Time, ev.Class, ev.Activity)
			for a := range event.NumAttrs {
				if v := ev.Attr(a); v != nil {
					fmt.Fprintf(sum, "%s=%q\n", a, v)
				}
			}
			s := sections{}
			m.Observe(ev, "default", detect.Pointer{Offset: 7}, ev.Time, &s)
			counted += s.n
			sum.Write(detect.AppendBatch(nil, []detect.Section{{To: 8, Generation: "g", Groups: s.Groups()}}))
		}
		if counted == before {
			t.Errorf("no rule counts any record of %s: the test tests nothing of them", of.file)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != golden[match.Semantics] {
		t.Errorf("records come to something else (%s) than semantics %d says (%s): raise match.Semantics", got, match.Semantics, golden[match.Semantics])
	}
}

// sections is a Sink that encodes what it is given.
type sections struct {
	detect.SectionBuilder
	n int
}

func (s *sections) Observe(r *rule.Rule, tenant string, key []byte, o detect.Observation) {
	s.Add(tenant, r.Version, key, o)
	s.n++
}

// binary is a program that judges by one semantics and knows which generations
// are of it.
type binary struct {
	*world
	speaks string
}

func (b binary) Load(ctx context.Context, digest string) (*match.Program, error) {
	if digest != b.speaks {
		return nil, fmt.Errorf("%w: %s", match.ErrSemantics, digest)
	}
	return b.world.Load(ctx, digest)
}

// Two programs that match differently, one after the other and at the same time,
// stopped and started at any instant with calls that fail and answers that are
// lost, write what one that speaks both would.
func TestSemanticsUnderUpgrade(t *testing.T) {
	runs := 40
	if testing.Short() {
		runs = 10
	}
	for seed := range runs {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(uint64(seed), 7))
			fill := func(rnd *rand.Rand) *world {
				w := newWorld(t, 1, 3)
				speaks := 0
				for i := range 120 {
					stamp := base.Add(time.Duration(i) * time.Second)
					if rnd.IntN(25) == 0 {
						speaks = 1 - speaks
						w.add(0, stamp, stream.LogMessage{Kind: stream.KindGeneration, Generation: fmt.Sprintf("generation-%d", speaks)})
						continue
					}
					w.record(0, stamp, stamp, []string{"ConsoleLogin", "GetObject"}[rnd.IntN(2)], []string{"AccessDenied", ""}[rnd.IntN(2)])
				}
				return w
			}
			whole := fill(rand.New(rand.NewPCG(uint64(seed), 8)))
			_, stop := start(t, whole.options())
			whole.until(t, whole.saved)
			if err := stop(); err != nil {
				t.Fatal(err)
			}

			w := fill(rand.New(rand.NewPCG(uint64(seed), 8)))
			faulty, faults := true, rand.New(rand.NewPCG(uint64(seed), 9))
			w.fail = func(string) (before, after error) {
				switch {
				case !faulty:
				case faults.IntN(8) == 0:
					return errors.New("call fails"), nil
				case faults.IntN(8) == 0:
					return nil, errors.New("answer is lost")
				}
				return nil, nil
			}
			run := func(speaks int) func() error {
				o := w.options()
				o.Generations = binary{w, fmt.Sprintf("generation-%d", speaks)}
				_, stop := start(t, o)
				return stop
			}
			var stops []func() error
			refused := 0
			end := func() {
				switch err := stops[0](); {
				case errors.Is(err, match.ErrSemantics):
					refused++
				case err != nil && !errors.Is(err, match.ErrFenced):
					t.Fatal(err)
				}
				stops = stops[1:]
			}
			done := func() bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.saved()
			}
			for i := 0; !done(); i++ {
				if i == 2000 {
					t.Fatal("does not get to the end of the log")
				}
				w.mu.Lock()
				faulty = i < 40
				w.mu.Unlock()
				stops = append(stops, run(rnd.IntN(2)))
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond) // of the bubble's clock: any instant will do
				for len(stops) > rnd.IntN(2) {
					end()
				}
			}
			for len(stops) > 0 {
				end()
			}
			if refused == 0 {
				t.Log("no program met what it does not speak")
			}
			got, want := observations(w.apply(t)), observations(whole.apply(t))
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || len(want) == 0 {
				t.Errorf("seed %d: observations\n%s\nwant\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}
