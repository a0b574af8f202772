package storage

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	commitSeconds prometheus.Histogram
	findings      *prometheus.CounterVec // by what became of the row
	retries       *prometheus.CounterVec
	unknown       *prometheus.CounterVec // by what was found out

	reg prometheus.Registerer
	all []prometheus.Collector
}

func newMetrics(reg prometheus.Registerer, pool *pgxpool.Pool) (*metrics, error) {
	m := &metrics{
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "vedette_storage_checkpoint_commit_seconds",
			Help:    "Seconds to commit a checkpoint of correlate.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		findings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_storage_finding_rows_total",
			Help: "Findings that checkpoints carried, by what became of the row: written (new or amended) or unchanged.",
		}, []string{"result"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_storage_retries_total",
			Help: "Calls that were repeated because Postgres was in the way, by operation.",
		}, []string{"op"}),
		unknown: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vedette_storage_unknown_commits_total",
			Help: "Checkpoints whose COMMIT got no answer, by what was found out: committed, not_committed, fenced or unknown.",
		}, []string{"outcome"}),
		reg: reg,
	}
	stat := func(name, help string, f func(*pgxpool.Stat) int32) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return float64(f(pool.Stat())) })
	}
	m.all = []prometheus.Collector{
		m.commitSeconds, m.findings, m.retries, m.unknown,
		stat("vedette_storage_pool_connections", "Connections to Postgres that are open.", (*pgxpool.Stat).TotalConns),
		stat("vedette_storage_pool_acquired_connections", "Connections to Postgres that are in use.", (*pgxpool.Stat).AcquiredConns),
	}
	if reg == nil {
		m.all = nil
	}
	var errs []error
	for _, c := range m.all {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register the metrics of storage: %w", err)
	}
	return m, nil
}

func (m *metrics) unregister() {
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
