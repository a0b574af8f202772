package alerting

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

// Notifier tells one receiver. It is safe for concurrent use.
type Notifier interface {
	// Notify delivers n or fails with a *Failure. A positive retryAfter is how long
	// the receiver asks to be left alone. Repeating a notification with the same
	// incident and version must be harmless, as far as the receiver allows.
	Notify(ctx context.Context, n Notification) (retryAfter time.Duration, err error)
}

// Event is what a notification tells of its incident.
type Event string

// The events.
const (
	EventTrigger     Event = "trigger"     // it is open: new, or with more to it
	EventAcknowledge Event = "acknowledge" // somebody takes care of it
	EventResolve     Event = "resolve"     // it is resolved, or merged into another
)

// EventOf is the event that tells a status.
func EventOf(s incident.Status) Event {
	switch s {
	case incident.StatusAcknowledged:
		return EventAcknowledge
	case incident.StatusResolved, incident.StatusMerged:
		return EventResolve
	}
	return EventTrigger
}

// Notification is what a receiver is told: the incident as it stands.
type Notification struct {
	Event       Event
	Update      bool // the receiver was told of the incident before
	Incident    incident.Incident
	Entities    []incident.Entity
	Rules       []incident.Rule // of all findings, the one that names the incident first
	Explanation string          // why the naming finding fired, plain text
	URL         string          // of the incident in the console; empty if unknown
	MergedURL   string          // of the incident it was merged into; empty if not
	At          time.Time
}

// Key is the deduplication key of the incident at its receivers.
func (n Notification) Key() string { return n.Incident.ID.String() }

// DeliveryID names this telling of the incident: the same when it is repeated.
func (n Notification) DeliveryID() string {
	return fmt.Sprintf("%s-%d", n.Incident.ID, n.Incident.Version)
}

// Reason says why a delivery failed, in a bounded set of words: it labels a
// metric.
type Reason string

// The reasons.
const (
	ReasonRefused     Reason = "refused"     // 4xx but 429: permanent
	ReasonRedirect    Reason = "redirect"    // 3xx: not followed, permanent
	ReasonInvalid     Reason = "invalid"     // could not be rendered: permanent
	ReasonThrottled   Reason = "throttled"   // 429
	ReasonServer      Reason = "server"      // 5xx and anything else unexpected
	ReasonTimeout     Reason = "timeout"     // no answer in time
	ReasonUnreachable Reason = "unreachable" // no connection
	ReasonCanceled    Reason = "canceled"    // we stopped
)

// Reasons lists all reasons.
func Reasons() []Reason {
	return []Reason{
		ReasonRefused, ReasonRedirect, ReasonInvalid, ReasonThrottled,
		ReasonServer, ReasonTimeout, ReasonUnreachable, ReasonCanceled,
	}
}

// Failure is why a delivery failed. Its text holds no secret.
type Failure struct {
	Reason Reason
	Retry  bool // it may pass
	Status int  // HTTP status, 0 without an answer
	Err    error
}

func (f *Failure) Error() string {
	if f.Status != 0 {
		return fmt.Sprintf("%s: status %d: %v", f.Reason, f.Status, f.Err)
	}
	return fmt.Sprintf("%s: %v", f.Reason, f.Err)
}

func (f *Failure) Unwrap() error { return f.Err }

// failureOf makes a Failure of any error of a notifier.
func failureOf(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	return &Failure{Reason: ReasonServer, Retry: true, Err: err}
}

// Receiver is a configured receiver: whom to tell, of what, and how.
type Receiver struct {
	Name        string // unique; labels metrics and names intents
	MinSeverity detect.Level
	Notifier    Notifier
}
