package match

import "github.com/prometheus/client_golang/prometheus"

// Metrics is what owners count. Labels are bounded: source is a partition of
// vedette.logs, reason one of event's reasons.
type Metrics struct {
	Records      *prometheus.CounterVec // by kind: record, tick, progress, generation
	Decoded      prometheus.Counter
	DeadLetters  *prometheus.CounterVec // by reason
	Future       prometheus.Counter     // events whose time was capped
	Matches      prometheus.Counter     // events that a rule counts
	Observations prometheus.Counter
	Sections     prometheus.Counter
	Lost         prometheus.Counter     // records that the log no longer held
	Restarts     *prometheus.CounterVec // by cause: failure, rewind
	Overflow     prometheus.Counter     // progress of origins that there was no room for
	Lag          *prometheus.GaugeVec   // records not read yet, by source
	Clock        *prometheus.GaugeVec   // A(s) in seconds since the Unix epoch, by source
	Slowest      prometheus.Gauge       // the least of all sources, whoever has them
}

// NewMetrics registers the metrics on r, which may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "vedette_match_" + name, Help: help})
	}
	counterBy := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vedette_match_" + name, Help: help}, []string{label})
	}
	gaugeBy := func(name, help, label string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vedette_match_" + name, Help: help}, []string{label})
	}
	m := &Metrics{
		Records:      counterBy("records_total", "Messages read from vedette.logs, by kind.", "kind"),
		Decoded:      counter("decoded_records_total", "Records decoded."),
		DeadLetters:  counterBy("dead_letters_total", "Records that could not be decoded, by reason.", "reason"),
		Future:       counter("future_events_total", "Events whose time lay more than a minute after their append stamp and was capped."),
		Matches:      counter("matches_total", "Events that at least one rule counts."),
		Observations: counter("observations_total", "Observations made."),
		Sections:     counter("sections_total", "Sections written to vedette.observations."),
		Lost:         counter("lost_records_total", "Records that vedette.logs no longer held when they were to be read."),
		Restarts:     counterBy("restarts_total", "Times a source went back to an earlier position, by cause.", "cause"),
		Overflow:     counter("dropped_progress_records_total", "Progress records of origins beyond the number that is kept."),
		Lag:          gaugeBy("lag_records", "Records of vedette.logs not read yet.", "source"),
		Clock:        gaugeBy("clock_timestamp_seconds", "Greatest append stamp read.", "source"),
		Slowest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "vedette_match_slowest_clock_timestamp_seconds",
			Help: "Least append stamp that any source stands at, as saved, whoever reads it: that it stands still is an alarm.",
		}),
	}
	if r != nil {
		r.MustRegister(m.Records, m.Decoded, m.DeadLetters, m.Future, m.Matches, m.Observations, m.Sections,
			m.Lost, m.Restarts, m.Overflow, m.Lag, m.Clock, m.Slowest)
	}
	return m
}
