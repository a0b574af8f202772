package correlate_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// BenchmarkSnapshot fills an engine with two million observations, writes its
// windows and loads them, and gives either's time in that of applying.
func BenchmarkSnapshot(b *testing.B) {
	count := rule.Correlation{Type: rule.EventCount, Timespan: time.Hour, Op: rule.OpGTE, Value: 1e6}
	values := rule.Correlation{Type: rule.ValueCount, Timespan: time.Hour, Op: rule.OpGTE, Value: 1e6, Field: "f"}
	labels := make([]string, 30)
	for i := range labels {
		labels[i] = fmt.Sprint("value-", i)
	}
	for _, c := range []struct {
		name   string
		corr   rule.Correlation
		keys   int
		labels []string
	}{
		{"event_count/2M_keys", count, 2_000_000, nil},
		{"event_count/100k_keys", count, 100_000, nil},
		{"event_count/1000_keys", count, 1000, nil},
		{"value_count/100k_keys", values, 100_000, labels},
	} {
		b.Run(c.name, func(b *testing.B) {
			const observations = 2_000_000
			r := newRule(c.corr, 1)
			engine := func() *correlate.Engine {
				e := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 20, MaxKeys: 4 << 20})
				if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
					b.Fatal(err)
				}
				return e
			}
			e := engine()
			f := &feed{r: r, keys: c.keys, labels: c.labels}
			var applying, writing, loading time.Duration
			for f.at < observations {
				sec := f.section()
				t := time.Now()
				e.Apply(sec, false)
				applying += time.Since(t)
			}
			e.Flush()
			state := e.State()
			n := 0
			var w bytes.Buffer
			for b.Loop() {
				w.Reset()
				t := time.Now()
				if err := e.Snapshot(&w); err != nil {
					b.Fatal(err)
				}
				writing += time.Since(t)
				to := engine()
				if err := to.Reset(state); err != nil {
					b.Fatal(err)
				}
				t = time.Now()
				if err := to.Load(bytes.NewReader(w.Bytes())); err != nil {
					b.Fatal(err)
				}
				loading += time.Since(t)
				n++
			}
			b.ReportMetric(float64(writing)/float64(n)/float64(applying), "write/apply")
			b.ReportMetric(float64(loading)/float64(n)/float64(applying), "load/apply")
			b.ReportMetric(float64(applying.Nanoseconds())/observations, "apply-ns/observation")
			b.ReportMetric(float64(w.Len())/observations, "B/observation")
		})
	}
}
