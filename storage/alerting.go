package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// Intents implements [alerting.Store].
type Intents struct{ db *DB }

var _ alerting.Store = Intents{}

// Intents returns what alerting keeps in the database.
func (db *DB) Intents() Intents { return Intents{db} }

// maxToldEntities bounds the entities of a notification.
const maxToldEntities = 100

// Dispatch implements [alerting.Store].
func (s Intents) Dispatch(ctx context.Context, receivers []string, limit int, enqueue func(context.Context, pgx.Tx, []alerting.Delivery) ([]int64, error)) (int, error) {
	n := 0
	err := s.db.inTx(ctx, func(tx pgx.Tx, q *dbsqlc.Queries) error {
		rows, err := q.DueIntents(ctx, dbsqlc.DueIntentsParams{Receivers: receivers, MaxRows: int64(limit)})
		if err != nil || len(rows) == 0 {
			return err
		}
		ds := make([]alerting.Delivery, len(rows))
		var p dbsqlc.IntentsQueuedParams
		for i, r := range rows {
			ds[i] = alerting.Delivery{Tenant: r.Tenant, Incident: incidentID(r.IncidentID), Receiver: r.Receiver}
			p.Tenants, p.IncidentIds, p.Receivers = append(p.Tenants, r.Tenant), append(p.IncidentIds, r.IncidentID), append(p.Receivers, r.Receiver)
		}
		if p.Jobs, err = enqueue(ctx, tx, ds); err != nil {
			return err
		}
		if len(p.Jobs) != len(ds) {
			return fmt.Errorf("%d jobs for %d intents", len(p.Jobs), len(ds))
		}
		n = len(ds)
		return q.IntentsQueued(ctx, p)
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Subject implements [alerting.Store]. All of it is of one instant.
func (s Intents) Subject(ctx context.Context, d alerting.Delivery) (sub alerting.Subject, found bool, err error) {
	err = pgx.BeginTxFunc(ctx, s.db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		sub, err = subject(ctx, s.db.q.WithTx(tx), d)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return alerting.Subject{}, false, nil
	}
	return sub, err == nil, err
}

func subject(ctx context.Context, q *dbsqlc.Queries, d alerting.Delivery) (alerting.Subject, error) {
	var sub alerting.Subject
	id := uuidOf(d.Incident)
	in, err := q.IntentToTell(ctx, dbsqlc.IntentToTellParams{Tenant: d.Tenant, IncidentID: id, Receiver: d.Receiver})
	if err != nil {
		return sub, err
	}
	sub.Intent = alerting.Intent{
		Job: in.Job.Int64, Wanted: in.Wanted, Delivered: in.Delivered, LastEvent: alerting.Event(in.LastEvent),
		LastSeverity: detect.Level(in.LastSeverity), LastAt: timeFrom(in.LastAt), Attempts: int(in.Attempts), FailingSince: timeFrom(in.FailingSince),
	}
	row, err := q.IncidentToTell(ctx, dbsqlc.IncidentToTellParams{Tenant: d.Tenant, ID: id})
	if err != nil {
		return sub, err
	}
	sub.Incident = incidentOf(row)
	// What was merged away has no findings left: it is told by those of the one
	// that goes on.
	of := id
	if row.Status == string(incident.StatusMerged) {
		if of, err = survivor(ctx, q, d.Tenant, row.MergedInto); err != nil {
			return sub, err
		}
	}
	entities, err := q.IncidentEntities(ctx, dbsqlc.IncidentEntitiesParams{Tenant: d.Tenant, IncidentID: of, MaxRows: maxToldEntities})
	if err != nil {
		return sub, err
	}
	for _, e := range entities {
		sub.Entities = append(sub.Entities, incident.Entity{Type: e.Type, Value: e.Value})
	}
	rules, err := q.IncidentRules(ctx, dbsqlc.IncidentRulesParams{Tenant: d.Tenant, IncidentID: of})
	if err != nil {
		return sub, err
	}
	for _, r := range rules {
		sub.Rules = append(sub.Rules, ruleOf(dbsqlc.RuleVersionsRow(r)))
	}
	lead, err := q.LeadFinding(ctx, dbsqlc.LeadFindingParams{Tenant: d.Tenant, IncidentID: of})
	if errors.Is(err, pgx.ErrNoRows) {
		return sub, nil // its findings were deleted; the incident still says what it was
	}
	if err != nil {
		return sub, fmt.Errorf("read the first finding: %w", err)
	}
	sub.Lead = incident.Finding{Incident: d.Incident, Finding: detect.Finding{
		ID: findingID(lead.ID), Tenant: lead.Tenant, RuleVersion: lead.RuleVersion, Key: lead.Key, Tile: lead.Tile,
		Merge: detect.Merge(lead.Merge), Count: lead.Count, Peak: lead.Peak, First: lead.FirstTime, Last: lead.LastTime,
		Detail: lead.Detail, Verdict: lead.Verdict,
	}}
	sub.LeadRule = incident.Rule{Version: lead.RuleVersion, ID: lead.RuleVersion, Title: "Rule " + lead.RuleVersion, Level: detect.LevelMedium}
	for _, r := range sub.Rules {
		if r.Version == lead.RuleVersion {
			sub.LeadRule = r
		}
	}
	return sub, nil
}

// survivor follows merges to the incident that goes on. Each was earlier than the
// one before, so there is an end.
func survivor(ctx context.Context, q *dbsqlc.Queries, tenant string, into pgtype.UUID) (pgtype.UUID, error) {
	for {
		row, err := q.IncidentToTell(ctx, dbsqlc.IncidentToTellParams{Tenant: tenant, ID: into})
		if err != nil || row.Status != string(incident.StatusMerged) {
			return into, err
		}
		into = row.MergedInto
	}
}

// Attempt implements [alerting.Store].
func (s Intents) Attempt(ctx context.Context, d alerting.Delivery, job int64) (bool, error) {
	n, err := s.db.q.AttemptIntent(ctx, dbsqlc.AttemptIntentParams{Tenant: d.Tenant, IncidentID: uuidOf(d.Incident), Receiver: d.Receiver, Job: job})
	return n > 0, err
}

// Delivered implements [alerting.Store].
func (s Intents) Delivered(ctx context.Context, d alerting.Delivery, job int64, done alerting.Done) error {
	return s.db.retry(ctx, "intent_delivered", func() error {
		return s.db.q.IntentDelivered(ctx, dbsqlc.IntentDeliveredParams{
			Tenant: d.Tenant, IncidentID: uuidOf(d.Incident), Receiver: d.Receiver, Job: job,
			Version: done.Version, Silent: done.Silent, Event: string(done.Event), Severity: int16(done.Severity), At: timeOf(done.At),
		})
	})
}

// maxError bounds the recorded reason of a failure, in characters.
const maxError = 500

// Failed implements [alerting.Store].
func (s Intents) Failed(ctx context.Context, d alerting.Delivery, job int64, reason string, at time.Time, giveUp bool) error {
	reason = text(reason)
	if r := []rune(reason); len(r) > maxError {
		reason = string(r[:maxError])
	}
	return s.db.retry(ctx, "intent_failed", func() error {
		return s.db.q.IntentFailed(ctx, dbsqlc.IntentFailedParams{
			Tenant: d.Tenant, IncidentID: uuidOf(d.Incident), Receiver: d.Receiver, Job: job,
			LastError: reason, At: timeOf(at), GiveUp: giveUp,
		})
	})
}

// Backlog implements [alerting.Store].
func (s Intents) Backlog(ctx context.Context) (map[string]time.Time, error) {
	rows, err := s.db.q.IntentBacklog(ctx)
	if err != nil {
		return nil, err
	}
	waiting := make(map[string]time.Time, len(rows))
	for _, r := range rows {
		waiting[r.Receiver] = timeFrom(r.Since)
	}
	return waiting, nil
}

// Repair implements [alerting.Store]. A job counts as lost if River has no row of
// it or has ended it: the intent would have been freed by then.
func (s Intents) Repair(ctx context.Context) (int, error) {
	// River's tables are its own, so not sqlc's. A job that ends right now frees its
	// intent first, so what is found ended is ended for good.
	tag, err := s.db.pool.Exec(ctx, `
		UPDATE intent i SET job = NULL, queued = least(i.queued, i.delivered), updated_at = now()
		WHERE i.job IS NOT NULL AND NOT EXISTS (SELECT FROM river_job j WHERE j.id = i.job AND j.finalized_at IS NULL)`)
	if err != nil {
		return 0, err
	}
	return int(tag.RowsAffected()), nil
}
