package storage

import (
	"bytes"
	"context"
	"fmt"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// at is a checkpoint.
type at struct {
	layout, partition int32
	number            int64
}

// mergeFindings inserts the deltas that are new and merges the others into their
// rows. deltas are sorted by the primary key, each finding once.
func (db *DB) mergeFindings(ctx context.Context, q *dbsqlc.Queries, cp at, deltas []detect.Finding) error {
	if len(deltas) == 0 {
		return nil
	}
	in := dbsqlc.InsertFindingsParams{Layout: cp.layout, Partition: cp.partition, Number: cp.number}
	for i := range deltas {
		f := &deltas[i]
		in.Tenants = append(in.Tenants, f.Tenant)
		in.Ids = append(in.Ids, f.ID[:])
		in.RuleVersions = append(in.RuleVersions, f.RuleVersion)
		in.Keys = append(in.Keys, nonNil(f.Key))
		in.Tiles = append(in.Tiles, f.Tile)
		in.Merges = append(in.Merges, int16(f.Merge))
		in.Counts = append(in.Counts, f.Count)
		in.Lates = append(in.Lates, f.Late)
		in.Peaks = append(in.Peaks, f.Peak)
		in.Firsts = append(in.Firsts, f.First)
		in.Lasts = append(in.Lasts, f.Last)
		in.Details = append(in.Details, f.Detail)
		in.Verdicts = append(in.Verdicts, f.Verdict)
		in.Evidence = append(in.Evidence, appendEvidence(nil, f.Evidence))
	}
	if err := q.InsertFindings(ctx, in); err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	rows, err := q.LockFindings(ctx, dbsqlc.LockFindingsParams{
		Layout: cp.layout, Partition: cp.partition, Number: cp.number, Tenants: in.Tenants, Ids: in.Ids,
	})
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	up := dbsqlc.UpdateFindingsParams{Layout: cp.layout, Partition: cp.partition, Number: cp.number}
	next := 0 // both are in the order of the primary key
	for _, row := range rows {
		f, err := findingOf(row)
		if err != nil {
			return err
		}
		for next < len(deltas) && comparePrimary(deltas[next], f) < 0 {
			next++
		}
		if next == len(deltas) || comparePrimary(deltas[next], f) != 0 {
			return fmt.Errorf("row of finding %s is out of order", f.ID)
		}
		f.Add(deltas[next], db.opts.EvidenceLimit)
		evidence := appendEvidence(nil, f.Evidence)
		if same(row, &f, evidence) {
			continue // nobody downstream needs to look
		}
		up.Tenants = append(up.Tenants, f.Tenant)
		up.Ids = append(up.Ids, f.ID[:])
		up.Counts = append(up.Counts, f.Count)
		up.Lates = append(up.Lates, f.Late)
		up.Peaks = append(up.Peaks, f.Peak)
		up.Firsts = append(up.Firsts, f.First)
		up.Lasts = append(up.Lasts, f.Last)
		up.Details = append(up.Details, f.Detail)
		up.Verdicts = append(up.Verdicts, f.Verdict)
		up.Evidence = append(up.Evidence, evidence)
	}
	unchanged := len(rows) - len(up.Ids)
	db.metrics.findings.WithLabelValues("unchanged").Add(float64(unchanged))
	db.metrics.findings.WithLabelValues("written").Add(float64(len(deltas) - unchanged))
	if len(up.Ids) == 0 {
		return nil
	}
	if err := q.UpdateFindings(ctx, up); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return nil
}

func findingOf(r dbsqlc.LockFindingsRow) (detect.Finding, error) {
	f := detect.Finding{
		Tenant: r.Tenant, RuleVersion: r.RuleVersion, Key: r.Key, Tile: r.Tile, Merge: detect.Merge(r.Merge),
		Count: r.Count, Late: r.Late, Peak: r.Peak, First: r.FirstTime, Last: r.LastTime, Detail: r.Detail, Verdict: r.Verdict,
	}
	copy(f.ID[:], r.ID)
	var err error
	if f.Evidence, err = DecodeEvidence(r.Evidence); err != nil {
		return f, fmt.Errorf("finding %s: %w", f.ID, err)
	}
	return f, nil
}

func same(r dbsqlc.LockFindingsRow, f *detect.Finding, evidence []byte) bool {
	return r.Count == f.Count && r.Late == f.Late && r.Peak == f.Peak && r.FirstTime == f.First && r.LastTime == f.Last &&
		r.Detail == f.Detail && r.Verdict == f.Verdict && bytes.Equal(r.Evidence, evidence)
}
