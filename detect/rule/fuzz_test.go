package rule_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/detect/rule"
)

// FuzzRuleFile wants every file either refused with a place, or loaded into a
// set that loads again to the same meaning.
func FuzzRuleFile(f *testing.F) {
	for _, s := range []string{
		detection("s: {a|contains|all: [x, 'y*'], b|re|i: 'a+', c: null}\nt: [word, {d|cidr: 10.0.0.0/8}]\ncondition: s and not 1 of t*"),
		correlate("type: event_count\nrules: [a]\ngroup-by: [src_endpoint.ip]\ntimespan: 5m\ncondition: {gte: 60}"),
		correlate("type: vedette.unmatched\nrules: [a, b]\ntimespan: 5m\nvedette: {join: {a: [trace.uid], b: [trace.uid]}}"),
		correlate("type: vedette.baseline\nrules: [a]\ntimespan: 5m\nvedette: {measure: p95, field: duration}"),
		"a: &x [*x]", "? {a: b}\n: c", "<<: {a: b}", "title: !!binary aGk=\n", "--- |\n text\n...\n---\n",
	} {
		f.Add([]byte(s))
	}
	files, err := filepath.Glob(filepath.Join(shared, "*", "*.yml"))
	if err != nil {
		f.Fatal(err)
	}
	for i, name := range files {
		if content, err := os.ReadFile(name); err == nil && i%20 == 0 {
			f.Add(content)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		set, _, err := rule.FromSources(map[string][]byte{"rule.yml": content})
		if err != nil {
			checkPlaces(t, err)
			return
		}
		again, _, err := rule.FromSources(set.Sources())
		if err != nil {
			t.Fatalf("refused the second time: %v", err)
		}
		for i, r := range set.Rules {
			if again.Rules[i].Version != r.Version || set.ByVersion(r.Version) == nil || r.Summary() == "" {
				t.Errorf("%s: version %q, then %q", r.Title, r.Version, again.Rules[i].Version)
			}
		}
	})
}

// checkPlaces wants file and line in every error.
func checkPlaces(t *testing.T, err error) {
	t.Helper()
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("not a list of refusals: %v", err)
	}
	for _, err := range list.Unwrap() {
		var e *rule.Error
		if !errors.As(err, &e) || e.File != "rule.yml" || e.Line < 1 || e.Msg == "" {
			t.Errorf("refused without a place: %v", err)
		}
	}
}

// FuzzCondition compares what a condition means with the truth of its
// selections: each parsed condition is evaluated for all of their values.
func FuzzCondition(f *testing.F) {
	for _, s := range []string{
		"a", "a and b", "a or b and not c", "(a or b) and not (c or _d)", "1 of them", "all of them", "any of a*", "not not a", "a and", "((a)", "1 of z*", "ALL OF *",
	} {
		f.Add(s)
	}
	names := []string{"a", "ab", "b", "c", "_d"}
	section := ""
	for _, n := range names {
		section += n + ": {" + n + ": x}\n"
	}
	f.Fuzz(func(t *testing.T, condition string) {
		if strings.ContainsAny(condition, "'\n\r\x00") {
			return
		}
		set, _, err := parse(detection(section + "condition: '" + condition + "'"))
		if err != nil {
			checkPlaces(t, err)
			return
		}
		root := set.Detections[0].Detection.Condition
		for bits := range 1 << len(names) {
			truth := map[string]bool{}
			for i, n := range names {
				truth[n] = bits&(1<<i) != 0
			}
			e := evaluator{tokens: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(condition)), names: names, truth: truth}
			if got, want := holds(root, truth), e.or(); got != want {
				t.Fatalf("%q with %v: %v, want %v", condition, truth, got, want)
			}
		}
	})
}

func holds(n *rule.Node, truth map[string]bool) bool {
	switch n.Op {
	case rule.OpTest:
		return truth[n.Test.Field]
	case rule.OpNot:
		return !holds(n.Kids[0], truth)
	}
	for _, k := range n.Kids {
		if holds(k, truth) != (n.Op == rule.OpAnd) {
			return n.Op == rule.OpOr
		}
	}
	return n.Op == rule.OpAnd
}

// evaluator reads an accepted condition and computes its value on the way.
type evaluator struct {
	tokens []string
	names  []string
	truth  map[string]bool
}

func (e *evaluator) take() string {
	t := e.tokens[0]
	e.tokens = e.tokens[1:]
	return t
}

func (e *evaluator) at(word string) bool {
	return len(e.tokens) > 0 && strings.EqualFold(e.tokens[0], word)
}

func (e *evaluator) or() bool {
	v := e.and()
	for e.at("or") {
		e.take()
		w := e.and()
		v = v || w
	}
	return v
}

func (e *evaluator) and() bool {
	v := e.unary()
	for e.at("and") {
		e.take()
		w := e.unary()
		v = v && w
	}
	return v
}

func (e *evaluator) unary() bool {
	t := e.take()
	switch {
	case strings.EqualFold(t, "not"):
		return !e.unary()
	case t == "(":
		v := e.or()
		e.take()
		return v
	case e.at("of"):
		e.take()
		pattern := e.take()
		n, of := 0, 0
		for _, name := range e.names {
			in, _ := filepath.Match(pattern, name)
			if strings.EqualFold(pattern, "them") {
				in = !strings.HasPrefix(name, "_")
			}
			if in {
				of++
				if e.truth[name] {
					n++
				}
			}
		}
		return n > 0 && (n == of || !strings.EqualFold(t, "all"))
	}
	return e.truth[t]
}
