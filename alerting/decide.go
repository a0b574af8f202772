package alerting

import "time"

type action uint8

const (
	actSend action = iota
	actWait        // too early for another message
	actSkip        // nothing that the receiver has to know
)

// plan is what to do about an intent.
type plan struct {
	action action
	event  Event
	wait   time.Duration // with actWait
}

// decide says what to do about an intent now.
func decide(s Subject, now time.Time, update time.Duration) plan {
	p := plan{event: EventOf(s.Incident.Status)}
	in := s.Intent
	switch {
	case in.Delivered >= s.Incident.Version:
		p.action = actSkip
	case in.LastAt.IsZero():
		// It may have been told nevertheless, if we died before that was recorded:
		// only what was never tried needs no taking back.
		if p.event == EventResolve && in.Attempts == 0 {
			p.action = actSkip
		}
	case p.event == EventResolve && in.LastEvent == EventResolve && in.Attempts == 0:
		p.action = actSkip
	case p.event == in.LastEvent && s.Incident.Severity <= in.LastSeverity:
		if wait := in.LastAt.Add(update).Sub(now); wait > 0 {
			p.action, p.wait = actWait, wait
		}
	}
	return p
}

// backoff is the pause after a failure that followed so many others: it doubles
// from first to longest, and the upper half of it is left to chance (in [0, 1)).
func backoff(failures int, first, longest time.Duration, chance float64) time.Duration {
	d := min(first, longest)
	for ; failures > 0 && d < longest; failures-- {
		d = min(2*d, longest)
	}
	return d/2 + time.Duration(chance*float64(d/2))
}
