package push

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	records  *prometheus.CounterVec // by result: accepted, dead_lettered
	refused  *prometheus.CounterVec // by status code
	bytes    prometheus.Counter
	duration prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, room *room) *metrics {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_push_records_total", Help: "Records pushed and acknowledged by Kafka, by result.",
		}, []string{"result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_push_refused_requests_total", Help: "Pushes refused, by status code.",
		}, []string{"code"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vedette_push_received_bytes_total", Help: "Bytes of bodies read, as sent.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "vedette_push_duration_seconds", Help: "Seconds that a push took until Kafka had acknowledged it.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60},
		}),
	}
	reg.MustRegister(m.records, m.refused, m.bytes, m.duration, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "vedette_push_in_flight_bytes", Help: "Bytes that pushes hold in memory.",
	}, func() float64 { return float64(room.used()) }))
	return m
}
