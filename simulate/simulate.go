// Package simulate writes the logs of a serverless "orders" API on AWS that does
// not exist: benign traffic, and attack episodes in it that the shipped rules
// find. It writes the providers' own formats (CloudTrail files, CloudWatch Logs
// envelopes of API Gateway access lines and Lambda platform lines), consistent
// with one another down to the request ids, and a file of labels beside them.
//
// The output is a function of [Options]. Addresses, accounts and AS numbers are
// from the ranges reserved for documentation; [WriteMMDB] writes an address
// database for them and [Inventory] returns the function inventory.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// DefaultRate is the mean rate if none is given: log records a second, six or
// seven of which belong to one request.
const DefaultRate = 0.7

// recordsPerRequest is how many log records a request causes on average.
const recordsPerRequest = 6.5

// Options say what to simulate.
type Options struct {
	Seed     uint64
	Start    time.Time     // of the simulated time
	Duration time.Duration // at least MinDuration
	Rate     float64       // log records a second, on average over the time; 0: DefaultRate
	Episodes []string      // names of episodes, or "all", or "none"; empty: all
	Out      string        // directory; logs/ and labels.json in it must not exist yet
}

// MinDuration is the shortest time that can be simulated.
const MinDuration = 15 * time.Minute

func (o *Options) validate() error {
	switch {
	case o.Start.IsZero():
		return errors.New("simulate: start: want a time")
	case o.Duration < MinDuration:
		return fmt.Errorf("simulate: duration %v: want at least %v", o.Duration, MinDuration)
	case o.Rate < 0 || math.IsNaN(o.Rate) || o.Rate > 1e6:
		return fmt.Errorf("simulate: rate %v: want records a second, at most a million", o.Rate)
	case o.Out == "":
		return errors.New("simulate: out: want a directory")
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	switch {
	case len(o.Episodes) == 0, slices.Equal(o.Episodes, []string{"all"}):
		o.Episodes = EpisodeNames()
	case slices.Equal(o.Episodes, []string{"none"}):
		o.Episodes = nil
	}
	for i, n := range o.Episodes {
		if !slices.Contains(EpisodeNames(), n) {
			return fmt.Errorf("simulate: episode %q: want all, none or some of %v", n, EpisodeNames())
		}
		if slices.Contains(o.Episodes[:i], n) {
			return fmt.Errorf("simulate: episode %q is named twice", n)
		}
	}
	return nil
}

// Result says what was written.
type Result struct {
	Records int // log records
	Files   int
	Labels  Labels
}

// Run writes Out/logs/{cloudtrail,apigateway,lambda}/… and Out/labels.json. All
// times lie in [Start, Start + Duration).
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.validate(); err != nil {
		return Result{}, err
	}
	out, err := newOutput(o.Out)
	if err != nil {
		return Result{}, err
	}
	s := newSim(o, out)
	s.traffic()
	s.episodes()
	if err := s.run(ctx); err != nil {
		return Result{}, errors.Join(err, out.abort())
	}
	if err := out.close(s.end); err != nil {
		return Result{}, err
	}
	labels := s.labels()
	if err := writeLabels(o.Out, labels); err != nil {
		return Result{}, err
	}
	return Result{Records: out.records, Files: out.files, Labels: labels}, nil
}

// sim is one simulation. Its times are milliseconds since the Unix epoch.
type sim struct {
	opts       Options
	start, end int64
	meanLoad   float64
	rng        *rand.Rand // of the benign traffic: the same requests with and without episodes
	ids        *rand.Rand
	out        *output
	actions    queue[action]
	seq        int
	scratch    []byte

	users   []*user
	fns     map[string]*fn
	runners []string
	routes  []*route

	marks []*mark
}

func newSim(o Options, out *output) *sim {
	s := &sim{
		opts:    o,
		start:   o.Start.UnixMilli(),
		end:     o.Start.Add(o.Duration).UnixMilli(),
		rng:     rand.New(rand.NewPCG(o.Seed, 1)),
		ids:     rand.New(rand.NewPCG(o.Seed, 2)),
		out:     out,
		fns:     map[string]*fn{},
		actions: queue[action]{before: beforeAction},
	}
	s.populate()
	s.meanLoad = meanLoad(s.start, s.end)
	return s
}

// margin is how long before the end nothing new begins, so that nothing that
// was begun ends in the future.
const margin = 60_000

// at has f called at t, in the order of t; never if it lies outside of the
// simulated time.
func (s *sim) at(t int64, f func(t int64)) {
	if t < s.start || t >= s.end-margin {
		return
	}
	s.seq++
	s.actions.push(action{t, s.seq, f})
}

func (s *sim) run(ctx context.Context) error {
	for n := 0; s.actions.len() > 0; n++ {
		if n%1024 == 0 {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("simulate: %w", err)
			}
		}
		a := s.actions.pop()
		if err := s.out.flush(a.t); err != nil {
			return err
		}
		a.do(a.t)
	}
	return nil
}

// action is something that happens at a time; seq keeps ties in order.
type action struct {
	t   int64
	seq int
	do  func(t int64)
}

func beforeAction(a, b *action) bool { return a.t < b.t || a.t == b.t && a.seq < b.seq }

// between is a number in [low, high).
func between(r *rand.Rand, low, high int64) int64 { return low + r.Int64N(high-low) }

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// logNormal is a time around median, ms, with a tail to the right.
func logNormal(r *rand.Rand, median, sigma float64) float64 {
	return median * math.Exp(r.NormFloat64()*sigma)
}

const hexDigits = "0123456789abcdef"

// uuid is a random UUID of version 4.
func (s *sim) uuid() string {
	var b [36]byte
	x, y := s.ids.Uint64(), s.ids.Uint64()
	for i := range b {
		switch i {
		case 8, 13, 18, 23:
			b[i] = '-'
			continue
		}
		v := &x
		if i > 18 {
			v = &y
		}
		b[i] = hexDigits[*v&15]
		*v >>= 4
	}
	b[14] = '4'
	b[19] = "89ab"[s.ids.IntN(4)]
	return string(b[:])
}

// letters is n random letters and digits.
func (s *sim) letters(n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[s.ids.IntN(len(alphabet))]
	}
	return string(b)
}

func (s *sim) hex(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = hexDigits[s.ids.IntN(16)]
	}
	return string(b)
}
