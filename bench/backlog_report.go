package bench

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// BacklogReport is how a service caught up with records that had queued, and how
// that compares with one that had them as they came.
type BacklogReport struct {
	Machine   Machine     `json:"machine"`
	Broker    string      `json:"broker"`
	Rules     int         `json:"rules"`
	Stateful  int         `json:"stateful_rules"`
	Events    int         `json:"events"`
	Live      Throughput  `json:"live"`    // the generator takes its share of the machine
	Backlog   Throughput  `json:"backlog"` // from the first record read to the last commit
	Ratio     float64     `json:"backlog_to_live"`
	LiveAfter float64     `json:"live_after_seconds"` // from the start of the service
	Lag       []LagSample `json:"lag"`
	Memory    BacklogHeap `json:"memory"`

	Findings    int      `json:"findings"`
	Incidents   int      `json:"incidents"`
	Differences []string `json:"differences,omitempty"` // the first of them
	Differ      int      `json:"differ"`
}

// LagSample is what the service's own metrics said at a time, and the end of the
// log as the broker told it.
type LagSample struct {
	Seconds   float64 `json:"seconds"`             // since the start of the service
	Records   int64   `json:"lag_records"`         // vedette_match_lag_records
	Messages  int64   `json:"lag_messages"`        // vedette_correlate_lag_messages
	EventTime float64 `json:"lag_seconds"`         // now − the least clock told: vedette_correlate_clock_timestamp_seconds, before it match's
	Read      int64   `json:"records_read"`        // vedette_match_records_total, ticks included
	End       int64   `json:"end_of_log_in_truth"` // of all partitions of vedette.logs together
}

// BacklogHeap is the memory of the process while it caught up, in bytes.
type BacklogHeap struct {
	PeakRSS  int64 `json:"peak_rss_bytes"`  // an embedded broker and all of its log included
	PeakHeap int64 `json:"peak_heap_bytes"` // likewise
}

// maxDifferences bounds those that are shown.
const maxDifferences = 10

func (r *BacklogReport) compare(live, late effects) {
	r.Findings, r.Incidents = len(live.findings), len(live.incidents)
	for _, x := range []struct {
		what string
		a, b map[string]struct{}
	}{
		{"finding of the live run only", live.findings, late.findings},
		{"finding of the backlog only", late.findings, live.findings},
		{"incident of the live run only", live.incidents, late.incidents},
		{"incident of the backlog only", late.incidents, live.incidents},
	} {
		for _, v := range slices.Sorted(maps.Keys(x.a)) {
			if _, ok := x.b[v]; ok {
				continue
			}
			r.Differ++
			if len(r.Differences) < maxDifferences {
				r.Differences = append(r.Differences, x.what+": "+v)
			}
		}
	}
}

// Err says whether the comparison held.
func (r *BacklogReport) Err() error {
	switch {
	case r.Findings == 0:
		return errors.New("bench: the live run found nothing: there was nothing to compare; append more records")
	case r.Differ > 0:
		return fmt.Errorf("bench: catching up found something else than the live run: %d differences, the first: %s", r.Differ, r.Differences[0])
	}
	return nil
}

// JSON writes the report as indented JSON.
func (r *BacklogReport) JSON(w io.Writer) error { return writeJSON(w, r) }

// Table writes the report for people.
func (r *BacklogReport) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "machine\t%d CPUs, %s, %s\n", r.Machine.CPUs, r.Machine.Platform, r.Machine.Go)
	fmt.Fprintf(t, "with\tKafka %s; %d rules, %d of them stateful\n", r.Broker, r.Rules, r.Stateful)
	fmt.Fprintf(t, "records\t%d of %.0f bytes, %.2f observations each\n\n", r.Events, r.Live.BytesPerEvent, r.Backlog.ObservationsPerEvent)
	for _, x := range []struct {
		what string
		t    Throughput
	}{{"live, as appended", r.Live}, {"backlog", r.Backlog}} {
		fmt.Fprintf(t, "%s\t%.0f events/s\t%.1f MB/s\t%.1f s\n", x.what, x.t.EventsPerSecond, x.t.MBPerSecond, x.t.Seconds)
	}
	fmt.Fprintf(t, "backlog to live\t%.2f\n", r.Ratio)
	fmt.Fprintf(t, "live after\t%.1f s\n\n", r.LiveAfter)
	const rows = 12
	fmt.Fprintf(t, "after\tlag in records\tin messages\tin seconds\tread\tend of the log\n")
	for i := range min(rows, len(r.Lag)) {
		s := r.Lag[i*(len(r.Lag)-1)/max(min(rows, len(r.Lag))-1, 1)]
		fmt.Fprintf(t, "  %.1f s\t%d\t%d\t%.0f\t%d\t%d\n", s.Seconds, s.Records, s.Messages, s.EventTime, s.Read, s.End)
	}
	fmt.Fprintf(t, "\npeak memory\t%.0f MiB of this process, heap %.0f MiB\n", mib(r.Memory.PeakRSS), mib(r.Memory.PeakHeap))
	fmt.Fprintf(t, "found\t%d findings in %d incidents\t%d differences\n", r.Findings, r.Incidents, r.Differ)
	for _, d := range r.Differences {
		fmt.Fprintf(t, "  %s\n", d)
	}
	return t.Flush()
}
