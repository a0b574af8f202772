package pgtest

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/storage"
)

// Findings reads all findings, as committed, in the order of tenant and id.
func Findings(ctx context.Context, db *storage.DB) ([]detect.Finding, error) {
	rows, err := db.Pool().Query(ctx, `
		SELECT tenant, id, rule_version, key, tile, merge, count, late, peak, first_time, last_time, detail, verdict, evidence
		FROM finding ORDER BY tenant, id`)
	if err != nil {
		return nil, fmt.Errorf("read findings: %w", err)
	}
	fs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f detect.Finding, err error) {
		var id, evidence []byte
		err = row.Scan(&f.Tenant, &id, &f.RuleVersion, &f.Key, &f.Tile, &f.Merge, &f.Count, &f.Late, &f.Peak, &f.First, &f.Last, &f.Detail, &f.Verdict, &evidence)
		if err != nil {
			return f, err
		}
		if copy(f.ID[:], id) != len(f.ID) || len(id) != len(f.ID) {
			return f, fmt.Errorf("id of %d bytes", len(id))
		}
		f.Evidence, err = storage.DecodeEvidence(evidence)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("read findings: %w", err)
	}
	return fs, nil
}
