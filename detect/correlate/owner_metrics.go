package correlate

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vedette-sec/vedette/event"
)

// Metrics is what owners count. partition is one of vedette.observations.
type Metrics struct {
	Sections     *prometheus.CounterVec // by result: applied, repeat, gap, malformed
	Observations prometheus.Counter     // in sections applied
	Engine       *prometheus.CounterVec // by what: duplicates, late, closed, folded, unknown_rule, forced, panics
	Findings     prometheus.Counter     // deltas committed
	Pages        prometheus.Counter     // profile pages committed
	Commits      *prometheus.CounterVec // by outcome: written, failed, fenced
	CommitTime   prometheus.Histogram
	RebuildTime  prometheus.Histogram
	Lost         prometheus.Counter // messages that the log no longer held
	Mismatches   prometheus.Counter // rebuilds that did not arrive at the checkpoint's state
	Rewinds      prometheus.Counter
	Restarts     prometheus.Counter
	Lag          *prometheus.GaugeVec // messages not read yet, by partition
	Clock        *prometheus.GaugeVec // A in seconds since the Unix epoch, by partition
	Live         *prometheus.GaugeVec // 1 once rebuilt, by partition
	Settled      *prometheus.GaugeVec // seconds since the Unix epoch up to which a log type is settled, by partition and type
	State        *StateMetrics

	Snapshots     *prometheus.CounterVec // by outcome: written, failed, too_large, used, refused
	SnapshotPause prometheus.Histogram   // in which nothing is applied
	SnapshotBytes *prometheus.GaugeVec   // of the last one written, by partition
}

// NewMetrics registers the metrics on r, which may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "vedette_correlate_" + name, Help: help})
	}
	counterBy := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vedette_correlate_" + name, Help: help}, []string{label})
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vedette_correlate_" + name, Help: help}, []string{"partition"})
	}
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vedette_correlate_" + name, Help: help, Buckets: buckets})
	}
	m := &Metrics{
		Sections:     counterBy("sections_total", "Sections read, by what became of them.", "result"),
		Observations: counter("observations_total", "Observations in sections that were applied."),
		Engine:       counterBy("engine_events_total", "Events that the engine met, and panics of rules, by what they are; what windows are rebuilt from is not counted again.", "what"),
		Findings:     counter("findings_total", "Findings and additions to findings committed."),
		Pages:        counter("pages_total", "Profile pages committed."),
		Commits:      counterBy("commits_total", "Checkpoints, by outcome.", "outcome"),
		CommitTime:   histogram("commit_duration_seconds", "Seconds to write a checkpoint.", .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5),
		RebuildTime:  histogram("rebuild_duration_seconds", "Seconds from taking a partition over to being live.", .01, .05, .1, .5, 1, 5, 10, 30, 60, 300),
		Lost:         counter("lost_messages_total", "Messages that vedette.observations no longer held when they were to be read."),
		Mismatches:   counter("rebuild_mismatches_total", "Rebuilds that did not arrive at the state of the checkpoint."),
		Rewinds:      counter("rewinds_total", "Times match was asked to write sections again."),
		Restarts:     counter("restarts_total", "Times a partition was taken over again after a failure."),
		Lag:          gauge("lag_messages", "Messages of vedette.observations not read yet."),
		Clock:        gauge("clock_timestamp_seconds", "A, the least append stamp that all sources have reached."),
		Live:         gauge("live", "1 if the partition has been rebuilt."),
		Settled: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "vedette_correlate_settled_timestamp_seconds",
			Help: "Event time before which no record of the log type is waited for any more: the watermark.",
		}, []string{"partition", "type"}),
		State: newStateMetrics(),

		Snapshots:     counterBy("snapshots_total", "Snapshots of windows, by what became of them.", "outcome"),
		SnapshotPause: histogram("snapshot_pause_seconds", "Seconds in which nothing was applied because a snapshot was gathered.", .001, .005, .01, .05, .1, .25, .5, 1, 5),
		SnapshotBytes: gauge("snapshot_bytes", "Bytes of the snapshot written last."),
	}
	if r != nil {
		r.MustRegister(m.Sections, m.Observations, m.Engine, m.Findings, m.Pages, m.Commits, m.CommitTime, m.RebuildTime,
			m.Lost, m.Mismatches, m.Rewinds, m.Restarts, m.Lag, m.Clock, m.Live,
			m.Settled, m.State, m.Snapshots, m.SnapshotPause, m.SnapshotBytes)
	}
	return m
}

// engine adds what the engine counted since before.
func (m *Metrics) engine(before, now Stats) {
	m.Observations.Add(float64(now.Observations - before.Observations))
	for what, n := range map[string]int64{
		"duplicates":   now.Duplicates - before.Duplicates,
		"late":         now.Late - before.Late,
		"closed":       now.Closed - before.Closed,
		"folded":       now.Folded - before.Folded,
		"unknown_rule": now.UnknownRule - before.UnknownRule,
		"forced":       now.Forced - before.Forced,
		"panics":       now.Panics - before.Panics,
	} {
		m.Engine.WithLabelValues(what).Add(float64(n))
	}
}

// at tells where a partition's engine stands and what it holds.
func (m *Metrics) at(partition int32, label string, e *Engine) {
	m.State.set(partition, e)
	if e.Clock() == never {
		return
	}
	m.Clock.WithLabelValues(label).Set(float64(e.Clock()) / 1e9)
	for _, t := range event.Types() {
		if s := e.Settled(t); s != never {
			m.Settled.WithLabelValues(label, string(t)).Set(float64(s) / 1e9)
		}
	}
}

// left takes back what was told of a partition: whoever has it next tells.
func (m *Metrics) left(partition int32, label string) {
	m.State.set(partition, nil)
	m.Live.WithLabelValues(label).Set(0)
	m.Lag.DeleteLabelValues(label)
	m.Clock.DeleteLabelValues(label)
	m.SnapshotBytes.DeleteLabelValues(label)
	m.Settled.DeletePartialMatch(prometheus.Labels{"partition": label})
}
