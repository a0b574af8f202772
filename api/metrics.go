package api

import "github.com/prometheus/client_golang/prometheus"

// metrics of the HTTP server. Labels are bounded: route is a pattern of the mux,
// code a status.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_http_requests_total", Help: "Requests answered, by route and status code.",
		}, []string{"route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "vedette_http_request_duration_seconds", Help: "Seconds that requests took, by route.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "vedette_http_requests_in_flight", Help: "Requests being handled.",
		}),
	}
	reg.MustRegister(m.requests, m.duration, m.inFlight)
	return m
}
