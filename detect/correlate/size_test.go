package correlate_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// sizeOf is what the engine says that its only rule holds.
func sizeOf(e *correlate.Engine) (s correlate.Size) {
	e.Sizes(func(r correlate.RuleSize) { s = r.Size })
	return s
}

// tick moves the clock on.
func (f *feed) tick(e *correlate.Engine, by time.Duration) {
	f.later += by
	e.Apply(&detect.Section{Source: source(0), From: f.at, To: f.at + 1, Clock: start + f.at*int64(100*time.Microsecond) + int64(f.later)}, false)
	f.at++
}

// TestSizesAreTrue: keys are those that were fed, and bytes what the heap grew by to
// a quarter, before and after it has let go of them.
func TestSizesAreTrue(t *testing.T) {
	keys, turns := 40_000, 4
	if testing.Short() {
		keys = 8000
	}
	labels := make([]string, 30)
	for i := range labels {
		labels[i] = fmt.Sprint("value-", i)
	}
	for _, c := range []struct {
		corr    rule.Correlation
		refs    int
		learned bool // it keeps keys when it has let go of events
	}{
		{rule.Correlation{Type: rule.EventCount, Timespan: time.Hour, Op: rule.OpGTE, Value: 100_000}, 1, false},
		{rule.Correlation{Type: rule.EventCount, Timespan: time.Hour, Op: rule.OpLT, Value: 0}, 1, false},
		{rule.Correlation{Type: rule.ValueCount, Timespan: time.Hour, Op: rule.OpGTE, Value: 100, Field: "f"}, 1, false},
		{rule.Correlation{Type: rule.ValueSum, Timespan: time.Hour, Op: rule.OpGTE, Value: 1e12, Field: "f"}, 1, false},
		{rule.Correlation{Type: rule.Temporal, Timespan: time.Hour}, 2, false},
		{rule.Correlation{Type: rule.NewValue, Field: "f", Learning: time.Hour, Forget: 1000 * time.Hour}, 1, true},
		{rule.Correlation{Type: rule.Baseline, Timespan: 5 * time.Minute, Measure: "p95", MinVolume: 2, MinBuckets: 48, Factor: 4, Deviations: 6}, 1, true},
		{rule.Correlation{Type: rule.Unmatched, Timespan: 5 * time.Minute, Before: time.Minute, Hold: time.Hour}, 2, false},
	} {
		name := string(c.corr.Type)
		if c.corr.Op == rule.OpLT {
			name += "_lt"
		}
		t.Run(name, func(t *testing.T) {
			e := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 20})
			r := newRule(c.corr, c.refs)
			if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
				t.Fatal(err)
			}
			f := &feed{r: r, keys: keys, labels: labels}
			f.tick(e, 0)
			before := heap()
			check := func(when string, want int) {
				t.Helper()
				e.Flush()
				grew := int64(heap()) - int64(before)
				s := sizeOf(e)
				if s.Keys != int64(want) {
					t.Errorf("%s: %d keys, want %d", when, s.Keys, want)
				}
				if want > 0 && (s.Bytes < grew*3/4 || s.Bytes > grew*5/4) {
					t.Errorf("%s: %d bytes are told, the heap grew by %d: %.2f", when, s.Bytes, grew, float64(s.Bytes)/float64(grew))
				}
				if want == 0 && (s.Bytes > int64(keys) || grew > 8*int64(keys)) {
					t.Errorf("%s: %d bytes are told, the heap holds %d; want next to nothing", when, s.Bytes, grew)
				}
			}
			for range turns {
				for range keys / 1000 {
					e.Apply(f.section(), false)
				}
			}
			held := keys
			if c.corr.Type == rule.NewValue {
				held = 0 // nothing is learned yet
				if s := sizeOf(e); s.Bytes < int64(turns*keys*100) {
					t.Errorf("%d bytes are told of %d events that wait", s.Bytes, turns*keys)
				}
			} else {
				check("held", held)
			}
			for range 20 {
				f.tick(e, 20*time.Minute)
			}
			held = 0
			if c.learned {
				held = keys
			}
			check("let go", held)
			runtime.KeepAlive(e)
		})
	}
}

// TestOwnerTellsWhatItHolds: the metrics add up over partitions, and go with them.
func TestOwnerTellsWhatItHolds(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		p.generate(rand.New(rand.NewPCG(1, 1)), sets["g0"])
		o := p.options(1)
		registry := prometheus.NewRegistry()
		o.Metrics = correlate.NewMetrics(registry)
		stop := run(t, o)
		p.done(t)
		synctest.Wait()
		fs, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		told := map[string]map[string]float64{}
		for _, f := range fs {
			for _, m := range f.GetMetric() {
				by := ""
				for _, l := range m.GetLabel() {
					by += " " + l.GetName() + "=" + l.GetValue()
				}
				if told[f.GetName()] == nil {
					told[f.GetName()] = map[string]float64{}
				}
				told[f.GetName()][strings.TrimSpace(by)] = m.GetGauge().GetValue()
			}
		}
		const newValue = "rule=8f3f1a52-3c0b-4c3e-9d0a-000000000006 type=vedette.new_value"
		if told["vedette_correlate_state_keys"][newValue] < 1 || told["vedette_correlate_state_bytes"][newValue] < 100 {
			t.Errorf("state told: %v", told["vedette_correlate_state_keys"])
		}
		clock := told["vedette_correlate_clock_timestamp_seconds"]["partition=0"]
		for typ, behind := range map[string]float64{"aws.apigateway": 180, "aws.cloudtrail": 1200} {
			if s := told["vedette_correlate_settled_timestamp_seconds"]["partition=0 type="+typ]; clock == 0 || s > clock-behind || s < clock-10*behind-7200 {
				t.Errorf("%s is settled up to %.0f, the clock is at %.0f", typ, s, clock)
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"state_keys", "state_bytes", "settled_timestamp_seconds", "clock_timestamp_seconds"} {
			if n, err := testutil.GatherAndCount(registry, "vedette_correlate_"+name); n != 0 || err != nil {
				t.Errorf("%s is told by one that has left: %d series, %v", name, n, err)
			}
		}
	})
}
