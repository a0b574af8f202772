package storage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

var _ correlate.Ledger = (*DB)(nil)

// CheckpointState is how far correlate has come on one partition of
// vedette.observations, as committed.
type CheckpointState struct {
	Partition int32
	Number    int64
	Mark      correlate.Mark
}

// CheckpointStates returns the state of each partition that was ever acquired, in
// the partitions' order.
func (db *DB) CheckpointStates(ctx context.Context) ([]CheckpointState, error) {
	var rows []dbsqlc.CheckpointStatesRow
	err := db.retry(ctx, "checkpoint_states", func() error {
		layout, err := db.layoutID(ctx, db.q)
		if err != nil {
			return err
		}
		rows, err = db.q.CheckpointStates(ctx, layout)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	states := make([]CheckpointState, len(rows))
	for i, r := range rows {
		states[i] = CheckpointState{r.Partition, r.Number, correlate.Mark{
			Position: r.Position, Clock: r.Clock, State: r.State, Last: detect.Tail{End: r.LastEnd, CRC: uint32(r.LastCrc)},
		}}
	}
	return states, nil
}

// Acquire implements [correlate.Ledger]. The layout must have been ensured.
func (db *DB) Acquire(ctx context.Context, partition int32) (correlate.Checkpoint, error) {
	var cp correlate.Checkpoint
	err := db.retry(ctx, "acquire", func() error {
		cp = correlate.Checkpoint{}
		// One transaction, so that marks and pages are those of the row: it stays
		// locked until they are read.
		return db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) error {
			layout, err := db.holdLayout(ctx, q)
			if err != nil {
				return err
			}
			return acquire(ctx, q, layout, partition, &cp)
		})
	})
	if err != nil {
		return correlate.Checkpoint{}, fmt.Errorf("acquire partition %d: %w", partition, err)
	}
	return cp, nil
}

func acquire(ctx context.Context, q *dbsqlc.Queries, layout, partition int32, cp *correlate.Checkpoint) error {
	r, err := q.AcquireCheckpoint(ctx, dbsqlc.AcquireCheckpointParams{Layout: layout, Partition: partition})
	if err != nil {
		return err
	}
	cp.Epoch, cp.Number = r.Epoch, r.Number
	cp.Mark = correlate.Mark{
		Position: r.Position, Clock: r.Clock, State: r.State, Last: detect.Tail{End: r.LastEnd, CRC: uint32(r.LastCrc)},
	}
	marks, err := q.Marks(ctx, dbsqlc.MarksParams{Layout: layout, Partition: partition})
	if err != nil {
		return err
	}
	for _, m := range marks {
		cp.Marks = append(cp.Marks, correlate.Mark{Position: m.Position, Clock: m.Clock, State: m.State})
	}
	pages, err := q.Pages(ctx, dbsqlc.PagesParams{Layout: layout, Partition: partition})
	if err != nil {
		return err
	}
	for _, p := range pages {
		cp.Pages = append(cp.Pages, correlate.Page{RuleVersion: p.RuleVersion, Number: uint32(p.Page), Data: p.Data})
	}
	return nil
}

// Commit implements [correlate.Ledger]. It rides out an outage: when it returns
// nil the checkpoint was written once, on any other error but an
// [*UnknownOutcomeError] it was not written.
func (db *DB) Commit(ctx context.Context, c correlate.Commit) error {
	began := time.Now()
	deltas := coalesce(c.Findings, db.opts.EvidenceLimit)
	err := db.retry(ctx, "commit", func() error {
		var number int64 // of this checkpoint, once the row is locked
		err := db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) (err error) {
			number, err = db.checkpoint(ctx, q, &c, deltas)
			return err
		})
		if unknown, ok := errors.AsType[*UnknownOutcomeError](err); ok {
			return db.findOut(ctx, &c, number, unknown)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("commit checkpoint of partition %d: %w", c.Partition, err)
	}
	db.metrics.commitSeconds.Observe(time.Since(began).Seconds())
	return nil
}

// findOut asks whether the checkpoint of the given number was written after all.
// The row's lock makes it wait until the transaction in question is over. The
// answer is nil, an error that Commit tries again on, or why there is none.
func (db *DB) findOut(ctx context.Context, c *correlate.Commit, number int64, unknown *UnknownOutcomeError) error {
	db.log.Warn("COMMIT got no answer; asking what became of it", "partition", c.Partition, "number", number, "err", unknown.Err)
	// The answer matters even to a caller who is on the way out.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.opts.Patience)
	defer cancel()
	var row dbsqlc.LockCheckpointRow
	err := db.retry(ctx, "find_out", func() error {
		return pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) (err error) {
			q := db.q.WithTx(tx)
			layout, err := db.layoutID(ctx, q)
			if err != nil {
				return err
			}
			row, err = q.LockCheckpoint(ctx, dbsqlc.LockCheckpointParams{Layout: layout, Partition: c.Partition})
			return err
		})
	})
	switch {
	case err != nil:
		db.metrics.unknown.WithLabelValues("unknown").Inc()
		// Not transient to those who ask: nothing may be tried again on it.
		return &UnknownOutcomeError{Err: fmt.Errorf("%s; asking: %s", unknown.Err, err)}
	case row.Epoch != c.Epoch:
		db.metrics.unknown.WithLabelValues("fenced").Inc()
		return correlate.ErrFenced
	case row.Number == number:
		db.metrics.unknown.WithLabelValues("committed").Inc()
		return nil
	default:
		db.metrics.unknown.WithLabelValues("not_committed").Inc()
		return unknown.Err
	}
}

// checkpoint writes one checkpoint and returns its number. The caller commits.
func (db *DB) checkpoint(ctx context.Context, q *dbsqlc.Queries, c *correlate.Commit, deltas []detect.Finding) (int64, error) {
	layout, err := db.layoutID(ctx, q)
	if err != nil {
		return 0, err
	}
	row, err := q.LockCheckpoint(ctx, dbsqlc.LockCheckpointParams{Layout: layout, Partition: c.Partition})
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, errors.New("the partition was never acquired")
	}
	if err != nil {
		return 0, err
	}
	if row.Epoch != c.Epoch {
		return 0, correlate.ErrFenced
	}
	number := row.Number + 1
	if err := db.mergeFindings(ctx, q, at{layout, c.Partition, number}, deltas); err != nil {
		return 0, fmt.Errorf("merge %d findings: %w", len(deltas), err)
	}
	if err := savePages(ctx, q, layout, c.Partition, c.Pages); err != nil {
		return 0, fmt.Errorf("save %d pages: %w", len(c.Pages), err)
	}
	if c.SaveMark {
		if err := q.SaveMark(ctx, dbsqlc.SaveMarkParams{
			Layout: layout, Partition: c.Partition,
			Position: c.Mark.Position, Clock: c.Mark.Clock, State: nonNil(c.Mark.State),
		}); err != nil {
			return 0, fmt.Errorf("save the mark: %w", err)
		}
	}
	if c.DropMarks > 0 {
		if err := q.DropMarks(ctx, dbsqlc.DropMarksParams{Layout: layout, Partition: c.Partition, Below: c.DropMarks}); err != nil {
			return 0, fmt.Errorf("drop old marks: %w", err)
		}
	}
	return number, q.SaveCheckpoint(ctx, dbsqlc.SaveCheckpointParams{
		Layout: layout, Partition: c.Partition, Number: number,
		Position: c.Mark.Position, Clock: c.Mark.Clock, State: nonNil(c.Mark.State),
		LastEnd: c.Mark.Last.End, LastCrc: int64(c.Mark.Last.CRC),
	})
}

// savePages writes the pages and deletes those that hold nothing any more.
func savePages(ctx context.Context, q *dbsqlc.Queries, layout, partition int32, pages []correlate.Page) error {
	p := dbsqlc.SavePagesParams{Layout: layout, Partition: partition}
	gone := dbsqlc.DeletePagesParams{Layout: layout, Partition: partition}
	for _, page := range pages {
		if len(page.Data) == 0 {
			gone.RuleVersions = append(gone.RuleVersions, page.RuleVersion)
			gone.Pages = append(gone.Pages, int64(page.Number))
			continue
		}
		p.RuleVersions = append(p.RuleVersions, page.RuleVersion)
		p.Pages = append(p.Pages, int64(page.Number))
		p.Data = append(p.Data, page.Data)
	}
	if len(gone.Pages) > 0 {
		if err := q.DeletePages(ctx, gone); err != nil {
			return err
		}
	}
	if len(p.Pages) == 0 {
		return nil
	}
	return q.SavePages(ctx, p)
}

// coalesce merges the deltas of the same finding and sorts by the primary key:
// the order in which every checkpoint takes its locks.
func coalesce(findings []detect.Finding, limit int) []detect.Finding {
	deltas := slices.Clone(findings)
	for i := range deltas {
		deltas[i].Evidence = slices.Clone(deltas[i].Evidence) // Add sorts in place
		deltas[i].Detail = text(deltas[i].Detail)
	}
	slices.SortStableFunc(deltas, comparePrimary)
	out := deltas[:0]
	for _, d := range deltas {
		if n := len(out); n > 0 && comparePrimary(out[n-1], d) == 0 {
			out[n-1].Add(d, limit)
			continue
		}
		normalize(&d, limit)
		out = append(out, d)
	}
	return out
}

// normalize brings a delta's evidence into the form that Add gives it, by adding
// to it what changes nothing else.
func normalize(f *detect.Finding, limit int) {
	neutral := *f
	neutral.Evidence = slices.Clone(f.Evidence)
	if f.Merge == detect.MergeAdd {
		neutral.Count, neutral.Late = 0, 0
	}
	f.Add(neutral, limit)
}

func comparePrimary(a, b detect.Finding) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), bytes.Compare(a.ID[:], b.ID[:]))
}
