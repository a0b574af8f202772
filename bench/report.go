package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Report is what a run measured. Ratios between two reports of one machine are
// worth more than any figure in them.
type Report struct {
	Machine     Machine    `json:"machine"`
	Broker      string     `json:"broker"`
	Postgres    string     `json:"postgres"`
	Rules       int        `json:"rules"`          // all, detections included
	Stateful    int        `json:"stateful_rules"` // that keep state and may fire
	Throughput  Throughput `json:"throughput"`
	Latency     Latencies  `json:"latency"`
	Stages      []Stage    `json:"stages"`
	Memory      Memory     `json:"memory"`
	PostgresCPU float64    `json:"postgres_cpu_seconds,omitempty"` // of a managed one, over the whole run
}

// Machine is the shape of the machine.
type Machine struct {
	CPUs     int    `json:"cpus"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Throughput is how fast records were taken, from the first append to the last
// commit of correlate. CPU is this process's, the generator and an embedded broker
// included, Postgres not.
type Throughput struct {
	Events               int     `json:"events"`
	Seconds              float64 `json:"seconds"`
	EventsPerSecond      float64 `json:"events_per_second"`
	MBPerSecond          float64 `json:"mb_per_second"`
	BytesPerEvent        float64 `json:"bytes_per_event"`
	ObservationsPerEvent float64 `json:"observations_per_event"`
	CPUPerMillion        float64 `json:"cpu_seconds_per_million_events"`
}

// Latencies is how long probes took at a steady pace.
type Latencies struct {
	Rate     float64 `json:"rate_events_per_second"` // asked for
	Reached  float64 `json:"reached_events_per_second"`
	Seconds  float64 `json:"seconds"`
	Probes   int     `json:"probes"`
	Incident Latency `json:"append_to_incident"`
	Alert    Latency `json:"append_to_alert"`
}

// Latency is in milliseconds.
type Latency struct {
	Arrived int     `json:"arrived"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	P999    float64 `json:"p99_9_ms"`
	Max     float64 `json:"max_ms"`
}

// Stage is one stage by itself: in CPU time on one goroutine, or for what waits
// for Postgres in time a call.
type Stage struct {
	Name            string  `json:"name"`
	Events          int64   `json:"events,omitempty"`
	EventsPerSecond float64 `json:"events_per_cpu_second,omitempty"`
	NsPerEvent      float64 `json:"ns_per_event,omitempty"`
	BytesPerEvent   float64 `json:"bytes_per_event,omitempty"`
	CPUPerMillion   float64 `json:"cpu_seconds_per_million_events,omitempty"`
	PerEvent        float64 `json:"observations_per_event,omitempty"`
	Count           int64   `json:"transactions,omitempty"`
	Rows            int64   `json:"findings,omitempty"`
	MsPerCall       float64 `json:"ms_per_transaction,omitempty"`
}

// Memory is of the process, in bytes; 0: the system does not tell.
type Memory struct {
	PeakRSS int64 `json:"peak_rss_bytes"` // while records went through, an embedded broker and its log included
}

// JSON writes the report as indented JSON.
func (r *Report) JSON(w io.Writer) error { return writeJSON(w, r) }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	t0, l := r.Throughput, r.Latency
	fmt.Fprintf(t, "machine\t%d CPUs, %s, %s\n", r.Machine.CPUs, r.Machine.Platform, r.Machine.Go)
	fmt.Fprintf(t, "with\tKafka %s; Postgres %s; %d rules, %d of them stateful\n", r.Broker, r.Postgres, r.Rules, r.Stateful)
	fmt.Fprintf(t, "records\t%d of %.0f bytes, %.2f observations each\n\n", t0.Events, t0.BytesPerEvent, t0.ObservationsPerEvent)
	fmt.Fprintf(t, "whole path\t%.0f events/s\t%.1f MB/s\t%.1f CPU s per million events\n", t0.EventsPerSecond, t0.MBPerSecond, t0.CPUPerMillion)
	for _, s := range r.Stages {
		if s.Count > 0 {
			fmt.Fprintf(t, "  %s\t%d transactions\t%d findings\t%.1f ms each\n", s.Name, s.Count, s.Rows, s.MsPerCall)
			continue
		}
		if s.Events > 0 {
			fmt.Fprintf(t, "  %s\t%.0f events/s a core\t%.0f ns/event\t%.2f CPU s per million events\n", s.Name, s.EventsPerSecond, s.NsPerEvent, s.CPUPerMillion)
		}
	}
	fmt.Fprintf(t, "\nat %.0f events/s\t%.0f reached\t%d probes in %.0f s\n", l.Rate, l.Reached, l.Probes, l.Seconds)
	for _, x := range []struct {
		what string
		l    Latency
	}{{"append to incident", l.Incident}, {"append to alert", l.Alert}} {
		fmt.Fprintf(t, "  %s\tp50 %.0f ms\tp99 %.0f ms\tp99.9 %.0f ms\tmax %.0f ms\t%d arrived\n", x.what, x.l.P50, x.l.P99, x.l.P999, x.l.Max, x.l.Arrived)
	}
	fmt.Fprintf(t, "\npeak memory\t%.0f MiB of this process\n", float64(r.Memory.PeakRSS)/(1<<20))
	if r.PostgresCPU > 0 {
		fmt.Fprintf(t, "Postgres\t%.1f CPU s over the whole run\n", r.PostgresCPU)
	}
	return t.Flush()
}
