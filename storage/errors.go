package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// ErrNotFound says that there is no such row.
var ErrNotFound = errors.New("not found")

// LayoutError says that the partition counts asked for are not those in force.
type LayoutError struct {
	Observations, Sources         int // in force
	WantObservations, WantSources int // asked for
}

func (e *LayoutError) Error() string {
	return fmt.Sprintf("the layout in Postgres has %d partitions of observations and %d of logs, the topics have %d and %d: "+
		"state is kept by partition, so the counts are fixed once written, but for partitions that are added to the logs; "+
		"configure %d and at least %d partitions, "+
		"or move to another count of observations with `vedette reshard`",
		e.Observations, e.Sources, e.WantObservations, e.WantSources, e.Observations, e.Sources)
}

// UnknownOutcomeError says that the connection was lost around COMMIT and that
// nobody could be asked whether it took place. Whoever gets it must read what is
// in force (for a checkpoint: acquire anew) before writing again.
type UnknownOutcomeError struct{ Err error }

func (e *UnknownOutcomeError) Error() string {
	return "the outcome of COMMIT is unknown: " + e.Err.Error()
}

func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// commitFailed says whether an error of COMMIT means that it surely did not take
// place: Postgres said so in an ordinary error. A FATAL one may have come after.
// Not pgconn.SafeToRetry: when the connection is lost while COMMIT waits for its
// answer, pgx 5.12 reports "conn closed" and calls that safe.
func commitFailed(err error) bool {
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return true
	}
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR"
}

// readOnly is the SQLSTATE of a write to a server that is a standby now, or that was
// told to take none, as some are when their disk is nearly full.
const readOnly = "25006"

// IsTransient says whether err came from the way to Postgres, from its state or
// from others' transactions, so that the same call may succeed later.
func IsTransient(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "40001", "40P01", // serialisation failure, deadlock
			"55P03",                   // lock not available in time
			"57014",                   // statement timeout
			"57P01", "57P02", "57P03", // shutdown, crash, starting up
			"57P05", "25P03", // idle timeouts
			readOnly,
			"58030": // the disk does not do what it is told
			return true
		}
		class := pg.Code[:min(2, len(pg.Code))]
		return class == "08" || class == "53" // connection, resources
	}
	var connect *pgconn.ConnectError
	var network net.Error
	var errno syscall.Errno
	return errors.As(err, &connect) || errors.As(err, &network) || errors.As(err, &errno) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		pgconn.SafeToRetry(err)
}

// trouble is why a call is being repeated.
type trouble struct {
	op    string
	since time.Time
	err   error
}

// troubleAfter is how long calls are repeated before it is worth telling of: locks
// and restarts are over sooner.
const troubleAfter = 2 * time.Second

// trouble is why calls have been repeated for a while, if any are.
func (db *DB) trouble() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	errs := make(map[string]error)
	for t := range db.troubles {
		if time.Since(t.since) >= troubleAfter {
			errs[t.op] = fmt.Errorf("%s: %w", t.op, t.err)
		}
	}
	var all []error
	for _, op := range slices.Sorted(maps.Keys(errs)) {
		all = append(all, errs[op])
	}
	return errors.Join(all...)
}

func (db *DB) note(t *trouble, err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	t.err = err
	db.troubles[t] = struct{}{}
}

func (db *DB) over(t *trouble) {
	db.mu.Lock()
	defer db.mu.Unlock()
	delete(db.troubles, t)
}

// retry calls f until it succeeds, fails for good, or patience or ctx are at an
// end. f must be safe to repeat after an error. If ctx has a span, that gets one
// of op within it.
func (db *DB) retry(ctx context.Context, op string, f func() error) (err error) {
	_, s := span(ctx, op)
	defer func() { end(s, err) }()
	deadline := time.Now().Add(db.opts.Patience)
	backoff := 50 * time.Millisecond
	t := &trouble{op: op, since: time.Now()}
	defer db.over(t)
	for {
		if err = f(); err == nil || ctx.Err() != nil || !IsTransient(err) || time.Now().After(deadline) {
			return err
		}
		db.note(t, err)
		db.metrics.retries.WithLabelValues(op).Inc()
		s.AddEvent("trying again", trace.WithAttributes(attribute.String("error", err.Error())))
		db.log.Warn("Postgres is in the way; trying again", "op", op, "err", err, "retry_in", backoff)
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(backoff/2 + rand.N(backoff)):
		}
		backoff = min(2*backoff, 2*time.Second)
	}
}
