package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// stageEvents is how many records the stages are measured with.
const stageEvents = 60_000

// sectionEvents is how many records go into a section, about as many as the
// service reads at a time.
const sectionEvents = 1000

// lap measures the CPU time of what runs between two calls.
type lap struct{ at time.Duration }

func (l *lap) take() time.Duration {
	now := processCPU()
	d := now - l.at
	l.at = now
	return d
}

// collector is match's sink: it builds one section for all partitions.
type collector struct{ b detect.SectionBuilder }

func (c *collector) Observe(r *rule.Rule, tenant string, key []byte, o detect.Observation) {
	c.b.Add(tenant, r.Version, key, o)
}

// measureStages runs what can be run without Kafka and Postgres, each by itself
// on this goroutine, and gives the CPU time that it takes.
func measureStages(ctx context.Context, set *rule.Set, o *Options) ([]Stage, error) {
	n := min(o.Events, stageEvents)
	t := NewTraffic(1, time.Now)
	matcher := match.New(set)
	engine := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 10})
	if err := engine.AddRules(set); err != nil {
		return nil, err
	}
	decoder := event.NewDecoder()
	var ev event.Event
	var sink collector
	source := detect.Source{Incarnation: 1}
	var decoding, matching, encoding, correlating lap
	var decode, observe, encode, apply time.Duration
	var bytes, observations, coded int64
	for from := 0; from < n; from += sectionEvents {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		o.Progress(Progress{Stage: "stages", Done: from, Of: n})
		batch := make([]stream.LogMessage, sectionEvents)
		for i := range batch {
			batch[i] = t.Next()
			bytes += int64(len(batch[i].Value))
		}
		decoding.take()
		for i := range batch {
			if err := decoder.Decode(&ev, event.Record{Type: event.Type(batch[i].Type), Data: batch[i].Value}); err != nil {
				return nil, fmt.Errorf("decode a record that was made up: %w", err)
			}
		}
		decode += decoding.take()

		matching.take()
		now := time.Now().UnixNano()
		sink.b.Reset()
		for i := range batch {
			if err := decoder.Decode(&ev, event.Record{Type: event.Type(batch[i].Type), Data: batch[i].Value}); err != nil {
				return nil, fmt.Errorf("decode a record that was made up: %w", err)
			}
			matcher.Observe(&ev, "default", detect.Pointer{Source: source, Offset: int64(from + i)}, now, &sink)
		}
		observe += matching.take()

		encoding.take()
		observations += int64(sink.b.Len())
		b := detect.AppendBatch(nil, []detect.Section{{
			Source: source, From: int64(from), To: int64(from + sectionEvents), Generation: "bench", Clock: now, Groups: sink.b.Groups(),
		}})
		encode += encoding.take()
		coded += int64(len(b))

		correlating.take()
		secs, err := detect.DecodeBatch(b)
		if err != nil {
			return nil, err
		}
		if r := engine.Apply(&secs[0], false); r != correlate.Applied {
			return nil, fmt.Errorf("section: %v", r)
		}
		if from/sectionEvents%20 == 19 {
			engine.Flush()
		}
		apply += correlating.take()
	}
	if observations == 0 {
		return nil, errors.New("no rule counts anything of the records that are made up")
	}
	n = (n + sectionEvents - 1) / sectionEvents * sectionEvents
	stage := func(name string, cpu time.Duration, bytes int64) Stage {
		return Stage{
			Name: name, Events: int64(n), NsPerEvent: float64(cpu) / float64(n), CPUPerMillion: cpu.Seconds() / float64(n) * 1e6,
			EventsPerSecond: float64(n) / max(cpu.Seconds(), 1e-9), BytesPerEvent: float64(bytes) / float64(n),
		}
	}
	correlated := stage("correlate", apply, coded)
	correlated.PerEvent = float64(observations) / float64(n)
	return []Stage{
		stage("decode", decode, bytes), stage("decode+match", observe, bytes), stage("encode observations", encode, coded), correlated,
	}, nil
}
