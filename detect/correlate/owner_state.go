package correlate

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// StateMetrics tells what rules hold in memory, on all partitions of the process
// together: as many series as there are rules that hold something.
type StateMetrics struct {
	keys, bytes *prometheus.Desc

	mu         sync.Mutex
	partitions map[int32][]RuleSize
}

func newStateMetrics() *StateMetrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"rule", "type"}, nil)
	}
	return &StateMetrics{
		keys:       desc("vedette_correlate_state_keys", "Keys that a rule, by its id, holds in memory; one in two generations of windows counts twice."),
		bytes:      desc("vedette_correlate_state_bytes", "Bytes of memory that a rule, by its id, holds, room to grow included."),
		partitions: make(map[int32][]RuleSize),
	}
}

// set notes what an engine holds now; nil: nothing.
func (m *StateMetrics) set(partition int32, e *Engine) {
	var sizes []RuleSize
	if e != nil {
		e.Sizes(func(s RuleSize) {
			if s.Size != (Size{}) {
				sizes = append(sizes, s)
			}
		})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(sizes) == 0 {
		delete(m.partitions, partition)
		return
	}
	m.partitions[partition] = sizes
}

// Describe implements [prometheus.Collector].
func (m *StateMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.keys
	ch <- m.bytes
}

// Collect implements [prometheus.Collector].
func (m *StateMetrics) Collect(ch chan<- prometheus.Metric) {
	type series struct{ id, typ string }
	sums := make(map[series]Size)
	m.mu.Lock()
	for _, sizes := range m.partitions {
		for _, s := range sizes {
			sum := sums[series{s.ID, s.Type}]
			sum.Keys += s.Keys
			sum.Bytes += s.Bytes
			sums[series{s.ID, s.Type}] = sum
		}
	}
	m.mu.Unlock()
	for by, sum := range sums {
		ch <- prometheus.MustNewConstMetric(m.keys, prometheus.GaugeValue, float64(sum.Keys), by.id, by.typ)
		ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.GaugeValue, float64(sum.Bytes), by.id, by.typ)
	}
}
