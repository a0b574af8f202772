package bench_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/bench"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// root lets a test name a directory that Postgres's user can enter too.
func root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "vedette-bench-test-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func TestRun(t *testing.T) {
	var told []string
	r, err := bench.Run(t.Context(), bench.Options{
		Events: 5000, Rate: 1000, Duration: 2 * time.Second, Probes: 60, Dir: root(t),
		Progress: func(p bench.Progress) {
			if len(told) == 0 || told[len(told)-1] != p.Stage {
				told = append(told, p.Stage)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var out, table bytes.Buffer
	if err := r.JSON(&out); err != nil {
		t.Fatal(err)
	}
	var got bench.Report
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	tp, l := got.Throughput, got.Latency
	if tp.Events != 5000 || tp.EventsPerSecond <= 0 || tp.BytesPerEvent < 500 || tp.CPUPerMillion <= 0 || tp.ObservationsPerEvent <= 0 {
		t.Errorf("throughput: %+v", tp)
	}
	if l.Probes < 70 || l.Incident.Arrived != l.Probes || l.Alert.Arrived != l.Probes {
		t.Errorf("%d probes, %d incidents, %d alerts", l.Probes, l.Incident.Arrived, l.Alert.Arrived)
	}
	for _, x := range []bench.Latency{l.Incident, l.Alert} {
		if x.P50 <= 0 || x.P50 > x.P99 || x.P99 > x.P999 || x.P999 > x.Max {
			t.Errorf("latency: %+v", x)
		}
	}
	if l.Incident.P50 > l.Alert.P50 {
		t.Errorf("alerts come before their incidents: %+v, %+v", l.Incident, l.Alert)
	}
	names := map[string]bool{}
	for _, s := range got.Stages {
		names[s.Name] = true
		if s.NsPerEvent <= 0 && s.MsPerCall <= 0 {
			t.Errorf("stage %+v", s)
		}
	}
	for _, n := range []string{"decode", "decode+match", "correlate", "checkpoint", "assemble"} {
		if !names[n] {
			t.Errorf("no stage %q", n)
		}
	}
	if got.Stateful < 50 {
		t.Errorf("%d stateful rules, want at least 50", got.Stateful)
	}
	if err := r.Table(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"events/s", "append to incident", "peak memory"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in\n%s", want, &table)
		}
	}
	for _, stage := range []string{"stages", "throughput", "steady pace"} {
		if !strings.Contains(strings.Join(told, ","), stage) {
			t.Errorf("progress told of %v, not of %q", told, stage)
		}
	}
}

func TestKeys(t *testing.T) {
	r, err := bench.Keys(t.Context(), bench.KeysOptions{Keys: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	var out, table bytes.Buffer
	if err := r.JSON(&out); err != nil {
		t.Fatal(err)
	}
	var got bench.KeysReport
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	// Bounds that a change of layout would break.
	if b := got.EventCount.BytesPerKey; b < 50 || b > 140 {
		t.Errorf("event_count: %.0f bytes a key", b)
	}
	if b := got.ValueCount.BytesPerEv; b < 30 || b > 110 {
		t.Errorf("value_count: %.0f bytes an event", b)
	}
	if s := got.Takeover; s.Seconds <= 0 || s.Seconds > 30 || s.Observations < 3*20_000 || s.LogBytes < s.Observations {
		t.Errorf("takeover: %+v", s)
	}
	if s := got.Takeover; s.FromSnapshot <= 0 || s.FromSnapshot > 30 || s.SnapshotBytes < 20_000 || s.SnapshotPause <= 0 {
		t.Errorf("from a snapshot: %+v", s)
	}
	if err := r.Table(&table); err != nil || !strings.Contains(table.String(), "takeover") {
		t.Errorf("%v in\n%s", err, &table)
	}
	if _, err := bench.Keys(t.Context(), bench.KeysOptions{Keys: 5}); err == nil {
		t.Error("five keys are taken")
	}
}

// TestBacklog: what the embedded broker can hold; a real Kafka has a test of its own.
func TestBacklog(t *testing.T) {
	if testing.Short() {
		t.Skip("internal/kafkatest runs it too")
	}
	r, err := bench.Backlog(t.Context(), bench.Options{Events: 100_000, Dir: root(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if r.Findings == 0 || r.Incidents == 0 || r.Backlog.EventsPerSecond <= 0 || r.Live.EventsPerSecond <= 0 || r.Memory.PeakHeap <= 0 {
		t.Errorf("%+v", r)
	}
	if last := r.Lag[len(r.Lag)-1]; last.Records != 0 || last.Messages != 0 || last.Read < 100_000 {
		t.Errorf("in the end: %+v", last)
	}
	if _, err := bench.Backlog(t.Context(), bench.Options{Events: 1_000_000}); err == nil {
		t.Error("a million records are queued in memory")
	}
	r.Differ, r.Differences = 1, []string{"finding of the live run only: x"}
	var table bytes.Buffer
	if err := r.Table(&table); err != nil || !strings.Contains(table.String(), "live run only: x") {
		t.Errorf("%v in\n%s", err, &table)
	}
	if r.Err() == nil {
		t.Error("a difference is no error")
	}
}

func TestOptionsAreRefused(t *testing.T) {
	for _, o := range []bench.Options{
		{Events: 10},
		{Events: bench.MaxEvents + 1},
		{Rate: -1},
		{Duration: time.Millisecond},
		{Duration: 2 * bench.MaxDuration},
		{Probes: 1e6},
		{Stateful: bench.MaxRules + 1},
		{Rules: []string{"no/such/directory"}},
	} {
		if _, err := bench.Run(t.Context(), o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestTraffic: what is made up decodes, is as long as it should be, and varies.
func TestTraffic(t *testing.T) {
	g := bench.NewTraffic(1, time.Now)
	d := event.NewDecoder()
	var ev event.Event
	ids := map[string]bool{}
	var size, n [3]int
	kind := map[event.Type]int{event.TypeCloudTrail: 0, event.TypeAPIGateway: 1, event.TypeLambda: 2}
	const records = 20_000
	for range records {
		m := g.Next()
		if got := event.DetectType(m.Value); got != event.Type(m.Type) {
			t.Fatalf("looks like %s, want %s: %s", got, m.Type, m.Value)
		}
		if err := d.Decode(&ev, event.Record{Type: event.Type(m.Type), Data: m.Value}); err != nil {
			t.Fatalf("%v: %s", err, m.Value)
		}
		ids[string(ev.Attr(event.AttrUID))] = true
		k := kind[ev.Type]
		size[k] += len(m.Value)
		n[k]++
	}
	if len(ids) != records {
		t.Errorf("%d ids in %d records", len(ids), records)
	}
	for k, want := range [3][2]int{{1200, 2200}, {800, 1300}, {150, 450}} {
		if mean := size[k] / max(n[k], 1); n[k] < records/10 || mean < want[0] || mean > want[1] {
			t.Errorf("type %d: %d records of %d bytes on average", k, n[k], mean)
		}
	}
}

// TestRules: they load, and no detection among them fires by itself.
func TestRules(t *testing.T) {
	for _, n := range []int{1, 60, 500} {
		set, warnings, err := rule.FromSources(map[string][]byte{"r.yml": []byte(bench.Rules(n))})
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%d rules: %v %v", n, err, warnings)
		}
		if len(set.Correlations) != n {
			t.Errorf("%d rules may fire, want %d", len(set.Correlations), n)
		}
	}
}

// BenchmarkWholePath sends records through the whole service, with Kafka and
// Postgres beside it. One operation is a run.
func BenchmarkWholePath(b *testing.B) {
	const events = 200_000
	var last *bench.Report
	for b.Loop() {
		r, err := bench.Run(b.Context(), bench.Options{Events: events, Rate: 2000, Duration: time.Second, Dir: root(b)})
		if err != nil {
			b.Fatal(err)
		}
		last = r
	}
	b.ReportMetric(last.Throughput.EventsPerSecond, "events/s")
	b.ReportMetric(1e9/last.Throughput.EventsPerSecond, "ns/event")
	b.ReportMetric(last.Throughput.CPUPerMillion*1e3, "cpu-ns/event")
	b.ReportMetric(last.Throughput.BytesPerEvent, "B/event")
	b.ReportMetric(float64(last.Memory.PeakRSS)/(1<<20), "peak-MiB")
}
