package file

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the collectors' metrics; one serves all collectors of a process.
type Metrics struct {
	Records *prometheus.CounterVec // by origin and result: appended, dead_lettered
	Bytes   *prometheus.CounterVec // by origin
	Errors  *prometheus.CounterVec // by origin and operation: list, read, append, cursor
	Files   *prometheus.GaugeVec   // by origin
	Waiting *prometheus.GaugeVec   // by origin
	Through *prometheus.GaugeVec   // by origin and log type
}

// NewMetrics makes the metrics and registers them; a nil registerer registers none.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_file_records_total", Help: "Records of log files acknowledged by Kafka, by origin and result.",
		}, []string{"origin", "result"}),
		Bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_file_record_bytes_total", Help: "Bytes of the records appended, by origin.",
		}, []string{"origin"}),
		Errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_file_errors_total", Help: "Failed operations, by origin and operation.",
		}, []string{"origin", "operation"}),
		Files: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "vedette_file_watched_files", Help: "Log files there at the last look, by origin.",
		}, []string{"origin"}),
		Waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "vedette_file_waiting_files", Help: "Log files with something unread at the last look, by origin.",
		}, []string{"origin"}),
		Through: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "vedette_file_complete_through_timestamp_seconds", Help: "Up to which event time all records have been appended, by origin and log type.",
		}, []string{"origin", "type"}),
	}
	if reg != nil {
		reg.MustRegister(m.Records, m.Bytes, m.Errors, m.Files, m.Waiting, m.Through)
	}
	return m
}
