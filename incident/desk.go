package incident

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Desk is where people work incidents. Every act is kept with who did it, and
// told to the receivers that were told of the incident.
type Desk struct {
	opts Options
}

// NewDesk makes a desk. Of the options it uses Ledger, Receivers, Deadline, Now
// and Logger.
func NewDesk(o Options) (*Desk, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Desk{opts: o}, nil
}

// Acknowledge says that somebody takes care of an open incident. It changes
// nothing if that was said before. It returns the incident as it is then, or
// ErrNotFound, ErrMerged (with the incident, which says into which) or
// ErrResolved.
func (d *Desk) Acknowledge(ctx context.Context, tenant string, id ID, actor, note string) (Incident, error) {
	return d.act(ctx, tenant, id, actor, note, func(in *Incident, now time.Time) (Action, Event, error) {
		switch in.Status {
		case StatusAcknowledged:
			return "", "", nil
		case StatusResolved:
			return "", "", ErrResolved
		}
		in.Status, in.AcknowledgedAt = StatusAcknowledged, now
		return ActionAcknowledged, EventTrigger, nil
	})
}

// Resolve says that an incident is dealt with. It changes nothing if it was. It
// returns the incident as it is then, or ErrNotFound or ErrMerged.
func (d *Desk) Resolve(ctx context.Context, tenant string, id ID, actor, note string) (Incident, error) {
	return d.act(ctx, tenant, id, actor, note, func(in *Incident, now time.Time) (Action, Event, error) {
		if in.Status == StatusResolved {
			return "", "", nil
		}
		in.Status, in.AcknowledgedAt, in.ResolvedAt = StatusResolved, time.Time{}, now
		return ActionResolved, EventResolve, nil
	})
}

// Reopen takes back that an incident was resolved or acknowledged. It returns
// the incident as it is then, or ErrNotFound or ErrMerged.
func (d *Desk) Reopen(ctx context.Context, tenant string, id ID, actor, note string) (Incident, error) {
	return d.act(ctx, tenant, id, actor, note, func(in *Incident, _ time.Time) (Action, Event, error) {
		if in.Status == StatusOpen {
			return "", "", nil
		}
		in.Status, in.AcknowledgedAt, in.ResolvedAt = StatusOpen, time.Time{}, time.Time{}
		return ActionReopened, EventTrigger, nil
	})
}

// Assign names who works an incident; an empty assignee takes the name off. It
// is kept, but told to nobody. It returns the incident as it is then, or
// ErrNotFound or ErrMerged.
func (d *Desk) Assign(ctx context.Context, tenant string, id ID, actor, assignee string) (Incident, error) {
	assignee, _ = cleanValue(strings.TrimSpace(assignee))
	return d.act(ctx, tenant, id, actor, "", func(in *Incident, _ time.Time) (Action, Event, error) {
		if in.Assignee == assignee {
			return "", "", nil
		}
		in.Assignee = assignee
		return ActionAssigned, "", nil
	})
}

// act locks an incident, lets f change it, and keeps and tells what f did. An
// empty action means that nothing changed, an empty event that nobody is told.
func (d *Desk) act(ctx context.Context, tenant string, id ID, actor, note string, f func(*Incident, time.Time) (Action, Event, error)) (Incident, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opts.Deadline)
	defer cancel()
	var in Incident
	var action Action
	err := d.opts.Ledger.Act(ctx, func(tx Tx) error {
		found, err := tx.Incidents(ctx, tenant, []ID{id})
		if err != nil {
			return fmt.Errorf("lock incident: %w", err)
		}
		if len(found) == 0 {
			return ErrNotFound
		}
		in = found[0]
		if in.Status == StatusMerged {
			return ErrMerged
		}
		now := d.opts.Now().UTC()
		var event Event
		action, event, err = f(&in, now)
		if err != nil || action == "" {
			return err
		}
		in.UpdatedAt = now
		if event != "" {
			in.Version++
		}
		if err := tx.SaveIncidents(ctx, []Incident{in}); err != nil {
			return fmt.Errorf("write incident: %w", err)
		}
		if err := tx.AddAudit(ctx, []Audit{{
			Tenant: tenant, Incident: id, At: now, Actor: actor, Action: action, Detail: actDetail(in, action, note),
		}}); err != nil {
			return fmt.Errorf("write audit: %w", err)
		}
		var intents []Intent
		switch event {
		case EventTrigger:
			intents = triggers(d.opts.Receivers, &in)
		case EventResolve:
			intents = []Intent{{Tenant: tenant, Incident: id, Event: EventResolve, Wanted: in.Version}}
		}
		if err := tx.SaveIntents(ctx, intents); err != nil {
			return fmt.Errorf("write intents: %w", err)
		}
		return nil
	})
	if err != nil {
		return in, fmt.Errorf("incident %s: %w", id, err)
	}
	if action != "" {
		d.opts.Logger.Info("incident "+string(action), "tenant", tenant, "incident", id.String(), "actor", actor)
	}
	return in, nil
}

func actDetail(in Incident, action Action, note string) map[string]string {
	d := map[string]string{}
	if action == ActionAssigned {
		d["assignee"] = in.Assignee
	}
	if note, _ = cleanValue(note); note != "" {
		d["note"] = note
	}
	return d
}
