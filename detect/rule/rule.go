// Package rule reads detection rules in the community's language: Sigma
// detection rules and Sigma correlation rules
// (https://sigmahq.io/sigma-specification/), and the correlation types that
// Vedette adds under the "vedette." namespace.
//
// A file holds one or more YAML documents. A document that cannot be taken at
// its word is refused with file, line and what was expected; nothing is skipped
// silently. What loads but can do nothing here, such as a rule for a log source
// without a decoder, is inactive and named in a [Warning].
//
// # How values compare
//
//   - A field is a dotted path in the provider's own record, or, where the log
//     source's product is "vedette", an attribute of the normalised event
//     (event.ParseAttr). A path fans out over arrays; a test holds if it holds
//     for any of the values, and with "all" if each pattern holds for any value.
//   - Text compares without regard to case (Unicode simple folding) unless the
//     modifier cased is given, and with its JSON escapes undone. An object
//     compares by its compact JSON text.
//   - A number in a rule compares numerically with a JSON number and as written
//     with a string; lt, lte, gt and gte also read a number from a string.
//     Booleans compare as the words true and false.
//   - null holds where no value but JSON's null is there; "exists: true" where one is.
//   - neq is the negation of the same test without it, so it holds for a field
//     that is absent.
//   - A keyword is looked for in the compact JSON text of the whole record.
//   - re is an unanchored RE2 expression, case-sensitive unless |i is given.
//
// # Log sources
//
// product aws with service cloudtrail reads CloudTrail records by raw path.
// product vedette reads normalised events of every type; its category may be
// http_activity, api_activity, authentication or datastore_activity and limits
// the rule to that class, its service may name a log type such as aws.lambda.
//
// # Correlations beyond Sigma
//
// Three correlation types say what Sigma's cannot. Their parameters stand in a
// map "vedette" within the correlation:
//
//	correlation:                        # a value that this key never had
//	  type: vedette.new_value
//	  rules: [access]
//	  group-by: [actor.user.uid]
//	  condition: {field: src_endpoint.location.country}
//	  vedette: {learning: 7d, forget: 90d}
//
//	correlation:                        # a bucket far from what was learned
//	  type: vedette.baseline
//	  rules: [invocation]               # for measure ratio: [numerator, denominator]
//	  group-by: [function.name]
//	  timespan: 5m                      # the bucket
//	  vedette: {measure: p95, field: duration, learning: 3d, min_volume: 20,
//	            min_buckets: 48, factor: 4, deviations: 6, floor: 250, forget: 90d}
//
//	correlation:                        # an event without its partner
//	  type: vedette.unmatched
//	  rules: [invoked, gateway]         # the left side, then where a partner may be
//	  group-by: [function.name]         # how what is found is rolled up; fields of the left
//	  timespan: 15m                     # tolerance after
//	  vedette: {before: 1m, hold: 2h,
//	            join: {invoked: [function.request_id], gateway: [gateway.integration_request_id]}}
//
// An unmatched correlation may name further rules of the left side as unknown:
// [RULE, …]. Their events want a partner too, but for lack of one the verdict is
// only "unknown", one finding a tenant and day.
//
// The defaults are learning 7d (baseline 3d), forget 90d, min_volume 20,
// min_buckets 48, factor 4, deviations 6, floor 0, before 1m and hold 2h.
package rule

import (
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// Logsource is a Sigma logsource. Product "vedette" means that the rule's fields
// are the OCSF attributes of the normalised event; any other, that they are
// dotted paths in the provider's own record.
type Logsource struct {
	Product, Category, Service string
}

// Rule is one document of a rule file: a detection or a correlation.
type Rule struct {
	ID          string // UUID
	Name        string // by which correlations may refer to it
	Title       string
	Status      string
	Description string
	Author      string
	License     string
	References  []string
	Tags        []string
	FalsePos    []string
	Level       detect.Level
	Logsource   Logsource

	File string // as loaded, for messages
	Line int    // of the document's first line in File

	// Version identifies the meaning: a hash of id, detection and correlation, and
	// for a correlation of those it refers to. Titles and texts are not part of it.
	Version string
	// Silent is true for a rule that only feeds correlations without generate.
	Silent bool

	Detection   *Detection   // nil for a correlation
	Correlation *Correlation // what may fire; nil for a detection that is silent or inactive

	// Inactive says why the rule cannot fire here; empty if it can.
	Inactive string
}

// Correlates reports whether r is a correlation, so that what refers to it refers to
// what it finds: a chain.
func (r *Rule) Correlates() bool {
	return r.Detection == nil && r.Correlation != nil && !r.Correlation.Implicit
}

// Depth is how many correlations stand below r: 0 if it refers to detections only,
// otherwise one more than the greatest depth of those that it refers to.
func (r *Rule) Depth() int {
	depth := 0
	if r.Correlation != nil {
		for _, in := range r.Correlation.Rules {
			if in.Correlates() {
				depth = max(depth, 1+in.Depth())
			}
		}
	}
	return depth
}

// CorrelationType is Sigma's correlation type, or one of ours.
type CorrelationType string

// The correlation types.
const (
	EventCount      CorrelationType = "event_count"
	ValueCount      CorrelationType = "value_count"
	ValueSum        CorrelationType = "value_sum"
	ValueAvg        CorrelationType = "value_avg"
	ValuePercentile CorrelationType = "value_percentile"
	Temporal        CorrelationType = "temporal"
	TemporalOrdered CorrelationType = "temporal_ordered"
	NewValue        CorrelationType = "vedette.new_value"
	Baseline        CorrelationType = "vedette.baseline"
	Unmatched       CorrelationType = "vedette.unmatched"
)

// Op compares what was counted with the condition's number.
type Op string

// The comparison operators of a correlation condition.
const (
	OpGT  Op = "gt"
	OpGTE Op = "gte"
	OpLT  Op = "lt"
	OpLTE Op = "lte"
	OpEQ  Op = "eq"
	OpNEQ Op = "neq"
)

// Correlation is the correlation part of a rule.
type Correlation struct {
	Type     CorrelationType
	Rules    []*Rule // what it refers to, resolved; for a single-event rule itself
	GroupBy  []string
	Timespan time.Duration // the window; for baseline the bucket, for unmatched the tolerance
	Op       Op
	Value    float64
	Field    string                       // the field counted, summed, learned or ranked
	Aliases  map[string]map[string]string // alias → rule name → field
	Generate bool
	// value_sum: Signed says that Field may be negative, so that a sum may shrink and
	// waits to settle; otherwise a negative number counts as 0.
	Signed bool
	// value_percentile: from 0, exclusive, to 100, by nearest rank.
	Percentile float64
	// Lateness is how late an event may come and still count as if it had come in
	// time, if that is longer than its log type's; what has to settle waits as long.
	Lateness time.Duration

	// new_value and baseline.
	Learning time.Duration // a key must have been known this long
	Forget   time.Duration // new_value: a value not seen this long is new again; baseline: a key starts anew, zero for 90 days

	// baseline. Measure is "p95" (of Field) or "ratio" (of the first rule's events
	// to the second's). A bucket fires if it holds MinVolume events and its measure
	// exceeds Factor × the median of the learned buckets, the median plus
	// Deviations × 1.4826 × their median absolute deviation, and Floor.
	Measure    string
	MinVolume  int
	MinBuckets int // learned buckets needed before it judges
	Factor     float64
	Deviations float64
	Floor      float64

	// unmatched. Rules[0] is the left side; an event of it without a partner of
	// another rule with the same join value in [t − Before, t + Timespan] fires.
	Join   map[string][]string // rule name → fields whose values join; any of them
	Before time.Duration
	Hold   time.Duration // judged unknown if the right side has not settled after this
	// Unknown names rules of the left side too, for whose events nobody has said
	// that they must have a partner: without one they are unknown, never a bypass.
	Unknown []string

	// Implicit marks the event_count ≥ 1 that a standalone detection is given.
	Implicit bool
}
