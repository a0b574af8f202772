package replay

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// MarshalJSON writes the key as an object in the order of the rule's group-by.
func (k Key) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, f := range k {
		if i > 0 {
			b = append(b, ',')
		}
		for j, s := range []string{f.Name, f.Value} {
			v, err := json.Marshal(s)
			if err != nil {
				return nil, err
			}
			if j == 1 {
				b = append(b, ':')
			}
			b = append(b, v...)
		}
	}
	return append(b, '}'), nil
}

// String writes the values that are there, for people.
func (k Key) String() string {
	var parts []string
	for _, f := range k {
		if f.Value != "" {
			parts = append(parts, f.Value)
		}
	}
	return strings.Join(parts, " · ")
}

// MarshalJSON writes the detail as the JSON object that it is.
func (f Finding) MarshalJSON() ([]byte, error) {
	type plain Finding // without this method
	detail := json.RawMessage("null")
	if json.Valid([]byte(f.Detail)) {
		detail = json.RawMessage(f.Detail)
	}
	return json.Marshal(struct {
		plain
		Detail json.RawMessage `json:"detail"`
	}{plain(f), detail})
}

// WriteJSON writes the findings for programs, one a line.
func WriteJSON(w io.Writer, findings []Finding) error {
	bw := bufio.NewWriter(w)
	enc := json.NewEncoder(bw)
	enc.SetEscapeHTML(false)
	for _, f := range findings {
		if err := enc.Encode(f); err != nil {
			return fmt.Errorf("write findings: %w", err)
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("write findings: %w", err)
	}
	return nil
}

// tableText is how much of a text a table shows, characters.
const tableText = 72

// WriteTable writes the findings for people.
func WriteTable(w io.Writer, findings []Finding) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "LEVEL\tRULE\tKEY\tCOUNT\tFIRST\tLAST\tRECORD")
	for _, f := range findings {
		at := ""
		if len(f.Records) > 0 {
			at = fmt.Sprintf("%s:%d", f.Records[0].File, f.Records[0].Line)
			if n := len(f.Records) - 1; n > 0 {
				at += fmt.Sprintf(" and %d more", n)
			}
		}
		title := f.RuleTitle
		if f.Verdict != "" {
			title += " (" + f.Verdict + ")"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", f.Level, show(title), show(f.Key.String()), f.Count,
			f.First.Format(time.RFC3339), f.Last.Format(time.RFC3339), clean(at))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write findings: %w", err)
	}
	return nil
}

// show makes text from a record or a rule fit for a terminal's table.
func show(s string) string {
	r := []rune(clean(s))
	if len(r) > tableText {
		r = append(r[:tableText-1], '…')
	}
	return string(r)
}

// clean replaces what a terminal would obey rather than show: a record's text is
// the sender's.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}

// Summary says what was read and found, in one line for people.
func (r Result) Summary() string {
	var dead int64
	var why []string
	for _, reason := range slices.Sorted(maps.Keys(r.DeadLettered)) {
		n := r.DeadLettered[reason]
		dead += n
		why = append(why, fmt.Sprintf("%d %s", n, phrase(reason)))
	}
	s := fmt.Sprintf("%d records read from %d files, %d decoded, %d dead-lettered", r.Read, r.Files, r.Decoded, dead)
	if len(why) > 0 {
		s += " (" + strings.Join(why, ", ") + ")"
	}
	return s + fmt.Sprintf(", %d findings", len(r.Findings))
}

// phrase says a dead letter's reason to people; the word is what metrics carry.
func phrase(reason string) string {
	if p, ok := map[string]string{
		"type":         "of no known log type",
		"missing":      "without what their log type must have",
		"time":         "without a readable time",
		"duplicate":    "with a key given twice",
		"utf8":         "not UTF-8",
		"syntax":       "not JSON",
		"truncated":    "cut off",
		"trailing":     "with more behind the JSON",
		"depth":        "nested too deeply",
		"size":         "too long",
		"control":      "with raw control characters",
		"escape":       "with broken escapes",
		"number":       "with broken numbers",
		"empty":        "empty",
		"unsplittable": "that cannot be split off",
	}[reason]; ok {
		return p
	}
	return reason
}
