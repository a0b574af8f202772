// Package storage is Postgres: the ledger behind the small interfaces that the
// other packages declare. A checkpoint of correlate is one transaction here, and
// what is not in it has not happened.
//
// One file and one file of queries (queries/, compiled by sqlc into dbsqlc) serve
// one consumer:
//
//	ledger.go      correlate: checkpoints, marks, profiles, findings
//	positions.go   match: positions of the sources
//	generations.go the rules and the enrichment in force, by digest
//	collectors.go  ingest: cursors
//	incident.go    the assembler; incident_tx.go its transactions
//	api.go         the API's reading; token.go its tokens
//
// Calls that can be repeated safely ride out an outage of Postgres for
// Options.Patience. Every statement has a deadline.
package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// DefaultEvidenceLimit is how many pieces of evidence a finding keeps.
const DefaultEvidenceLimit = 10

// Options say where Postgres is and how to use it. Only DSN is needed.
type Options struct {
	DSN              string                // as pgx reads it; what it sets wins over the timeouts here
	MaxConns         int32                 // of the pool; 16 if 0
	StatementTimeout time.Duration         // 30 s if 0
	LockTimeout      time.Duration         // 10 s if 0
	Patience         time.Duration         // how long an outage is ridden out; 30 s if 0
	CloseWithin      time.Duration         // how long closing waits for a server to say goodbye; 5 s if 0
	ReadOnly         bool                  // connect also where writing is not allowed, to look around
	EvidenceLimit    int                   // of a finding; DefaultEvidenceLimit if 0
	Log              *slog.Logger          // slog.Default() if nil
	Registerer       prometheus.Registerer // none if nil
}

// validate fills defaults in and names the field that is wrong.
func (o *Options) validate() error {
	if o.DSN == "" {
		return errors.New("storage: Options.DSN is empty")
	}
	for _, d := range []struct {
		name string
		v    *time.Duration
		def  time.Duration
	}{
		{"StatementTimeout", &o.StatementTimeout, 30 * time.Second},
		{"LockTimeout", &o.LockTimeout, 10 * time.Second},
		{"Patience", &o.Patience, 30 * time.Second},
		{"CloseWithin", &o.CloseWithin, 5 * time.Second},
	} {
		if *d.v < 0 {
			return fmt.Errorf("storage: Options.%s is negative", d.name)
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if o.MaxConns < 0 || o.EvidenceLimit < 0 {
		return errors.New("storage: Options.MaxConns and Options.EvidenceLimit must not be negative")
	}
	if o.MaxConns == 0 {
		o.MaxConns = 16
	}
	if o.EvidenceLimit == 0 {
		o.EvidenceLimit = DefaultEvidenceLimit
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return nil
}

// DB is a pool of connections to Vedette's database. Its methods may be called
// from any goroutine.
type DB struct {
	pool    *pgxpool.Pool
	q       *dbsqlc.Queries
	opts    Options
	log     *slog.Logger
	metrics *metrics
	layout  atomic.Int32 // that this process works in; 0: not asked yet

	mu       sync.Mutex
	troubles map[*trouble]struct{} // of the calls that are being repeated
}

// Open connects and makes sure that Postgres answers. It does not migrate.
func Open(ctx context.Context, o Options) (*DB, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return nil, fmt.Errorf("read the Postgres connection string: %w", err) // pgx hides the password
	}
	cfg.MaxConns = o.MaxConns
	params := cfg.ConnConfig.RuntimeParams
	for k, v := range map[string]string{
		"application_name":  "vedette",
		"timezone":          "UTC",
		"statement_timeout": milliseconds(o.StatementTimeout),
		"lock_timeout":      milliseconds(o.LockTimeout),
		// What a process that was cut off still holds is given free after this.
		"idle_in_transaction_session_timeout": milliseconds(o.StatementTimeout),
	} {
		if _, set := params[k]; !set {
			params[k] = v
		}
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	// A server that may not be written to is of no use, but another one may stand
	// behind the same name, or this one recover: each error ends its connection, and
	// a new one is made only where writing is allowed.
	if cfg.ConnConfig.ValidateConnect == nil && !o.ReadOnly {
		cfg.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	keep := cfg.ConnConfig.OnPgError
	cfg.ConnConfig.OnPgError = func(c *pgconn.PgConn, err *pgconn.PgError) bool {
		return keep(c, err) && err.Code != readOnly
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	db := &DB{pool: pool, q: dbsqlc.New(pool), opts: o, log: o.Log.With("component", "storage"), troubles: make(map[*trouble]struct{})}
	if db.metrics, err = newMetrics(o.Registerer, pool); err != nil {
		pool.Close()
		return nil, err
	}
	if err := db.Ping(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(d.Milliseconds(), 10)
}

// Ping asks whether Postgres answers.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("reach Postgres: %w", err)
	}
	return nil
}

// Check is nil if Postgres answers and does what it is asked. A server may answer and
// yet refuse what is to be written, as one whose disk is full does: then the error is
// the one that calls are repeated for.
func (db *DB) Check(ctx context.Context) error {
	if err := db.Ping(ctx); err != nil {
		return err
	}
	return db.trouble()
}

// Close waits for the connections in use and closes them all; longer than
// Options.CloseWithin it waits for no server that does not answer.
func (db *DB) Close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		db.pool.Close()
	}()
	t := time.NewTimer(db.opts.CloseWithin)
	defer t.Stop()
	select {
	case <-closed:
	case <-t.C:
		db.log.Warn("Postgres does not answer: its connections are left behind")
	}
	db.metrics.unregister()
}

// Pool gives the pool to those who need pgx itself, such as River.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// inTx runs f in one transaction. Nothing remains if f or the commit fails,
// unless the error is an [UnknownOutcomeError].
func (db *DB) inTx(ctx context.Context, f func(pgx.Tx, *dbsqlc.Queries) error) error {
	tx, err := db.pool.Begin(ctx)
	if err != nil {
		return err
	}
	if err := f(tx, db.q.WithTx(tx)); err != nil {
		// Bounded by itself: the caller's context may be the reason.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(rctx) // if it fails the connection is closed, which rolls back too
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		if commitFailed(err) {
			return err
		}
		return &UnknownOutcomeError{Err: err}
	}
	return nil
}
