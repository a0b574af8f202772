package api

import (
	"encoding/json"
	"fmt"
	"strings"
)

// explain adds to an incident what is not stored: why it was opened, and what the
// records say in OCSF's terms.
func (s *Server) explain(d *IncidentDetail) {
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
		// an error here only means that an older decoder took it: the record stays.
		if b, err := s.o.OCSF(e.LogType, []byte(e.Raw)); err == nil && json.Valid(b) {
			e.Event = b
		}
	}
}

// explainIncident starts from the finding that opened it.
func explainIncident(d *IncidentDetail) string {
	if d.MergedInto != "" {
		return "This incident turned out to be part of another, which has its findings now."
	}
	if len(d.Findings) == 0 {
		return ""
	}
	first := &d.Findings[0]
	s := fmt.Sprintf("Opened by “%s”: %s", first.RuleTitle, first.Explanation)
	rules := map[string]bool{}
	for _, f := range d.Findings {
		rules[f.RuleID] = true
	}
	switch more := d.FindingsTotal - 1; {
	case more == 1:
		s += " One more finding belongs to it"
	case more > 1:
		s += fmt.Sprintf(" %d more findings belong to it", more)
	default:
		return s
	}
	n := max(len(rules), len(d.RuleIDs))
	if n > 1 {
		s += fmt.Sprintf(", %d rules in all", n)
	}
	if d.Keys > int64(n) {
		s += fmt.Sprintf(", %d keys in all", d.Keys)
	}
	return strings.TrimSuffix(s, ".") + "."
}
