package match_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// The reference evaluates Sigma rules the slow and obvious way: the rule file as
// YAML gives it, the record as encoding/json gives it, one rule after the other.
// It shares no code with what it checks.

type refRule struct {
	id    string
	holds func(doc any) bool
}

// member and object keep a record's keys in their order, as its text has them.
type member struct {
	key   string
	value any
}

type object []member

// decodeOrdered decodes JSON into nil, bool, json.Number, string, []any and object.
func decodeOrdered(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := orderedValue(dec)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("trailing data")
	}
	return v, nil
}

func orderedValue(dec *json.Decoder) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		o := object{}
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := orderedValue(dec)
			if err != nil {
				return nil, err
			}
			o = append(o, member{k.(string), v})
		}
		_, err = dec.Token()
		return o, err
	case json.Delim('['):
		a := []any{}
		for dec.More() {
			v, err := orderedValue(dec)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err = dec.Token()
		return a, err
	}
	return t, nil
}

// decodeMap decodes JSON the way everybody does, numbers as float64. That is wrong
// about the text of some numbers, so only the benchmark uses it.
func decodeMap(data []byte) (any, error) {
	var m map[string]any
	err := json.Unmarshal(data, &m)
	return m, err
}

// refValues are the values at a dotted path, arrays fanned out.
func refValues(dst []any, v any, path string) []any {
	if a, ok := v.([]any); ok && (path != "" || len(a) > 0) {
		for _, el := range a {
			dst = refValues(dst, el, path)
		}
		return dst
	}
	if path == "" {
		return append(dst, v)
	}
	each := func(key string, v any) {
		if key == path {
			dst = refValues(dst, v, "")
		} else if strings.HasPrefix(path, key+".") {
			dst = refValues(dst, v, path[len(key)+1:])
		}
	}
	switch o := v.(type) {
	case object:
		for _, m := range o {
			each(m.key, m.value)
		}
	case map[string]any:
		// One look-up for each way to split the path.
		for i := range len(path) + 1 {
			if i == len(path) || path[i] == '.' {
				if v, ok := o[path[:i]]; ok {
					each(path[:i], v)
				}
			}
		}
	}
	return dst
}

// refText is the text a value compares by.
func refText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	}
	var b strings.Builder
	refCompact(&b, v)
	return b.String()
}

func refCompact(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case string:
		b.WriteString(`"` + v + `"`)
	case []any:
		for i, el := range v {
			b.WriteString(map[bool]string{true: "[", false: ","}[i == 0])
			refCompact(b, el)
		}
		if len(v) == 0 {
			b.WriteByte('[')
		}
		b.WriteByte(']')
	case object:
		for i, m := range v {
			b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
			b.WriteString(`"` + m.key + `":`)
			refCompact(b, m.value)
		}
		if len(v) == 0 {
			b.WriteByte('{')
		}
		b.WriteByte('}')
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		o := object{}
		for _, k := range keys {
			o = append(o, member{k, v[k]})
		}
		refCompact(b, o)
	default:
		b.WriteString(refText(v))
	}
}

// refPart is a piece of a Sigma string: a literal, or a wildcard.
type refPart struct {
	literal  string
	wildcard byte
}

var refTokens = regexp.MustCompile(`(?s)\\[\\*?]|[*?]|.`)

func refParts(s string) []refPart {
	var parts []refPart
	for _, t := range refTokens.FindAllString(s, -1) {
		switch {
		case len(t) == 2 && t[0] == '\\':
			parts = append(parts, refPart{literal: t[1:]})
		case t == "*" || t == "?":
			parts = append(parts, refPart{wildcard: t[0]})
		default:
			parts = append(parts, refPart{literal: t})
		}
	}
	return parts
}

// refLike compiles a Sigma string to a comparison of texts.
func refLike(s, how string, cased bool) func(string) bool {
	expr := ""
	for _, p := range refParts(s) {
		switch p.wildcard {
		case '*':
			expr += ".*"
		case '?':
			expr += "."
		default:
			expr += regexp.QuoteMeta(p.literal)
		}
	}
	if how == "contains" || how == "endswith" {
		expr = ".*" + expr
	}
	if how == "contains" || how == "startswith" {
		expr += ".*"
	}
	flags := "(?is)"
	if cased {
		flags = "(?s)"
	}
	return regexp.MustCompile(flags + `\A(?:` + expr + `)\z`).MatchString
}

// plainLike is the same as one would write it for speed: it knows case as
// strings.ToLower does, which is enough for real records.
func plainLike(s, how string, cased bool) func(string) bool {
	literal := ""
	for _, p := range refParts(s) {
		if p.wildcard != 0 || cased {
			return refLike(s, how, cased)
		}
		literal += p.literal
	}
	low := strings.ToLower(literal)
	switch how {
	case "contains":
		return func(t string) bool { return strings.Contains(strings.ToLower(t), low) }
	case "startswith":
		return func(t string) bool { return strings.HasPrefix(strings.ToLower(t), low) }
	case "endswith":
		return func(t string) bool { return strings.HasSuffix(strings.ToLower(t), low) }
	}
	return func(t string) bool { return strings.EqualFold(t, literal) }
}

type likeFunc func(s, how string, cased bool) func(string) bool

// refTest compiles "field|modifiers: values" to a test of a document.
func refTest(key string, value any, like likeFunc) func(doc any) bool {
	parts := strings.Split(key, "|")
	field, mods := parts[0], parts[1:]
	has := func(m string) bool { return slices.Contains(mods, m) }
	how := ""
	for _, m := range mods {
		switch m {
		case "contains", "startswith", "endswith", "re", "cidr", "exists", "lt", "lte", "gt", "gte":
			how = m
		}
	}
	get := func(doc any) []any { return refValues(nil, doc, field) }
	if field == "" {
		how = "contains"
		get = func(doc any) []any { return []any{refText(doc)} }
	}
	present := func(vs []any) bool {
		return slices.ContainsFunc(vs, func(v any) bool { return v != nil })
	}
	values, ok := value.([]any)
	if !ok {
		values = []any{value}
	}
	var tests []func(doc any, vs []any) bool
	for _, v := range values {
		each := func(f func(v any) bool) {
			tests = append(tests, func(_ any, vs []any) bool {
				return slices.ContainsFunc(vs, func(v any) bool { return v != nil && f(v) })
			})
		}
		switch {
		case how == "exists":
			tests = append(tests, func(_ any, vs []any) bool { return present(vs) == v.(bool) })
		case v == nil:
			tests = append(tests, func(_ any, vs []any) bool { return !present(vs) })
		case has("fieldref"):
			tests = append(tests, func(doc any, vs []any) bool {
				for _, other := range refValues(nil, doc, v.(string)) {
					for _, v := range vs {
						if v != nil && other != nil && refSame(v, other, how, has("cased")) {
							return true
						}
					}
				}
				return false
			})
		case how == "re":
			flags := ""
			for _, f := range []string{"i", "m", "s"} {
				if has(f) {
					flags += "(?" + f + ")"
				}
			}
			re := regexp.MustCompile(flags + v.(string))
			each(func(v any) bool { return re.MatchString(refText(v)) })
		case how == "cidr":
			p := netip.MustParsePrefix(v.(string))
			each(func(v any) bool {
				a, err := netip.ParseAddr(refText(v))
				return err == nil && p.Contains(a.Unmap())
			})
		case how == "lt" || how == "lte" || how == "gt" || how == "gte":
			limit := refNumber(fmt.Sprint(v))
			each(func(v any) bool {
				switch v.(type) {
				case string, json.Number:
				default:
					return false
				}
				n := refNumber(refText(v))
				if n == nil {
					return false
				}
				c := n.Cmp(limit)
				return how == "lt" && c < 0 || how == "lte" && c <= 0 || how == "gt" && c > 0 || how == "gte" && c >= 0
			})
		default:
			text := fmt.Sprint(v)
			if s, ok := v.(string); ok {
				text = s
			}
			same := like(text, how, has("cased"))
			_, isString := v.(string)
			_, isBool := v.(bool)
			each(func(v any) bool {
				if n, ok := v.(json.Number); ok && how == "" && !isString && !isBool {
					return refNumber(n.String()).Cmp(refNumber(text)) == 0
				}
				return same(refText(v))
			})
		}
	}
	return func(doc any) bool {
		vs := get(doc)
		ok := false
		for i, t := range tests {
			if h := t(doc, vs); i == 0 || h != has("all") {
				ok = h
				if h != has("all") {
					break
				}
			}
		}
		return ok != has("neq")
	}
}

func refSame(a, b any, how string, cased bool) bool {
	x, isX := a.(json.Number)
	y, isY := b.(json.Number)
	if how == "" && isX && isY {
		return refNumber(x.String()).Cmp(refNumber(y.String())) == 0
	}
	escape := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`)
	return refLike(escape.Replace(refText(b)), how, cased)(refText(a))
}

var refNumberForm = regexp.MustCompile(`\A-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\z`)

func refNumber(s string) *big.Float {
	if !refNumberForm.MatchString(s) {
		return nil
	}
	f, _, err := big.ParseFloat(s, 10, 200, big.ToNearestEven)
	if err != nil {
		return nil
	}
	return f
}

// refSelection compiles a selection.
func refSelection(v any, like likeFunc) func(doc any) bool {
	switch v := v.(type) {
	case map[string]any:
		var all []func(any) bool
		for k, value := range v {
			all = append(all, refTest(k, value, like))
		}
		return func(doc any) bool {
			for _, f := range all {
				if !f(doc) {
					return false
				}
			}
			return true
		}
	case []any:
		var either []func(any) bool
		for _, el := range v {
			either = append(either, refSelection(el, like))
		}
		return func(doc any) bool {
			return slices.ContainsFunc(either, func(f func(any) bool) bool { return f(doc) })
		}
	}
	return refTest("", v, like)
}

// refCondition compiles a condition over selections.
type refCondition struct {
	tokens []string
	sel    map[string]func(any) bool
}

func (c *refCondition) peek() string {
	if len(c.tokens) == 0 {
		return ""
	}
	return c.tokens[0]
}

func (c *refCondition) next() string {
	t := c.peek()
	c.tokens = c.tokens[1:]
	return t
}

func (c *refCondition) or() func(any) bool {
	f := c.and()
	for c.peek() == "or" {
		c.next()
		a, b := f, c.and()
		f = func(doc any) bool { return a(doc) || b(doc) }
	}
	return f
}

func (c *refCondition) and() func(any) bool {
	f := c.unary()
	for c.peek() == "and" {
		c.next()
		a, b := f, c.unary()
		f = func(doc any) bool { return a(doc) && b(doc) }
	}
	return f
}

func (c *refCondition) unary() func(any) bool {
	t := c.next()
	switch {
	case t == "not":
		f := c.unary()
		return func(doc any) bool { return !f(doc) }
	case t == "(":
		f := c.or()
		c.next()
		return f
	case c.peek() == "of":
		c.next()
		pattern := c.next()
		expr := regexp.MustCompile(`\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + `\z`)
		var fs []func(any) bool
		for name, f := range c.sel {
			if pattern == "them" && name[0] != '_' || pattern != "them" && expr.MatchString(name) {
				fs = append(fs, f)
			}
		}
		return func(doc any) bool {
			n := 0
			for _, f := range fs {
				if f(doc) {
					n++
				}
			}
			return t == "all" && n == len(fs) || t != "all" && n > 0
		}
	}
	f, ok := c.sel[t]
	if !ok {
		panic("reference: no selection " + t)
	}
	return f
}

// refRules compiles the detections of a rule file; correlations are left out.
func refRules(content []byte, like likeFunc) ([]refRule, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	var rules []refRule
	for {
		var doc map[string]any
		if err := loader.Load(&doc); errors.Is(err, io.EOF) {
			return rules, nil
		} else if err != nil {
			return nil, err
		}
		detection, ok := doc["detection"].(map[string]any)
		if !ok {
			continue
		}
		c := &refCondition{sel: map[string]func(any) bool{}}
		for name, v := range detection {
			if name != "condition" {
				c.sel[name] = refSelection(v, like)
			}
		}
		condition := detection["condition"].(string)
		c.tokens = strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(condition))
		rules = append(rules, refRule{id: doc["id"].(string), holds: c.or()})
	}
}
