package correlate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// fromSnapshot makes an engine with the windows of the newest snapshot that can be
// used, and says where it stands. nil: there is none that is nearer to the
// checkpoint than the mark at begin.
//
// A snapshot is taken only of a place that the ledger knows, as the checkpoint or as
// a mark, with the very state that the ledger has there: so it is of this
// deployment, layout, incarnation and log, and not of a place that no checkpoint
// has reached. What follows it is read again and has to arrive at the checkpoint,
// as from a mark.
func (s *session) fromSnapshot(ctx context.Context, cp Checkpoint, begin int64) (*Engine, *inForce, int64) {
	o := s.owner
	if o.o.Snapshots == nil {
		return nil, nil, 0
	}
	files, err := o.o.Snapshots.list()
	if err != nil {
		o.log.Warn("snapshots cannot be listed: windows are rebuilt from the log", "err", err)
		return nil, nil, 0
	}
	for _, f := range files {
		if f.partition != o.o.Partition || f.position <= begin {
			continue
		}
		e, in, err := s.loadSnapshot(ctx, cp, f)
		if err == nil {
			o.o.Metrics.Snapshots.WithLabelValues("used").Inc()
			return e, in, f.position
		}
		if ctx.Err() != nil {
			return nil, nil, 0
		}
		o.o.Metrics.Snapshots.WithLabelValues("refused").Inc()
		o.log.Warn("a snapshot cannot be used: windows are rebuilt from an earlier place", "file", f.path, "err", err)
	}
	return nil, nil, 0
}

func (s *session) loadSnapshot(ctx context.Context, cp Checkpoint, file snapshotFile) (_ *Engine, _ *inForce, err error) {
	f, err := openSnapshot(file.path)
	if err != nil {
		return nil, nil, err
	}
	defer f.f.Close()
	if f.topic != s.owner.o.Snapshots.topic || f.partition != file.partition || f.position != file.position {
		return nil, nil, fmt.Errorf("%w: it is of another place: %s/%d at %d", ErrSnapshot, f.topic, f.partition, f.position)
	}
	known := false
	for _, m := range slices.Concat(cp.Marks, []Mark{cp.Mark}) {
		known = known || m.Position == f.position && bytes.Equal(m.State, f.state)
	}
	if !known {
		return nil, nil, fmt.Errorf("%w: the ledger knows no such state at %d", ErrSnapshot, f.position)
	}
	e, in, err := s.engineAt(ctx, f.state)
	if err != nil {
		return nil, nil, err
	}
	if err := e.Restore(cp.Pages); err != nil {
		return nil, nil, err
	}
	return e, in, e.Load(f.r)
}

// snapshotDue tells whether the next checkpoint is one to write a snapshot behind.
func (s *session) snapshotDue() bool {
	return s.owner.o.Snapshots != nil && !s.writing.Load() && time.Since(s.snapped) >= s.owner.o.SnapshotEvery
}

// snapshot gathers a snapshot behind a checkpoint that saved m as a mark, and has it
// written beside the work.
func (s *session) snapshot(m Mark) {
	o := s.owner
	s.snapped = time.Now()
	data, err := o.o.Snapshots.encode(o.o.Partition, m, s.engine)
	if err != nil {
		o.tellSnapshot(err)
		return
	}
	o.o.Metrics.SnapshotPause.Observe(time.Since(s.snapped).Seconds())
	s.writing.Store(true)
	s.spawn(func() error {
		defer s.writing.Store(false)
		err := o.o.Snapshots.write(o.o.Partition, m.Position, data)
		if err == nil {
			o.o.Metrics.SnapshotBytes.WithLabelValues(o.label).Set(float64(data.n))
		}
		o.tellSnapshot(err)
		return nil // it is a cache
	})
}

func (o *Owner) tellSnapshot(err error) {
	switch {
	case err == nil:
		o.o.Metrics.Snapshots.WithLabelValues("written").Inc()
	case errors.Is(err, errTooLarge):
		o.o.Metrics.Snapshots.WithLabelValues("too_large").Inc()
		o.log.Warn("the windows are too large for a snapshot: whoever takes over rebuilds them from the log", "limit_bytes", o.o.Snapshots.maxBytes)
	default:
		o.o.Metrics.Snapshots.WithLabelValues("failed").Inc()
		o.log.Warn("no snapshot was written: whoever takes over rebuilds windows from an older place", "err", err)
	}
}

// leave writes a last checkpoint and a snapshot behind it, if the owner ends in
// order: whoever takes over has nothing to read again. That it cannot is no error:
// another owner may have taken over already.
func (s *session) leave(ctx context.Context) {
	o := s.owner
	if o.o.Snapshots == nil || !o.o.SnapshotAtStop || s.writing.Load() || s.engine.Clock() == never {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.o.LeaveWithin)
	defer cancel()
	s.snapped = time.Time{}
	if err := s.commit(ctx); err != nil && !errors.Is(err, ErrFenced) {
		o.log.Warn("the last checkpoint could not be written", "err", err)
	}
}
