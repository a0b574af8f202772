package api

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// explain adds to an incident what is not stored: why it was opened, why each
// finding fired, and what the records say in OCSF's terms.
func (s *Server) explain(d *IncidentDetail) {
	for i := range d.Findings {
		d.Findings[i].Explanation = explainFinding(&d.Findings[i])
	}
	d.Explanation = explainIncident(d)
	if s.o.OCSF == nil {
		return
	}
	for i := range d.Evidence {
		e := &d.Evidence[i]
		if e.State != "copied" || e.Truncated {
			continue
		}
		// What match could not decode is on the dead letter topic and no evidence, so
		// an error here only means an older decoder took it: the raw record stays.
		if b, err := s.o.OCSF(e.LogType, []byte(e.Raw)); err == nil && json.Valid(b) {
			e.Event = b
		}
	}
}

// explainFinding says in one or two sentences what was seen and what it takes.
func explainFinding(f *Finding) string {
	var b strings.Builder
	b.WriteString(events(f.Count))
	if names := pairs(f.Fields, f.Key); names != "" {
		b.WriteString(" with " + names)
	}
	b.WriteString(" " + span(f.FirstTime, f.LastTime))
	if f.Peak != 0 && f.Peak != float64(f.Count) {
		b.WriteString("; the greatest value measured was " + number(f.Peak))
	}
	b.WriteString(".")
	if f.Summary != "" {
		b.WriteString(" The rule fires on: " + strings.TrimSuffix(f.Summary, ".") + ".")
	}
	switch f.Verdict {
	case "bypass":
		b.WriteString(" What should have accompanied them was not there although its log was complete.")
	case "unknown":
		b.WriteString(" Whether something accompanied them cannot be said: the log that would show it was not complete.")
	case "gap":
		b.WriteString(" Part of the log is missing.")
	}
	return b.String()
}

// explainIncident starts from the finding that opened it.
func explainIncident(d *IncidentDetail) string {
	var b strings.Builder
	if d.MergedInto != "" {
		b.WriteString("This incident turned out to be part of another, which has its findings now.")
		return b.String()
	}
	if len(d.Findings) == 0 {
		return ""
	}
	first := &d.Findings[0]
	fmt.Fprintf(&b, "Opened by “%s”: %s", first.RuleTitle, first.Explanation)
	if more := d.FindingsTotal - 1; more > 0 {
		rules := ""
		if n := len(d.RuleIDs); n > 1 {
			rules = fmt.Sprintf(" of %d rules", n)
		}
		fmt.Fprintf(&b, " %d more %s%s belong to it because they share its entities.", more, plural(more, "finding", "findings"), rules)
		if more == 1 {
			return strings.Replace(b.String(), "belong to it because they share", "belongs to it because it shares", 1)
		}
	}
	return b.String()
}

func events(n int64) string { return strconv.FormatInt(n, 10) + " " + plural(n, "event", "events") }

func plural(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// pairs writes "a = 1, b = 2".
func pairs(names, values []string) string {
	var out []string
	for i, v := range values {
		name := "key"
		if i < len(names) {
			name = names[i]
		}
		out = append(out, name+" = "+v)
	}
	return strings.Join(out, ", ")
}

func span(from, to time.Time) string {
	const day, clock = "2006-01-02", "15:04:05"
	from, to = from.UTC(), to.UTC()
	switch {
	case from.Truncate(time.Second).Equal(to.Truncate(time.Second)):
		return "at " + from.Format(day+" "+clock) + " UTC"
	case from.Format(day) == to.Format(day):
		return "on " + from.Format(day) + " from " + from.Format(clock) + " to " + to.Format(clock) + " UTC"
	}
	return "from " + from.Format(day+" "+clock) + " to " + to.Format(day+" "+clock) + " UTC"
}

// number writes a measure with the digits that mean something.
func number(v float64) string {
	if v == float64(int64(v)) {
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
