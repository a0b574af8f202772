package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

var (
	_ incident.Ledger         = (*DB)(nil)
	_ incident.EvidenceLedger = (*DB)(nil)
)

// AcquireAssembler implements [incident.Ledger].
func (db *DB) AcquireAssembler(ctx context.Context, shard int32) (int64, error) {
	var epoch int64
	// Repeating it after an unknown outcome raises the epoch once more, no harm.
	err := db.retry(ctx, "acquire_assembler", func() (err error) {
		epoch, err = db.q.AcquireAssembler(ctx, shard)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("raise the epoch: %w", err)
	}
	return epoch, nil
}

// Assemble implements [incident.Ledger].
func (db *DB) Assemble(ctx context.Context, shard int32, epoch int64, f func(incident.Tx) error) error {
	return db.inTx(ctx, func(tx pgx.Tx, q *dbsqlc.Queries) error {
		if err := lockShard(ctx, q, shard, epoch); err != nil {
			return err
		}
		return f(&incidentTx{q: q, shard: shard})
	})
}

func lockShard(ctx context.Context, q *dbsqlc.Queries, shard int32, epoch int64) error {
	held, err := q.LockAssembler(ctx, shard)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("the tenant shard was never acquired")
	case err != nil:
		return fmt.Errorf("lock tenant shard %d: %w", shard, err)
	case held != epoch:
		return incident.ErrFenced
	}
	return nil
}

// Act implements [incident.Ledger].
func (db *DB) Act(ctx context.Context, f func(incident.Tx) error) (err error) {
	ctx, s := span(ctx, "act")
	defer func() { end(s, err) }()
	return db.inTx(ctx, func(tx pgx.Tx, q *dbsqlc.Queries) error { return f(&incidentTx{q: q}) })
}

// MissingEvidence implements [incident.EvidenceLedger].
func (db *DB) MissingEvidence(ctx context.Context, shard int32, limit int) (incident.EvidenceBatch, error) {
	var b incident.EvidenceBatch
	share, err := shareOf(ctx, db.q, limit)
	if err != nil {
		return b, err
	}
	rows, err := db.q.ChangedEvidence(ctx, dbsqlc.ChangedEvidenceParams{TenantShard: shard, MaxRows: share})
	if err != nil {
		return b, fmt.Errorf("read changed findings: %w", err)
	}
	var held dbsqlc.EvidenceHeldParams
	cursors := map[[2]int32]int64{}
	for _, r := range rows {
		held.Tenants, held.FindingIds = append(held.Tenants, r.Tenant), append(held.FindingIds, r.ID)
		at := [2]int32{r.Layout, r.Partition}
		cursors[at] = max(cursors[at], r.Number)
	}
	for at, number := range cursors {
		b.Cursors = append(b.Cursors, incident.Cursor{Layout: at[0], Partition: at[1], Number: number})
	}
	if b.Moved = len(rows) > 0; !b.Moved {
		return b, nil
	}
	there, err := db.evidenceHeld(ctx, db.q, held)
	if err != nil {
		return b, err
	}
	for _, r := range rows {
		evidence, err := DecodeEvidence(r.Evidence)
		if err != nil {
			// It will not get better by being read again: the finding goes without.
			db.log.Error("evidence of a finding cannot be read", "finding", fmt.Sprintf("%x", r.ID), "err", err)
			continue
		}
		for _, e := range evidence {
			rec := incident.EvidenceRecord{Tenant: r.Tenant, Finding: findingID(r.ID), Pointer: e.Pointer, Time: e.Time}
			if !there[placeOf(rec)] {
				b.Missing = append(b.Missing, rec)
			}
		}
	}
	return b, nil
}

// shareOf is how many rows of each partition make about limit together.
func shareOf(ctx context.Context, q *dbsqlc.Queries, limit int) (int64, error) {
	partitions, err := q.CountCheckpoints(ctx)
	if err != nil {
		return 0, fmt.Errorf("count partitions: %w", err)
	}
	return 1 + int64(limit)/max(partitions, 1), nil
}

// place is the key of a copied record.
type place struct {
	tenant  string
	finding detect.FindingID
	source  detect.Source
	offset  int64
}

func placeOf(r incident.EvidenceRecord) place {
	return place{r.Tenant, r.Finding, r.Source, r.Offset}
}

func (db *DB) evidenceHeld(ctx context.Context, q *dbsqlc.Queries, of dbsqlc.EvidenceHeldParams) (map[place]bool, error) {
	rows, err := q.EvidenceHeld(ctx, of)
	if err != nil {
		return nil, fmt.Errorf("read which evidence is copied: %w", err)
	}
	there := make(map[place]bool, len(rows))
	for _, r := range rows {
		there[place{
			r.Tenant, findingID(r.FindingID),
			detect.Source{Incarnation: uint32(r.Incarnation), Partition: r.Partition},
			r.RecordOffset,
		}] = true
	}
	return there, nil
}

// SaveEvidence implements [incident.EvidenceLedger].
func (db *DB) SaveEvidence(ctx context.Context, shard int32, epoch int64, recs []incident.EvidenceRecord, cursors []incident.Cursor) error {
	return db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) error {
		if err := lockShard(ctx, q, shard, epoch); err != nil {
			return err
		}
		add := make([]dbsqlc.AddEvidenceParams, len(recs))
		for i, r := range recs {
			add[i] = dbsqlc.AddEvidenceParams{
				Tenant: r.Tenant, FindingID: r.Finding[:], Incarnation: int32(r.Source.Incarnation), Partition: r.Source.Partition,
				RecordOffset: r.Offset, EventTime: r.Time, State: string(r.State), LogType: text(r.Type), EventUid: text(r.UID), Raw: nonNil(r.Raw),
			}
		}
		if err := firstError(q.AddEvidence(ctx, add).Exec); err != nil {
			return fmt.Errorf("insert records: %w", err)
		}
		if err := db.dropEvidence(ctx, q, recs); err != nil {
			return err
		}
		for _, c := range cursors {
			if err := q.SaveEvidenceCursor(ctx, dbsqlc.SaveEvidenceCursorParams{
				TenantShard: shard, Layout: c.Layout, Partition: c.Partition, Number: c.Number,
			}); err != nil {
				return fmt.Errorf("move the evidence cursor: %w", err)
			}
		}
		return nil
	})
}

// dropEvidence deletes what is no longer among the evidence of the findings that
// got new records: earlier ones have taken its place.
func (db *DB) dropEvidence(ctx context.Context, q *dbsqlc.Queries, recs []incident.EvidenceRecord) error {
	var of dbsqlc.EvidenceHeldParams
	seen := map[string]bool{}
	for _, r := range recs {
		if k := r.Tenant + string(r.Finding[:]); !seen[k] {
			seen[k] = true
			of.Tenants, of.FindingIds = append(of.Tenants, r.Tenant), append(of.FindingIds, r.Finding[:])
		}
	}
	if len(of.Tenants) == 0 {
		return nil
	}
	there, err := db.evidenceHeld(ctx, q, of)
	if err != nil {
		return err
	}
	rows, err := q.FindingEvidence(ctx, dbsqlc.FindingEvidenceParams(of))
	if err != nil {
		return fmt.Errorf("read evidence of findings: %w", err)
	}
	for _, r := range rows {
		evidence, err := DecodeEvidence(r.Evidence)
		if err != nil {
			return err
		}
		for _, e := range evidence {
			delete(there, place{r.Tenant, findingID(r.ID), e.Source, e.Offset})
		}
	}
	drop := make([]dbsqlc.DropEvidenceParams, 0, len(there))
	for p := range there {
		drop = append(drop, dbsqlc.DropEvidenceParams{
			Tenant: p.tenant, FindingID: p.finding[:], Incarnation: int32(p.source.Incarnation), Partition: p.source.Partition, RecordOffset: p.offset,
		})
	}
	if err := firstError(q.DropEvidence(ctx, drop).Exec); err != nil {
		return fmt.Errorf("drop records: %w", err)
	}
	return nil
}

// firstError runs a batch and returns the first error of its statements.
func firstError(exec func(func(int, error))) error {
	var first error
	exec(func(_ int, err error) {
		if err != nil && first == nil {
			first = err
		}
	})
	return first
}

func findingID(b []byte) detect.FindingID {
	var id detect.FindingID
	copy(id[:], b)
	return id
}

// uuidOf makes a column's value of an incident's id; of none, NULL.
func uuidOf(id incident.ID) pgtype.UUID {
	return pgtype.UUID{Bytes: id, Valid: !id.IsZero()}
}

func uuidsOf(ids []incident.ID) []pgtype.UUID {
	us := make([]pgtype.UUID, len(ids))
	for i, id := range ids {
		us[i] = uuidOf(id)
	}
	return us
}

func incidentID(u pgtype.UUID) incident.ID {
	if !u.Valid {
		return incident.ID{}
	}
	return u.Bytes
}

// timeOf makes a column's value of a time; of none, NULL.
func timeOf(t time.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: t, Valid: !t.IsZero()}
}

func timeFrom(t pgtype.Timestamptz) time.Time {
	if !t.Valid {
		return time.Time{}
	}
	return t.Time.UTC()
}

func detailOf(d map[string]string) ([]byte, error) {
	if d == nil {
		return []byte("{}"), nil
	}
	clean := make(map[string]string, len(d))
	for k, v := range d {
		clean[text(k)] = text(v)
	}
	return json.Marshal(clean)
}
