package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/vedette-sec/vedette/incident"
)

// desk makes changes at the incident package's desk, several of them in one
// transaction, under a condition.
type desk struct {
	o         incident.Options
	transient func(error) bool
	log       *slog.Logger
}

// NewActions returns Actions by which people work incidents at an
// [incident.Desk] with these options. transient says which errors of the ledger
// are worth trying again.
func NewActions(o incident.Options, transient func(error) bool) (Actions, error) {
	if _, err := incident.NewDesk(o); err != nil {
		return nil, err
	}
	d := &desk{o: o, transient: transient, log: o.Logger}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.o.Logger = nil // an act is logged once it is committed
	return d, nil
}

func (d *desk) ChangeIncident(ctx context.Context, tenant, id, actor string, c Change) error {
	iid, err := incident.ParseID(id)
	if err != nil {
		return fmt.Errorf("change incident: %w", ErrNotFound)
	}
	err = d.o.Ledger.Act(ctx, func(tx incident.Tx) error {
		found, err := tx.Incidents(ctx, tenant, []incident.ID{iid}) // and locks it
		switch {
		case err != nil:
			return fmt.Errorf("lock incident: %w", err)
		case len(found) == 0:
			return ErrNotFound
		case found[0].Status == incident.StatusMerged:
			return ErrMerged
		case c.IfVersion != 0 && c.IfVersion != found[0].Version:
			return ErrConflict
		}
		o := d.o
		o.Ledger = joined{tx}
		inner, err := incident.NewDesk(o)
		if err != nil {
			return err
		}
		switch c.Status {
		case "":
		case StatusAcknowledged:
			_, err = inner.Acknowledge(ctx, tenant, iid, actor, "")
		case StatusResolved:
			_, err = inner.Resolve(ctx, tenant, iid, actor, "")
		case StatusOpen:
			_, err = inner.Reopen(ctx, tenant, iid, actor, "")
		default:
			err = fmt.Errorf("status %q is not for people to set", c.Status)
		}
		if err == nil && c.Assignee != nil {
			_, err = inner.Assign(ctx, tenant, iid, actor, *c.Assignee)
		}
		return err
	})
	switch {
	case errors.Is(err, incident.ErrNotFound):
		return ErrNotFound
	case errors.Is(err, incident.ErrMerged):
		return ErrMerged
	case errors.Is(err, incident.ErrResolved):
		return ErrResolved
	case err != nil && d.transient(err):
		return fmt.Errorf("change incident %s: %w: %w", id, ErrUnavailable, err)
	case err != nil:
		return fmt.Errorf("change incident %s: %w", id, err)
	}
	attrs := []any{"tenant", tenant, "incident", id, "actor", actor}
	if c.Status != "" {
		attrs = append(attrs, "status", string(c.Status))
	}
	if c.Assignee != nil {
		attrs = append(attrs, "assignee", *c.Assignee)
	}
	d.log.InfoContext(ctx, "incident changed", attrs...)
	return nil
}

// joined is the ledger as seen from inside a transaction: acts join it.
type joined struct{ tx incident.Tx }

func (j joined) Act(_ context.Context, f func(incident.Tx) error) error { return f(j.tx) }

func (j joined) AcquireAssembler(context.Context, int32) (int64, error) {
	return 0, errors.ErrUnsupported
}

func (j joined) Assemble(context.Context, int32, int64, func(incident.Tx) error) error {
	return errors.ErrUnsupported
}
