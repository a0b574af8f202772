package app

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestWatchdog: an alarm is a partition with records that does not move on for a
// while; not one that is read to its end, is behind, or was silent until now.
func TestWatchdog(t *testing.T) {
	var log bytes.Buffer
	w := newWatchdog(prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i, step := range []struct {
		next, end [3]int64
		after     time.Duration
		unread    float64
		says      string
	}{
		{[3]int64{0, 5, 10}, [3]int64{9, 5, 90}, 0, 0, ""},
		{[3]int64{0, 5, 20}, [3]int64{9, 5, 90}, unreadAfter - time.Second, 0, ""},
		{[3]int64{0, 5, 30}, [3]int64{19, 9, 90}, time.Second, 1, "partition 0 has stood at 0 of 19 for 1m30s"}, // 1 has records only now
		{[3]int64{0, 5, 31}, [3]int64{19, 9, 90}, unreadAfter, 2, "partition 1 has stood at 5 of 9"},
		{[3]int64{1, 9, 32}, [3]int64{19, 9, 90}, time.Second, 0, ""},
	} {
		now = now.Add(step.after)
		for p := range int32(3) {
			w.see("logs", p, step.next[p], step.end[p], now)
		}
		err := w.judge("logs", now)
		if got := testutil.ToFloat64(w.unread.WithLabelValues("logs")); got != step.unread {
			t.Errorf("step %d: %v unread, want %v", i, got, step.unread)
		}
		if (err != nil) != (step.says != "") || err != nil && !strings.Contains(err.Error(), step.says) {
			t.Errorf("step %d: %v, want %q", i, err, step.says)
		}
	}
	if n := strings.Count(log.String(), "partitions are not read"); n != 2 || !strings.Contains(log.String(), "all partitions are read") {
		t.Errorf("logged:\n%s", &log)
	}
}
