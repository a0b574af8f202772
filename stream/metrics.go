package stream

import "github.com/prometheus/client_golang/prometheus"

// Metrics is what producers count.
type Metrics struct {
	Records *prometheus.CounterVec   // records acknowledged, by topic
	Bytes   *prometheus.CounterVec   // bytes sent and acknowledged, compressed, by topic
	Errors  *prometheus.CounterVec   // batches that failed, by topic and outcome (rejected, unknown)
	Seconds *prometheus.HistogramVec // from sending a batch to its acknowledgement, by topic
	Ticks   prometheus.Counter       // ticks written to silent partitions
}

// NewMetrics registers the metrics on r, which may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_produced_records_total", Help: "Records that Kafka acknowledged.",
		}, []string{"topic"}),
		Bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_produced_bytes_total", Help: "Bytes that Kafka acknowledged, as compressed.",
		}, []string{"topic"}),
		Errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_produce_errors_total", Help: "Batches that Kafka did not acknowledge, by what is known of them.",
		}, []string{"topic", "outcome"}),
		Seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "vedette_produce_duration_seconds", Help: "Seconds from sending a batch to its acknowledgement.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"topic"}),
		Ticks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vedette_ticks_total", Help: "Ticks written to partitions of vedette.logs that were silent.",
		}),
	}
	if r != nil {
		r.MustRegister(m.Records, m.Bytes, m.Errors, m.Seconds, m.Ticks)
	}
	return m
}

// GroupMetrics is what members of groups count; the label is the group's id.
type GroupMetrics struct {
	Partitions  *prometheus.GaugeVec   // assigned to this process
	Generations *prometheus.CounterVec // times that the group changed
}

// NewGroupMetrics registers the metrics on r, which may be nil.
func NewGroupMetrics(r prometheus.Registerer) *GroupMetrics {
	m := &GroupMetrics{
		Partitions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "vedette_group_partitions", Help: "Partitions that the consumer group assigns to this process.",
		}, []string{"group"}),
		Generations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_group_generations_total", Help: "Generations of the consumer group that this process has taken part in.",
		}, []string{"group"}),
	}
	if r != nil {
		r.MustRegister(m.Partitions, m.Generations)
	}
	return m
}
