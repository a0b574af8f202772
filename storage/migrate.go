package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/vedette-sec/vedette/migrations"
)

// Migrate brings the schema, and that of the job queue, up to date. Processes
// that start together wait for one another, at most two minutes.
func (db *DB) Migrate(ctx context.Context) (err error) {
	// Connections of its own: building an index may take longer than a statement
	// is given otherwise.
	cfg := db.pool.Config()
	cfg.MaxConns = 4 // the lock's, goose's, River's
	cfg.MinConns = 0
	for _, p := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		delete(cfg.ConnConfig.RuntimeParams, p)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect to migrate: %w", err)
	}
	defer pool.Close()
	sqldb := stdlib.OpenDBFromPool(pool)
	defer sqldb.Close()

	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120)) // the default asks every 5 s only
	if err != nil {
		return fmt.Errorf("make the migration lock: %w", err)
	}
	conn, err := sqldb.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect to migrate: %w", err)
	}
	defer conn.Close()
	if err := locker.SessionLock(ctx, conn); err != nil {
		return fmt.Errorf("wait for another process that migrates: %w", err)
	}
	defer func() {
		uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, locker.SessionUnlock(uctx, conn))
	}()
	if err := db.migrateSchema(ctx, sqldb); err != nil {
		return err
	}
	return db.migrateQueue(ctx, pool)
}

func (db *DB) migrateSchema(ctx context.Context, sqldb *sql.DB) error {
	p, err := goose.NewProvider(goose.DialectPostgres, sqldb, migrations.FS, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if have > want {
		return fmt.Errorf("the database's schema has version %d, this program knows %d: it was written by a newer Vedette", have, want)
	}
	results, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate the schema from version %d: %w", have, err)
	}
	for _, r := range results {
		db.log.Info("migrated", "migration", r.Source.Path, "took", r.Duration)
	}
	return nil
}

func (db *DB) migrateQueue(ctx context.Context, pool *pgxpool.Pool) error {
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("read the job queue's migrations: %w", err)
	}
	res, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	if err != nil {
		return fmt.Errorf("migrate the job queue: %w", err)
	}
	if n := len(res.Versions); n > 0 {
		db.log.Info("migrated the job queue", "version", res.Versions[n-1].Version)
	}
	return nil
}

// QueueSchema names the version of the job queue's schema that Migrate ends at.
func QueueSchema() string {
	m, err := rivermigrate.New(riverpgxv5.New(nil), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err.Error()
	}
	all := m.AllVersions()
	return fmt.Sprintf("river-%d", all[len(all)-1].Version)
}
