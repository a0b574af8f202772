package correlate_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// feed makes sections of 1,000 observations, spread over keys, 100 µs apart.
type feed struct {
	b      detect.SectionBuilder
	r      *rule.Rule
	keys   int
	at     int64 // offset
	labels []string
	order  uint64
	later  time.Duration // by which the clock was moved on
}

func (f *feed) section() *detect.Section {
	const n = 1000
	f.b.Reset()
	sec := &detect.Section{Source: source(0), From: f.at, To: f.at + n}
	var key [32]byte
	for i := range int64(n) {
		off := f.at + i
		stamp := start + off*int64(100*time.Microsecond) + int64(f.later)
		f.order = f.order*6364136223846793005 + 1442695040888963407
		k := uint64(off) % uint64(f.keys)
		o := detect.Observation{
			Pointer: detect.Pointer{Source: source(0), Offset: off}, Time: stamp - int64(f.order>>40)*100, Stamp: stamp,
			IDHash: uint64(off) * 0x9e3779b97f4a7c15, Number: float64(f.order >> 58),
		}
		if len(f.labels) > 0 {
			o.Label = f.labels[f.order>>33%uint64(len(f.labels))]
		}
		buf := append(key[:0], 12)
		buf = binary.BigEndian.AppendUint64(buf, k)
		f.b.Add(tenant, f.r.Version, append(buf, "user"...), o)
		sec.Clock = stamp
	}
	sec.Groups = f.b.Groups()
	f.at += n
	return sec
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkApply(b *testing.B) {
	labels := make([]string, 30)
	for i := range labels {
		labels[i] = fmt.Sprint("value-", i)
	}
	count := rule.Correlation{Type: rule.EventCount, Timespan: time.Hour, Op: rule.OpGTE, Value: 100_000}
	hot := count
	hot.Value = 100
	one := rule.Correlation{Type: rule.EventCount, Timespan: 5 * time.Minute, Op: rule.OpGTE, Value: 1}
	values := rule.Correlation{Type: rule.ValueCount, Timespan: time.Hour, Op: rule.OpGTE, Value: 100, Field: "f"}
	sum := rule.Correlation{Type: rule.ValueSum, Timespan: time.Hour, Op: rule.OpGTE, Value: 1e12, Field: "f"}
	percentile := rule.Correlation{Type: rule.ValuePercentile, Timespan: time.Hour, Op: rule.OpGTE, Value: 1e12, Field: "f", Percentile: 95}
	for _, c := range []struct {
		name   string
		corr   rule.Correlation
		keys   int
		labels []string
	}{
		{"event_count/1_hot_key", hot, 1, nil},
		{"event_count/100k_keys", count, 100_000, nil},
		{"event_count/1M_keys", count, 1_000_000, nil},
		{"single_event/1000_keys", one, 1000, nil},
		{"value_count/1_hot_key", values, 1, labels},
		{"value_count/100k_keys", values, 100_000, labels},
		{"value_sum/1_hot_key", sum, 1, nil},
		{"value_percentile/1_hot_key", percentile, 1, nil},
		{"new_value/100k_keys", rule.Correlation{Type: rule.NewValue, Field: "f", Learning: time.Hour, Forget: 1000 * time.Hour}, 100_000, labels[:3]},
		{"baseline/1000_keys", rule.Correlation{Type: rule.Baseline, Timespan: 5 * time.Minute, Measure: "p95", MinVolume: 20, MinBuckets: 48, Factor: 4, Deviations: 6}, 1000, nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRule(c.corr, 1)
			e := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 20})
			if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
				b.Fatal(err)
			}
			f := &feed{r: r, keys: c.keys, labels: c.labels}
			before := heap()
			for range c.keys / 1000 { // each key once
				e.Apply(f.section(), false)
			}
			e.Flush()
			perKey := float64(int64(heap()-before)) / float64(c.keys)
			var spent time.Duration
			n := 0
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				b.StopTimer()
				sec := f.section()
				b.StartTimer()
				t := time.Now()
				if e.Apply(sec, false) != correlate.Applied {
					b.Fatal("not applied")
				}
				if n++; n%100 == 0 {
					e.Flush()
				}
				spent += time.Since(t)
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(n)/1000, "ns/observation")
			b.ReportMetric(float64(n)*1000/spent.Seconds(), "observations/s")
			if c.keys > 1 {
				b.ReportMetric(perKey, "B/key")
			}
			b.ReportMetric(float64(int64(heap()-before))/float64(f.at), "B/observation")
			runtime.KeepAlive(e)
		})
	}
}
