// Package alerting delivers what the assembler and people want told: it turns
// due notification intents into queued jobs in one transaction, and works the
// jobs with one [Notifier] a receiver.
//
// # What is promised
//
// An intent is one row an incident and receiver, with the incident version that
// the receiver is to know at least. At most one job stands for it. A job reads
// the incident anew at every attempt and tells what is so then, and only then is
// the version recorded as delivered: so an old trigger never overtakes a newer
// resolve, a hundred amendments during an outage become one message after it,
// and a crash between delivery and record repeats the message, with the same
// deduplication key, rather than losing it.
//
// # When
//
// An opened incident, a raised severity and a changed status are told at once;
// further findings are told together, [Options.Update] after the last message at
// the earliest. What fails for a reason that may pass (429, 5xx, timeouts, an
// unreachable host) is tried again with growing pauses, or after what
// Retry-After says, until [Options.GiveUp]; a 429 also holds the receiver's other
// messages back. What the receiver refuses for good (other 4xx) is recorded with
// the intent, counted, and tried again when the incident changes.
//
// # Receivers
//
// Each kind is a package of its own: alerting/slack, alerting/pagerduty and
// alerting/webhook. alerting/alertingtest holds the tests that every notifier
// has to pass. Requests go to configured URLs only, over https (or to loopback),
// and are not redirected.
package alerting
