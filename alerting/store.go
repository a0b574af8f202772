package alerting

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

// Delivery names an intent: tell this receiver of this incident.
type Delivery struct {
	Tenant   string
	Incident incident.ID
	Receiver string
}

// Intent is how far the telling of an incident to a receiver has come.
type Intent struct {
	Job       int64 // that stands for it; 0 if none does
	Wanted    int64 // incident version
	Delivered int64 // incident version; 0 if never
	// LastEvent, LastSeverity and LastAt are of the last message; LastAt is zero if
	// there was none.
	LastEvent    Event
	LastSeverity detect.Level
	LastAt       time.Time
	Attempts     int       // since the last delivery; counted before each
	FailingSince time.Time // zero if the last attempt did not fail
}

// Subject is everything that goes into a notification, as it is now.
type Subject struct {
	Intent   Intent
	Incident incident.Incident
	Entities []incident.Entity
	Rules    []incident.Rule // of all findings
	Lead     incident.Finding
	LeadRule incident.Rule // of Lead: what the incident is named for
}

// Done is what is recorded after a delivery.
type Done struct {
	Version  int64
	Event    Event
	Severity detect.Level
	At       time.Time
	Silent   bool // nothing was sent, for there was nothing to tell
}

// Store is where intents are kept: Postgres.
type Store interface {
	// Dispatch locks up to limit due intents of the receivers, passes them to
	// enqueue within the transaction, and notes the jobs that it returns, one each.
	Dispatch(ctx context.Context, receivers []string, limit int, enqueue func(ctx context.Context, tx pgx.Tx, ds []Delivery) (jobs []int64, err error)) (int, error)
	// Subject reads what is to be told. found is false if the intent is gone.
	Subject(ctx context.Context, d Delivery) (s Subject, found bool, err error)
	// Attempt notes before sending that it is about to be tried, if job still
	// stands for the intent.
	Attempt(ctx context.Context, d Delivery, job int64) (ok bool, err error)
	// Delivered records a delivery and takes the job off the intent, which is due
	// again if more is wanted by then.
	Delivered(ctx context.Context, d Delivery, job int64, done Done) error
	// Failed records a failure at a time; with giveUp it takes the job off the
	// intent, which is due again when more is wanted.
	Failed(ctx context.Context, d Delivery, job int64, reason string, at time.Time, giveUp bool) error
	// Backlog tells, for each receiver, since when its oldest undelivered intent
	// has been waiting, those given up apart.
	Backlog(ctx context.Context) (map[string]time.Time, error)
	// Repair takes jobs off intents that the queue no longer holds, so that they
	// are due again, and returns how many.
	Repair(ctx context.Context) (int, error)
}

// Queue runs jobs at least once, at a time of their choosing. It is durable.
type Queue interface {
	// Enqueue adds a job for each delivery within tx and returns their ids.
	Enqueue(ctx context.Context, tx pgx.Tx, ds []Delivery) ([]int64, error)
	// Run works jobs until ctx ends and those under way have ended. work returns
	// after how long the job is to be run again; negative means that it is done.
	Run(ctx context.Context, work func(ctx context.Context, job int64, d Delivery) (again time.Duration, err error)) error
}
