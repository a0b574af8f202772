package doctor

import (
	"context"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/stream"
)

// How old the oldest record that has not been read may be.
const (
	behindWarn = time.Minute
	behindFail = 10 * time.Minute
)

func (d *doctor) matchLag(ctx context.Context) {
	var ps []Position
	if d.progress != nil {
		ps = d.progress.Sources
	}
	d.lag(ctx, "match", stream.TopicLogs, ps)
}

func (d *doctor) correlateLag(ctx context.Context) {
	var ps []Position
	if d.progress != nil {
		ps = d.progress.Observations
	}
	d.lag(ctx, "correlate", d.observations(), ps)
}

// lag compares the positions that a role has saved with where its topic ends.
func (d *doctor) lag(ctx context.Context, role, topic string, saved []Position) {
	name := role + " lag"
	t, ok := d.topics[topic]
	switch {
	case d.progress == nil:
		d.skip(name, "Postgres has no positions to read")
		return
	case !ok:
		d.skip(name, "%s cannot be read", topic)
		return
	}
	c := d.check(name)
	var records int64
	var oldest time.Duration
	for p := range int32(t.Partitions) {
		first, end, err := d.kafka.Bounds(ctx, topic, p)
		if err != nil {
			c.fail("look at the brokers' log", "partition %d: %v", p, err)
			return
		}
		next := first
		i := slices.IndexFunc(saved, func(s Position) bool { return s.Partition == p })
		if i >= 0 && saved[i].Known {
			next = saved[i].Next
			if next > end {
				c.fail("the topic was replaced or cut: restore it, or see `vedette repair --help`",
					"partition %d ends at %d, but was read up to %d", p, end, next)
				continue
			}
			if next < first {
				c.fail("lengthen the topic's retention; what is lost is lost: see `vedette repair --help`",
					"partition %d begins at %d, but was read up to %d only: %d records were removed unread", p, first, next, first-next)
				next = first
			}
		}
		if next == end {
			continue
		}
		r, some, err := d.kafka.RecordAt(ctx, topic, p, next)
		if err != nil {
			c.fail("look at the brokers' log", "partition %d: %v", p, err)
			return
		}
		if some {
			records += end - next
			oldest = max(oldest, d.o.Now().Sub(r.Time))
		}
	}
	// Positions are saved once a second or so: a little behind is up to date.
	run := "run `vedette run` with role " + role + "; if it runs, see its log, and give it time or CPU to catch up"
	switch {
	case oldest > behindFail:
		c.fail(run, "%d records behind, the oldest for %v", records, round(oldest))
	case oldest > behindWarn:
		c.warn(run, "%d records behind, the oldest for %v", records, round(oldest))
	case c.clean():
		c.ok("%d records behind, the oldest for %v", records, round(oldest))
	}
}
