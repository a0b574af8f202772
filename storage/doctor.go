package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/vedette-sec/vedette/doctor"
	"github.com/vedette-sec/vedette/migrations"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

var _ doctor.Ledger = (*DB)(nil)

// ServerState implements [doctor.Ledger].
func (db *DB) ServerState(ctx context.Context) (doctor.ServerState, error) {
	var s doctor.ServerState
	// reserved_connections came with version 16. A limit of −1 is none.
	err := db.pool.QueryRow(ctx, `
		WITH limits (n) AS (
			VALUES (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
				- coalesce(current_setting('reserved_connections', true), '0')::int)
			UNION ALL SELECT datconnlimit FROM pg_database WHERE datname = current_database() AND datconnlimit >= 0
			UNION ALL SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0
		), clients AS (
			SELECT application_name = current_setting('application_name') AND datname = current_database() AS own
			FROM pg_stat_activity WHERE datid IS NOT NULL AND pid <> pg_backend_pid()
				AND coalesce(backend_type, 'client backend') = 'client backend' -- others' are hidden from ordinary users
		)
		SELECT current_setting('server_version_num')::int, clock_timestamp(),
			pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
			current_setting('server_encoding'), current_setting('fsync')::bool, current_setting('full_page_writes')::bool,
			current_setting('synchronous_commit'),
			(SELECT min(n) FROM limits),
			(SELECT count(*) FROM clients WHERE own IS NOT TRUE)::int, (SELECT count(*) FROM clients WHERE own)::int,
			coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), coalesce(current_schema(), '')`,
	).Scan(&s.Version, &s.Now, &s.ReadOnly, &s.Encoding, &s.Fsync, &s.FullPageWrites, &s.SynchronousCommit,
		&s.Connections, &s.Others, &s.Own, &s.MayCreate, &s.Schema)
	if err != nil {
		return doctor.ServerState{}, fmt.Errorf("ask Postgres for its state: %w", err)
	}
	return s, nil
}

// SchemaState implements [doctor.Ledger].
func (db *DB) SchemaState(ctx context.Context) (doctor.SchemaState, error) {
	var s doctor.SchemaState
	fail := func(err error) (doctor.SchemaState, error) {
		return doctor.SchemaState{}, fmt.Errorf("read the schema's version: %w", err)
	}
	// goose itself would create its table, so only what it knows without asking is
	// asked of it.
	sqldb := stdlib.OpenDBFromPool(db.pool)
	defer sqldb.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, sqldb, migrations.FS, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fail(err)
	}
	for _, src := range p.ListSources() {
		s.Want = max(s.Want, src.Version)
	}
	var migrated bool
	if err := db.pool.QueryRow(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL`).Scan(&migrated); err != nil {
		return fail(err)
	}
	if !migrated {
		s.QueuePending = true
		return s, nil
	}
	err = db.pool.QueryRow(ctx, `
		SELECT coalesce(string_agg(relname, ', ' ORDER BY relname), '') FROM pg_class
		WHERE relnamespace = current_schema()::regnamespace
		AND relname IN ('checkpoint', 'finding', 'incident', 'intent', 'generation', 'layout', 'profile', 'source_position', 'lease',
			'river_job', 'river_migration', 'goose_db_version')
		AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
			AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))`).Scan(&s.Denied)
	if err != nil {
		return fail(err)
	}
	if s.Denied != "" {
		return s, nil // what follows might fail for it
	}
	if err := db.pool.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&s.Have); err != nil {
		return fail(err)
	}
	m, err := rivermigrate.New(riverpgxv5.New(db.pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fail(err)
	}
	queue, err := m.Validate(ctx, nil)
	if err != nil {
		return fail(err)
	}
	s.QueuePending = !queue.OK
	return s, nil
}

// Progress implements [doctor.Ledger].
func (db *DB) Progress(ctx context.Context) (doctor.Progress, error) {
	var p doctor.Progress
	fail := func(err error) (doctor.Progress, error) {
		return doctor.Progress{}, fmt.Errorf("read the positions: %w", err)
	}
	layout, err := db.q.LayoutInForce(ctx)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fail(err)
	}
	p.LayoutKnown = err == nil
	p.ObservationPartitions, p.SourcePartitions, p.Topic = int(layout.ObservationPartitions), int(layout.SourcePartitions), layout.Topic
	var sources []dbsqlc.SourcePositionsRow
	if sources, err = db.q.SourcePositions(ctx); err != nil {
		return fail(err)
	}
	for _, s := range sources {
		p.Sources = append(p.Sources, doctor.Position{Partition: s.Partition, Next: s.Next.Int64, Known: s.Next.Valid})
	}
	checkpoints, err := db.CheckpointStates(ctx)
	if err != nil && !errors.Is(err, ErrNoLayout) {
		return fail(err)
	}
	for _, c := range checkpoints {
		p.Observations = append(p.Observations, doctor.Position{Partition: c.Partition, Next: c.Mark.Position, Known: c.Number > 0})
	}
	return p, nil
}
