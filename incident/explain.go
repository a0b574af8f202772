package incident

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// detail is what correlate says about a finding's peak: the members of all
// correlation types together, of which each writes its own.
type detail struct {
	// Windows.
	Count     *float64 `json:"count"`
	Distinct  *float64 `json:"distinct"`
	Rules     *float64 `json:"rules"`
	Sum       *float64 `json:"sum"`
	Average   *float64 `json:"average"`
	AtRank    *float64 `json:"at_percentile"`
	Rank      float64  `json:"percentile"`
	Op        string   `json:"op"`
	Threshold float64  `json:"threshold"`
	Window    string   `json:"window"`
	Estimated bool     `json:"estimated"`
	Folded    bool     `json:"folded"`
	Field     string   `json:"field"` // also of new_value and baseline

	// new_value: Value is a string there, a number in baseline.
	Value     json.RawMessage `json:"value"`
	Known     []string        `json:"known"`
	KnownMore int             `json:"known_more"`
	Days      float64         `json:"learned_days"`

	// baseline.
	Measure string  `json:"measure"`
	Median  float64 `json:"median"`
	Buckets int     `json:"buckets"`
	Volume  int     `json:"volume"`
	Bucket  string  `json:"bucket"`
	Size    string  `json:"size"`

	// unmatched.
	Partners *float64 `json:"partners"`
	Before   string   `json:"before"`
	After    string   `json:"after"`
	Reason   string   `json:"reason"`
	Examples []string `json:"examples"`
}

// Explain says in plain sentences why a finding fired: what was seen, about whom,
// and what it takes. It never fails: what it cannot read it leaves out.
func Explain(f detect.Finding, r Rule) string {
	es, err := Entities(r, f)
	if err != nil {
		es = nil
	}
	about := phrase(es)
	var d detail
	if f.Detail != "" && json.Unmarshal([]byte(f.Detail), &d) != nil {
		d = detail{}
	}
	var s string
	switch {
	case d.Partners != nil:
		s = explainUnmatched(f, d, about)
	case d.Measure != "":
		s = explainBaseline(d, about)
	case d.Field != "" && len(d.Value) > 0:
		s = explainNewValue(d, about)
	case d.Distinct != nil:
		s = number(*d.Distinct) + " different values of " + fallback(d.Field, "the field counted") + " in " + duration(d.Window) + about + threshold(d)
	case d.Sum != nil:
		s = d.Field + " adds up to " + number(*d.Sum) + " in " + duration(d.Window) + about + threshold(d)
	case d.Average != nil:
		s = d.Field + " is " + number(*d.Average) + " on average in " + duration(d.Window) + about + threshold(d)
	case d.AtRank != nil:
		s = number(d.Rank) + " % of events have a " + d.Field + " of " + number(*d.AtRank) + " or less in " + duration(d.Window) + about + threshold(d)
	case d.Rules != nil:
		s = "events of " + number(*d.Rules) + " rules within " + duration(d.Window) + about
	case d.Count != nil && (d.Threshold > 1 || d.Op != ""):
		s = events(*d.Count) + " in " + duration(d.Window) + about + threshold(d)
	default:
		s = events(float64(f.Count)) + about
	}
	if (d.Count != nil || d.Distinct != nil) && float64(f.Count) > value(d.Count) && d.Threshold > 1 {
		s += "; " + events(float64(f.Count)) + " in all"
	}
	if d.Estimated {
		s += "; too many to count exactly, the number is an estimate"
	}
	if d.Folded {
		s += "; too many different keys to keep apart, these are the rest of them together"
	}
	switch {
	case f.Late == 1 && f.Count == 1:
		s += "; the event came late"
	case f.Late > 0:
		s += "; " + number(float64(f.Late)) + " of the events came late and may count apart from others of their time"
	}
	s += ", " + span(f.First, f.Last) + "."
	if r.Summary != "" {
		s += " The rule fires on " + strings.TrimSuffix(r.Summary, ".") + "."
	}
	if c := s[0]; 'a' <= c && c <= 'z' {
		s = string(c-'a'+'A') + s[1:]
	}
	return s
}

func explainUnmatched(f detect.Finding, d detail, about string) string {
	n := events(float64(f.Count)) + about
	if f.Verdict != VerdictUnknown {
		return n + " without the record that should go with each of them, from " + duration(d.Before) + " before to " + duration(d.After) + " after it"
	}
	switch d.Reason {
	case "stale":
		return n + " could not be judged: the log that would show their counterpart has nothing as new"
	case "no inventory":
		n += " could not be judged: the function inventory does not say how the functions may be called"
		if len(d.Examples) > 0 {
			n += ", such as " + strings.Join(d.Examples, ", ")
		}
		return n
	case "unsettled":
		return n + " could not be judged: the log that would show their counterpart did not arrive in time"
	}
	return n + " could not be judged: the log that would show their counterpart is missing"
}

func explainBaseline(d detail, about string) string {
	v, err := strconv.ParseFloat(string(d.Value), 64)
	if err != nil {
		v = 0
	}
	show := number
	if d.Measure == "ratio" {
		show = percent
	}
	s := d.Measure
	if d.Field != "" {
		s += " of " + d.Field
	}
	if d.Field == "duration" {
		show = func(v float64) string { return number(v) + " ms" }
	}
	s += about + ": " + show(v)
	if ratio := v / d.Median; d.Median > 0 && ratio >= 1.05 && !math.IsInf(ratio, 0) {
		s += ", " + number(round(ratio)) + " times the learned median of " + show(d.Median)
	} else {
		s += " against a learned median of " + show(d.Median)
	}
	s += " (over " + number(float64(d.Volume)) + " events in " + duration(d.Size)
	if d.Buckets > 0 {
		s += "; learned from " + number(float64(d.Buckets)) + " such periods"
	}
	return s + ")"
}

func explainNewValue(d detail, about string) string {
	var v string
	if json.Unmarshal(d.Value, &v) != nil {
		v = string(d.Value)
	}
	s := strconv.Quote(clipValue(v)) + " is new as " + d.Field + about
	if len(d.Known) > 0 {
		known := make([]string, len(d.Known))
		for i, k := range d.Known {
			known[i] = clipValue(k)
		}
		s += "; known before: " + strings.Join(known, ", ")
		if d.KnownMore > 0 {
			s += " and " + number(float64(d.KnownMore)) + " more"
		}
	}
	if d.Days > 0 {
		s += ", learned over " + number(d.Days) + " days"
	}
	return s
}

// phrase says whom a finding is about: " from 198.51.100.77 by arn:…".
func phrase(es []Entity) string {
	var b strings.Builder
	for _, p := range []struct{ typ, word string }{
		{EntitySrcIP, " from "},
		{EntitySrcDomain, " from "},
		{EntityActor, " by "},
		{EntityActorName, " by "},
		{EntityFunction, " on function "},
		{EntityRoute, " on route "},
	} {
		for _, e := range es {
			if e.Type == p.typ {
				b.WriteString(p.word + clipValue(e.Value))
			}
		}
	}
	for _, e := range es {
		switch e.Type {
		case EntitySrcIP, EntitySrcDomain, EntityActor, EntityActorName, EntityFunction, EntityRoute, EntitySession, EntityAccount:
			continue
		}
		b.WriteString(", " + e.Type + " " + clipValue(e.Value))
	}
	return b.String()
}

func threshold(d detail) string {
	t := number(d.Threshold)
	switch d.Op {
	case "", "gte":
		return " (threshold " + t + ")"
	case "gt":
		return " (threshold: more than " + t + ")"
	case "lt":
		return " (threshold: fewer than " + t + ")"
	case "lte":
		return " (threshold: at most " + t + ")"
	case "eq":
		return " (threshold: exactly " + t + ")"
	case "neq":
		return " (threshold: other than " + t + ")"
	}
	return ""
}

func events(n float64) string {
	if n == 1 {
		return "1 event"
	}
	return number(n) + " events"
}

// span says when: in UTC, to the second.
func span(first, last int64) string {
	const layout = "2006-01-02 15:04:05"
	a, b := time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
	switch {
	case b.Sub(a) < time.Second:
		return "at " + a.Format(layout) + " UTC"
	case a.Format(time.DateOnly) == b.Format(time.DateOnly):
		return "from " + a.Format(layout) + " to " + b.Format(time.TimeOnly) + " UTC"
	}
	return "from " + a.Format(layout) + " to " + b.Format(layout) + " UTC"
}

// duration writes a duration without the zeros: 5m0s is 5m.
func duration(s string) string {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fallback(s, "the window")
	}
	out := d.String()
	if strings.HasSuffix(out, "m0s") {
		out = out[:len(out)-2]
	}
	if strings.HasSuffix(out, "h0m") {
		out = out[:len(out)-2]
	}
	return out
}

// number writes thousands apart and no more than three significant decimals.
func number(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) >= 1e15 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	decimals := 0
	if v != math.Trunc(v) {
		switch a := math.Abs(v); {
		case a < 0.1:
			decimals = 4
		case a < 10:
			decimals = 2
		case a < 100:
			decimals = 1
		}
	}
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	whole, frac, _ := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if frac = strings.TrimRight(frac, "0"); frac != "" {
		whole += "." + frac
	}
	return sign + whole
}

func percent(v float64) string { return number(round(v*1000)/10) + " %" }

// round keeps one decimal below ten and none above.
func round(v float64) float64 {
	if math.Abs(v) < 10 {
		return math.Round(v*10) / 10
	}
	return math.Round(v)
}

func value(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

func fallback(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// clipValue keeps a value readable within a sentence.
func clipValue(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 200 {
		return string(r[:199]) + "…"
	}
	return s
}
