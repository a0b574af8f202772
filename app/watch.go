package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vedette-sec/vedette/doctor"
	"github.com/vedette-sec/vedette/stream"
)

const (
	watchEvery = 10 * time.Second
	// unreadAfter is how long a partition may hold records and not move on: longer
	// than it takes to notice that its owner is gone and to rebuild its windows.
	unreadAfter = 90 * time.Second
)

// watch makes partitions visible that nobody reads, or whose reader does not move on
// although there are records: by the saved positions, so that it does not matter
// which process should read them, or whether there is one.
func (a *App) watch(ctx context.Context, w *watchdog) error {
	for {
		if err := pause(ctx, watchEvery); err != nil {
			return nil
		}
		p, err := a.db.Progress(ctx)
		if err != nil {
			continue // Postgres being away is told by those who need it
		}
		for _, of := range []struct {
			role  Role
			topic string
			at    []doctor.Position
			n     int
		}{{Match, stream.TopicLogs, p.Sources, int(a.sources.Load())}, {Correlate, a.layout.Topic, p.Observations, a.layout.Partitions}} {
			next := make(map[int32]int64, len(of.at))
			for _, pos := range of.at {
				next[pos.Partition] = pos.Next
			}
			for n := range int32(of.n) {
				if _, end, err := a.kafka.Bounds(ctx, of.topic, n); err == nil {
					w.see(of.topic, n, next[n], end, time.Now())
				}
			}
			err := w.judge(of.topic, time.Now())
			if a.has(of.role) { // the others can do nothing about it
				a.parts.set(of.topic, err)
			}
		}
	}
}

// watchdog remembers since when partitions have stood where they stand.
type watchdog struct {
	logger *slog.Logger
	unread *prometheus.GaugeVec // by topic
	at     map[string]map[int32]standing
	told   map[string]string // what was last said of a topic
}

type standing struct {
	next, end int64
	since     time.Time
}

func newWatchdog(r prometheus.Registerer, logger *slog.Logger) *watchdog {
	w := &watchdog{
		logger: logger, at: make(map[string]map[int32]standing), told: make(map[string]string),
		unread: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "vedette_unread_partitions", Help: "Partitions that hold records and have not moved on for a while, whoever should read them: an alarm.",
		}, []string{"topic"}),
	}
	r.MustRegister(w.unread)
	return w
}

// see notes where a partition is read next and where it ends.
func (w *watchdog) see(topic string, partition int32, next, end int64, now time.Time) {
	if w.at[topic] == nil {
		w.at[topic] = make(map[int32]standing)
	}
	old, ok := w.at[topic][partition]
	if !ok || next != old.next || next >= end || old.next >= old.end {
		w.at[topic][partition] = standing{next, end, now}
		return
	}
	old.end = end
	w.at[topic][partition] = old
}

// judge says which partitions of a topic stand still, if any.
func (w *watchdog) judge(topic string, now time.Time) error {
	var unread []int32
	var says []string
	for p, s := range w.at[topic] {
		if s.next < s.end && now.Sub(s.since) >= unreadAfter {
			unread = append(unread, p)
		}
	}
	slices.Sort(unread)
	for _, p := range unread {
		s := w.at[topic][p]
		says = append(says, fmt.Sprintf("partition %d has stood at %d of %d for %v", p, s.next, s.end, now.Sub(s.since).Truncate(time.Second)))
	}
	w.unread.WithLabelValues(topic).Set(float64(len(unread)))
	if which := fmt.Sprint(unread); which != w.told[topic] {
		switch {
		case len(unread) > 0:
			w.logger.Error("partitions are not read", "topic", topic, "partitions", unread)
		case w.told[topic] != "":
			w.logger.Info("all partitions are read", "topic", topic)
		}
		w.told[topic] = which
	}
	if len(unread) == 0 {
		return nil
	}
	return errors.New("not read: " + strings.Join(says, ", "))
}
