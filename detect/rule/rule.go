// Package rule reads detection rules in the community's language: Sigma
// detection rules and Sigma correlation rules
// (https://sigmahq.io/sigma-specification/), and the correlation types that
// Vedette adds under the "vedette." namespace.
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
	Correlation *Correlation // nil for a detection until Compile gives it its event_count ≥ 1
}

// CorrelationType is Sigma's correlation type, or one of ours.
type CorrelationType string

// The correlation types.
const (
	EventCount      CorrelationType = "event_count"
	ValueCount      CorrelationType = "value_count"
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
	Field    string // value_count, new_value, baseline percentile: the field counted, learned or ranked
	Aliases  map[string]map[string]string // alias → rule name → field
	Generate bool

	// new_value and baseline.
	Learning time.Duration // a key must have been known this long
	Forget   time.Duration // new_value: a value not seen this long is new again

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
}

// Detection is the detection section of a rule, parsed.
type Detection struct{}
