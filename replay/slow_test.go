package replay_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// The slow evaluator: rules as YAML decodes them, records as encoding/json
// decodes them, every rule on every record. It knows what the rules it is used on
// use, and fails on anything else. It shares no code with the engine.

type slowRule struct {
	id, title   string
	detection   map[string]any
	correlation map[string]any
	silent      bool
}

type slowEvent struct {
	doc  map[string]any
	time time.Time
	id   string
	file string
	line int64
}

func (e *slowEvent) place() string { return fmt.Sprintf("%s:%d", filepath.Base(e.file), e.line) }

func slowRules(t testing.TB, dirs ...string) []*slowRule {
	t.Helper()
	var rules []*slowRule
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.yml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no rules in %s: %v", dir, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, doc := range strings.Split("\n"+string(b), "\n---") {
				var v struct {
					ID, Title              string
					Detection, Correlation map[string]any
				}
				if err := yaml.Unmarshal([]byte(doc), &v); err != nil {
					t.Fatalf("%s: %v", f, err)
				}
				if v.ID != "" {
					rules = append(rules, &slowRule{id: v.ID, title: v.Title, detection: v.Detection, correlation: v.Correlation})
				}
			}
		}
	}
	for _, r := range rules {
		for _, ref := range r.refs(rules) {
			ref.silent = ref.silent || r.correlation["generate"] != true
		}
	}
	return rules
}

func (r *slowRule) refs(rules []*slowRule) []*slowRule {
	var refs []*slowRule
	names, _ := r.correlation["rules"].([]any)
	for _, n := range names {
		for _, o := range rules {
			if o.title == n || o.id == n {
				refs = append(refs, o)
			}
		}
	}
	return refs
}

func slowRecords(t testing.TB, files []string) []*slowEvent {
	t.Helper()
	var events []*slowEvent
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		line := int64(0)
		for s := bufio.NewReader(bytes.NewReader(text)); ; {
			l, err := s.ReadString('\n')
			if strings.TrimSpace(l) != "" {
				line++
				e := &slowEvent{file: f, line: line}
				if err := json.Unmarshal([]byte(l), &e.doc); err != nil {
					t.Fatalf("%s:%d: %v", f, line, err)
				}
				at, _ := e.doc["eventTime"].(string)
				if at == "" {
					at, _ = e.doc["@timestamp"].(string)
				}
				if e.time, err = time.Parse(time.RFC3339, at); err != nil {
					t.Fatalf("%s:%d: %v", f, line, err)
				}
				e.id, _ = e.doc["eventID"].(string)
				if e.id == "" {
					t.Fatalf("%s:%d: no eventID", f, line)
				}
				events = append(events, e)
			}
			if err != nil {
				break
			}
		}
	}
	return events
}

// values are the texts at a dotted path, arrays fanned out; null is no value.
func values(v any, dotted []string) []string {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, values(e, dotted)...)
		}
		return all
	case map[string]any:
		if len(dotted) > 0 {
			return values(v[dotted[0]], dotted[1:])
		}
		b, _ := json.Marshal(v)
		return []string{string(b)}
	}
	if len(dotted) > 0 {
		return nil
	}
	return []string{fmt.Sprint(v)}
}

func (e *slowEvent) values(field string) []string { return values(e.doc, strings.Split(field, ".")) }

func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

// like compares as Sigma does: without case, * and ? are wildcards.
func like(pattern, s string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return strings.EqualFold(pattern, s)
	}
	esc := strings.NewReplacer(`[`, `\[`, `]`, `\]`)
	// path.Match stops at slashes.
	ok, err := path.Match(esc.Replace(strings.ReplaceAll(strings.ToLower(pattern), "/", "\x00")), strings.ReplaceAll(strings.ToLower(s), "/", "\x00"))
	return err == nil && ok
}

func (e *slowEvent) field(t testing.TB, key string, want any) bool {
	name, mods, _ := strings.Cut(key, "|")
	got := e.values(name)
	match := func(w any) bool {
		if w == nil {
			return len(got) == 0
		}
		p := fmt.Sprint(w)
		if strings.HasPrefix(mods, "contains") {
			p = "*" + p + "*"
		}
		return slices.ContainsFunc(got, func(s string) bool { return like(p, s) })
	}
	switch mods {
	case "", "contains":
		return slices.ContainsFunc(list(want), match)
	case "contains|all":
		return !slices.ContainsFunc(list(want), func(w any) bool { return !match(w) })
	case "exists":
		return (len(got) > 0) == want.(bool)
	case "fieldref":
		other := e.values(want.(string))
		return slices.ContainsFunc(got, func(s string) bool {
			return slices.ContainsFunc(other, func(o string) bool { return strings.EqualFold(s, o) })
		})
	}
	t.Fatalf("the slow evaluator knows no %q", key)
	return false
}

func (e *slowEvent) selection(t testing.TB, sel any) bool {
	if l, ok := sel.([]any); ok {
		return slices.ContainsFunc(l, func(s any) bool { return e.selection(t, s) })
	}
	for k, v := range sel.(map[string]any) {
		if !e.field(t, k, v) {
			return false
		}
	}
	return true
}

// matches evaluates the condition: or binds least, then and, then not.
func (e *slowEvent) matches(t testing.TB, r *slowRule) bool {
	tokens := strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(fmt.Sprint(r.detection["condition"])))
	pos := 0
	next := func() string {
		if pos == len(tokens) {
			return ""
		}
		pos++
		return tokens[pos-1]
	}
	peek := func(s string) bool { return pos < len(tokens) && strings.EqualFold(tokens[pos], s) }
	var or func() bool
	term := func() bool {
		tok := next()
		switch {
		case tok == "(":
			v := or()
			if next() != ")" {
				t.Fatalf("condition %v", tokens)
			}
			return v
		case tok == "1" || tok == "all":
			if !strings.EqualFold(next(), "of") {
				t.Fatalf("condition %v", tokens)
			}
			pattern := next()
			any, all := false, true
			for name, sel := range r.detection {
				if name != "condition" && like(pattern, name) {
					v := e.selection(t, sel)
					any, all = any || v, all && v
				}
			}
			return tok == "1" && any || tok == "all" && all
		}
		sel, ok := r.detection[tok]
		if !ok {
			t.Fatalf("condition %v: %q", tokens, tok)
		}
		return e.selection(t, sel)
	}
	not := func() bool {
		if peek("not") {
			next()
			return !term()
		}
		return term()
	}
	and := func() bool {
		v := not()
		for peek("and") {
			next()
			w := not()
			v = v && w
		}
		return v
	}
	or = func() bool {
		v := and()
		for peek("or") {
			next()
			w := and()
			v = v || w
		}
		return v
	}
	v := or()
	if pos != len(tokens) {
		t.Fatalf("condition %v: left %v", tokens, tokens[pos:])
	}
	return v
}

// slowHit is an event of one of a correlation's rules.
type slowHit struct {
	*slowEvent
	ref int
}

// slowWindows returns the events in windows that meet the condition: every window
// of sixty panes, at every pane, is looked at.
func slowWindows(t testing.TB, r *slowRule, rules []*slowRule, events []*slowEvent) map[string]*slowEvent {
	t.Helper()
	span, err := time.ParseDuration(r.correlation["timespan"].(string))
	if err != nil {
		t.Fatal(err)
	}
	pane := int64(max(span/60, time.Second))
	panes := int64(span) / pane
	keys := map[string][]slowHit{}
	for _, e := range events {
		for ref, d := range r.refs(rules) {
			if !e.matches(t, d) {
				continue
			}
			key := ""
			for _, g := range list(r.correlation["group-by"]) {
				vs := e.values(g.(string))
				if len(vs) == 0 {
					key = "-"
					break
				}
				key += vs[0] + "|"
			}
			if key != "-" {
				keys[key] = append(keys[key], slowHit{e, ref})
			}
		}
	}
	hot := map[string]*slowEvent{}
	for _, hits := range keys {
		slices.SortStableFunc(hits, func(a, b slowHit) int { return a.time.Compare(b.time) })
		for _, h := range hits {
			at := h.time.UnixNano() / pane
			for from := at - panes + 1; from <= at; from++ {
				var in []slowHit
				for _, o := range hits {
					if p := o.time.UnixNano() / pane; p >= from && p < from+panes {
						in = append(in, o)
					}
				}
				if meets(t, r, in) {
					hot[h.id] = h.slowEvent
					break
				}
			}
		}
	}
	return hot
}

func meets(t testing.TB, r *slowRule, in []slowHit) bool {
	ids := map[string]bool{}
	for _, h := range in {
		ids[h.id] = true
	}
	switch r.correlation["type"] {
	case "event_count":
		c := r.correlation["condition"].(map[string]any)
		return len(ids) >= c["gte"].(int)
	case "temporal_ordered":
		want := 0
		for _, h := range in {
			if h.ref == want {
				want++
			}
		}
		return want == len(r.correlation["rules"].([]any))
	}
	t.Fatalf("the slow evaluator knows no %v", r.correlation["type"])
	return false
}

// slow evaluates all rules that may fire: rule id → id of event → event.
func slow(t testing.TB, rules []*slowRule, events []*slowEvent) map[string]map[string]*slowEvent {
	t.Helper()
	found := map[string]map[string]*slowEvent{}
	for _, r := range rules {
		if r.silent {
			continue
		}
		hits := map[string]*slowEvent{}
		if r.correlation != nil {
			hits = slowWindows(t, r, rules, events)
		} else {
			for _, e := range events {
				if e.matches(t, r) {
					hits[e.id] = e
				}
			}
		}
		if len(hits) > 0 {
			found[r.id] = hits
		}
	}
	return found
}
