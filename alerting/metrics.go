package alerting

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	queued    prometheus.Counter
	delivered *prometheus.CounterVec
	failed    *prometheus.CounterVec
	givenUp   *prometheus.CounterVec
	oldest    *prometheus.GaugeVec
	lost      prometheus.Counter
}

func newMetrics(r prometheus.Registerer, receivers []string) (*metrics, error) {
	m := &metrics{
		queued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vedette_notifications_queued_total",
			Help: "Notification intents turned into jobs.",
		}),
		delivered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_notifications_delivered_total",
			Help: "Notifications that their receiver accepted.",
		}, []string{"receiver"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_notifications_failed_total",
			Help: "Attempts to deliver a notification that failed, by reason.",
		}, []string{"receiver", "reason"}),
		givenUp: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_notifications_given_up_total",
			Help: "Notifications given up: refused for good, or failing for too long.",
		}, []string{"receiver"}),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "vedette_notifications_oldest_undelivered_seconds",
			Help: "Age in seconds of the oldest notification that is wanted and not delivered.",
		}, []string{"receiver"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vedette_notifications_requeued_total",
			Help: "Notifications queued again because their job was lost.",
		}),
	}
	for _, name := range receivers {
		m.delivered.WithLabelValues(name)
		m.givenUp.WithLabelValues(name)
		m.oldest.WithLabelValues(name)
		for _, reason := range Reasons() {
			m.failed.WithLabelValues(name, string(reason))
		}
	}
	for _, c := range []prometheus.Collector{m.queued, m.delivered, m.failed, m.givenUp, m.oldest, m.lost} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
