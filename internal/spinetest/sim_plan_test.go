package spinetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pgregory.net/rapid"
)

// simPlan is what befalls one run of the simulation. It decides everything: the
// same plan gives the same run.
type simPlan struct {
	Seed       uint64 // of latencies and of how much a reader gets at once
	History    int    // which log is read
	Partitions int    // of the observations
	Snapshots  bool   // windows go to files now and then
	Crews      []simCrewPlan
	Move       *simMove // nil: the layout stays
	Rate       uint64   // one in how many calls goes wrong besides; none if zero
	Faults     []simFault
}

// simCrewPlan is one process: match, correlate and the assembler, or what of them
// is its.
type simCrewPlan struct {
	After, Lasts      time.Duration // from the start of the one before; both may be at work
	Sources, Observed uint8         // masks of the partitions that are its own
	Assembles         bool
	Graceful          bool // it is stopped, not killed
	Forget            int8 // the source whose position is lost before it starts; −1: none
	Damage, Foreign   bool // what it does to the snapshots before it starts
	Hurried           bool // it saves and commits after every few records
}

// simMove is a move to another number of partitions.
type simMove struct {
	Before     int // the crew that starts after it; those before may be at work still
	Partitions int
	Cut        int // how far the log goes until then: to that of the history's ticks
}

// simOp is a kind of call between the owners and the world.
type simOp uint8

const (
	opRead simOp = iota // of vedette.logs
	opReadObserved
	opProduce
	opLetters
	opAcquireSource
	opSaveSource
	opStandings
	opLeastNext
	opTails
	opLoad
	opRules
	opAcquire
	opCommit
	opAskRewind
	opAcquireAssembler
	opAssemble
	opLayout // what a move asks of the ledger
	opTopics // and of Kafka
	opPlanLayout
	opSwitchLayout
	numOps
)

// simKind is what goes wrong with a call.
type simKind uint8

const (
	simFails   simKind = iota // it does nothing
	simLost                   // it is done, and the answer is lost
	simCrash                  // the process is killed instead
	simCrashed                // it is done, and the process killed
	simSlow                   // it is done after a while
	simLate                   // it seems to have failed, and is done after a while
	simTwice                  // it is done twice: a request that the network repeats
	numKinds
)

// simCall names a call: the nth of a kind, by a crew, on a partition.
type simCall struct {
	Crew int
	Op   simOp
	Part int32
	Nth  int
}

type simFault struct {
	simCall
	Kind simKind
	For  time.Duration // simSlow and simLate
}

// errSim is what a call that went wrong returns. It looks like a network's.
var errSim = fmt.Errorf("simulated: %w", context.DeadlineExceeded)

var errSimDead = errors.New("simulated: the process is gone")

const (
	simSources    = 2
	simHistories  = 6
	simPartitions = 3 // at most
	simCrews      = 6
)

// simPlans draws plans.
var simPlans = rapid.Custom(func(t *rapid.T) *simPlan {
	p := &simPlan{
		Seed:       rapid.Uint64().Draw(t, "seed"),
		History:    rapid.IntRange(0, simHistories-1).Draw(t, "history"),
		Partitions: rapid.IntRange(1, simPartitions).Draw(t, "partitions"),
		Snapshots:  rapid.IntRange(0, 3).Draw(t, "snapshots") == 0,
		Rate:       rapid.SampledFrom([]uint64{0, 60, 25, 10}).Draw(t, "rate"),
	}
	ms := func(label string, of ...int) time.Duration {
		return time.Duration(rapid.SampledFrom(of).Draw(t, label)) * time.Millisecond
	}
	for range rapid.SampledFrom([]int{1, 2, 3, 4, 5, simCrews}).Draw(t, "crews") {
		p.Crews = append(p.Crews, simCrewPlan{
			After: ms("after", 0, 100, 700, 1500, 3000), Lasts: ms("lasts", 50, 300, 1000, 2000, 4000, 6000),
			Sources: rapid.SampledFrom([]uint8{0xff, 0xff, 0xff, 0xff, 1, 2}).Draw(t, "sources"), Observed: rapid.SampledFrom([]uint8{0xff, 0xff, 0xff, 0xff, 1, 6}).Draw(t, "observed"),
			Assembles: rapid.Bool().Draw(t, "assembles"), Graceful: rapid.Bool().Draw(t, "graceful"),
			Forget: rapid.SampledFrom([]int8{-1, -1, -1, 0, 1}).Draw(t, "forget"),
			Damage: p.Snapshots && rapid.IntRange(0, 2).Draw(t, "damage") == 0, Foreign: p.Snapshots && rapid.IntRange(0, 2).Draw(t, "foreign") == 0,
			Hurried: rapid.Bool().Draw(t, "hurried"),
		})
	}
	if n := rapid.IntRange(0, 2*simPartitions).Draw(t, "move"); n >= 1 && n <= simPartitions && n != p.Partitions {
		p.Move = &simMove{Before: rapid.IntRange(0, len(p.Crews)).Draw(t, "before"), Partitions: n, Cut: rapid.SampledFrom([]int{5, 20, 40, 60, 80, 95, 105}).Draw(t, "cut")}
	}
	p.Faults = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) simFault {
		f := simFault{simCall: simCall{Crew: rapid.IntRange(0, len(p.Crews)+1).Draw(t, "crew"), Op: simOp(rapid.IntRange(0, int(numOps)-1).Draw(t, "op"))}}
		switch f.Op {
		case opRead, opAcquireSource, opSaveSource, opLeastNext, opTails, opAskRewind:
			f.Part = int32(rapid.IntRange(0, simSources-1).Draw(t, "part"))
		case opReadObserved, opProduce, opAcquire, opCommit:
			f.Part = int32(rapid.IntRange(0, p.Partitions-1).Draw(t, "part"))
		}
		f.Nth = rapid.SampledFrom([]int{0, 1, 2, 3, 5, 8, 13, 21, 34}).Draw(t, "nth")
		f.Kind = rapid.SampledFrom([]simKind{
			simFails, simFails, simLost, simLost, simSlow, simLate, simLate, simTwice, simTwice, simCrash, simCrashed,
		}).Draw(t, "kind")
		if f.Kind == simSlow || f.Kind == simLate {
			f.For = ms("for", 10, 100, 700, 3000)
		}
		return f
	}), 0, 25).Draw(t, "faults")
	return p
})

// simFaults answers what goes wrong with a call.
type simFaults struct {
	p  *simPlan
	by map[simCall]simFault
}

func newSimFaults(p *simPlan) *simFaults {
	f := &simFaults{p, make(map[simCall]simFault, len(p.Faults))}
	for _, x := range p.Faults {
		f.by[x.simCall] = x
	}
	return f
}

// at tells of a call; n is the number that it was given.
func (f *simFaults) at(c simCall, n uint64) (simFault, bool) {
	if f == nil {
		return simFault{}, false
	}
	rate := f.p.Rate
	switch c.Op {
	case opPlanLayout, opSwitchLayout, opAcquireAssembler, opLeastNext, opLoad: // there are few of these
		rate = (rate + 7) / 8
	}
	if x, ok := f.by[c]; ok || rate == 0 || n%rate != 0 {
		return x, ok
	}
	n = simMix(n, 1)
	x := simFault{simCall: c, Kind: simKind(n % uint64(numKinds)), For: time.Duration(n>>8%1500) * time.Millisecond}
	if (x.Kind == simCrash || x.Kind == simCrashed) && n>>32%6 > 0 {
		x.Kind = simLost // else none would live long
	}
	return x, true
}

// simMix is a number that the plan's seed and a call decide.
func simMix(seed uint64, vs ...uint64) uint64 {
	h := seed ^ 0x9e3779b97f4a7c15
	for _, v := range vs {
		h = (h ^ v) * 0xd6e8feb86659fd93
		h ^= h >> 32
	}
	h *= 0xd6e8feb86659fd93
	return h ^ h>>29
}
