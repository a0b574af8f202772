package incident

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	assembled prometheus.Counter
	incidents *prometheus.CounterVec
	failures  prometheus.Counter
	lag       prometheus.Gauge
	took      prometheus.Histogram
	evidence  *prometheus.CounterVec
	common    prometheus.Counter
	badKeys   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		assembled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vedette_assembler_findings_total",
			Help: "Changed findings assembled into incidents, amendments included.",
		}),
		incidents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_incident_changes_total",
			Help: "Changes of incidents by action.",
		}, []string{"action"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vedette_assembler_failures_total",
			Help: "Transactions of the assembler that failed and are tried again.",
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "vedette_assembler_lag_seconds",
			Help: "Age in seconds of the newest event of the latest finding assembled, when it was assembled.",
		}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "vedette_assembler_duration_seconds",
			Help: "Seconds to assemble a batch of changed findings in one transaction.", Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		evidence: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_evidence_records_total",
			Help: "Evidence records by what became of copying them.",
		}, []string{"state"}),
		common: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vedette_assembler_common_entities_total",
			Help: "Entities of findings that did not join because too many rules found something on them.",
		}),
		badKeys: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vedette_assembler_undecodable_keys_total",
			Help: "Findings whose group key could not be read, assembled without entities.",
		}),
	}
	for _, a := range []Action{
		ActionOpened, ActionAmended, ActionMerged, ActionAbsorbed, ActionSplit,
		ActionAcknowledged, ActionResolved, ActionReopened, ActionAssigned,
	} {
		m.incidents.WithLabelValues(string(a))
	}
	for _, s := range []EvidenceState{EvidenceCopied, EvidenceMismatch, EvidenceExpired} {
		m.evidence.WithLabelValues(string(s))
	}
	for _, c := range []prometheus.Collector{m.assembled, m.incidents, m.failures, m.lag, m.took, m.evidence, m.common, m.badKeys} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
