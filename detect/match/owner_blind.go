package match

import (
	"math"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/stream"
)

// blind makes an observation of records that the log no longer held when they were
// to be read, so that somebody is told. It counts as made of the last of them; its
// time is when the record before them was appended.
func (w *worker) blind(from, to int64) {
	if w.state.clock == math.MinInt64 {
		return // nothing was ever read: nobody knows when
	}
	r := rule.VisibilityLost()
	key := detect.AppendKey(nil, []byte(rule.LostRange(stream.TopicLogs, w.s.id, from, to)))
	w.value, w.summed, w.hits = nil, true, 0
	w.sum = 0
	w.Observe(r, detect.DefaultTenant, key, detect.Observation{
		Pointer: detect.Pointer{Source: w.s.id, Offset: to - 1},
		Time:    w.state.clock, Stamp: w.state.clock, IDHash: detect.KeyHash(r.Version, key),
	})
	w.counted.observations += w.hits
}
