package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxShown is how much of a record a page shows.
const maxShown = 32 << 10

// viewFuncs are what the templates call. Everything from a log goes through show
// or pretty, and then through html/template's escaping.
func viewFuncs() template.FuncMap {
	return template.FuncMap{
		"show":   show,
		"pretty": pretty,
		"stamp":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
		"iso":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"ago":    ago,
		"num":    groupDigits,
		"entityURL": func(e Entity) string {
			return "/?" + url.Values{"entity": {e.Type + ":" + e.Value}, "status": {"all"}}.Encode()
		},
		"ruleURL":   func(id string) string { return "/?" + url.Values{"rule": {id}, "status": {"all"}}.Encode() },
		"webURL":    webURL,
		"short":     shortType,
		"technique": technique,
		"pairs":     pairsOf,
		"action":    func(s string) string { return strings.ReplaceAll(s, "_", " ") },
		"compact":   compact,
		"limit":     tellingFirst,
		"rest":      func(n int, es []Entity) int { return max(0, len(es)-n) },
	}
}

// show makes a value from outside fit for a line of text: what would not be
// seen, or would reorder what is around it, is spelled out.
func show(s any) string { return visible(fmt.Sprint(s), false) }

func visible(s string, lines bool) string {
	if strings.IndexFunc(s, func(r rune) bool { return hidden(r, lines) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !hidden(r, lines):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "\\u{%X}", r)
		}
	}
	return b.String()
}

// hidden reports whether a rune is a control or format character (bidi overrides
// are), a separator other than the space, or stands for bytes that are no UTF-8.
func hidden(r rune, lines bool) bool {
	if lines && (r == '\n' || r == '\t') {
		return false
	}
	return r == unicode.ReplacementChar || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp)
}

// pretty indents a record if it is JSON, and cuts it to what a page can hold. A
// log line within a CloudWatch Logs event is shown below it, as the record that it is.
func pretty(raw string) string {
	if len(raw) > maxShown {
		return visible(strings.ToValidUTF8(raw[:maxShown], "\uFFFD"), true) + "\n…"
	}
	var b bytes.Buffer
	if json.Indent(&b, []byte(raw), "", "  ") == nil {
		var event struct {
			Group   string `json:"logGroup"`
			Message string `json:"message"`
		}
		if json.Unmarshal([]byte(raw), &event) == nil && event.Group != "" && strings.HasPrefix(event.Message, "{") {
			b.WriteString("\n\n// message\n")
			if json.Indent(&b, []byte(event.Message), "", "  ") != nil {
				b.WriteString(event.Message)
			}
		}
		raw = b.String()
	}
	return visible(raw, true)
}

// compact is a JSON object on one line, without its braces; empty if it says nothing.
func compact(raw json.RawMessage) string {
	var m map[string]any
	if json.Unmarshal(raw, &m) != nil || len(m) == 0 {
		return ""
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(m) != nil {
		return ""
	}
	s := strings.TrimSpace(b.String())
	return visible(strings.NewReplacer(`":`, `": `, `,"`, `, "`).Replace(s[1:len(s)-1]), false)
}

func ago(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case d < 0:
		return "just now"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min ago"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h ago"
	}
	return strconv.Itoa(int(d.Hours()/24)) + " days ago"
}

// groupDigits writes 12345678 as 12 345 678, with narrow spaces.
func groupDigits(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// webURL passes links to the web and nothing else.
func webURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return ""
	}
	return u.String()
}

// shortType is an entity's type in a word or two.
func shortType(t string) string {
	switch t {
	case "src_endpoint.ip":
		return "address"
	case "src_endpoint.domain":
		return "service"
	case "src_endpoint.location.country":
		return "country"
	case "src_endpoint.subnet":
		return "network"
	case "actor.user.uid", "actor.user.name":
		return "principal"
	case "actor.session.uid":
		return "session"
	case "function.name", "function.uid":
		return "function"
	case "gateway.route":
		return "route"
	case "gateway.api_id":
		return "API"
	case "cloud.account.uid":
		return "account"
	case "cloud.region":
		return "region"
	case "resource.uid":
		return "resource"
	}
	return visible(t, false)
}

// technique writes a Sigma ATT&CK tag as ATT&CK does: attack.t1078.004 → T1078.004.
func technique(tag string) string {
	rest, ok := strings.CutPrefix(tag, "attack.")
	if !ok {
		return visible(tag, false)
	}
	if len(rest) > 1 && (rest[0] == 't' || rest[0] == 'g' || rest[0] == 's') && rest[1] >= '0' && rest[1] <= '9' {
		return visible(strings.ToUpper(rest), false)
	}
	return visible(strings.NewReplacer("_", " ", "-", " ").Replace(rest), false)
}

// tellingFirst returns at most n entities, without what says little of any one
// incident (account and region) as long as there is something else.
func tellingFirst(n int, es []Entity) []Entity {
	es = slices.Clone(es)
	slices.SortStableFunc(es, func(a, b Entity) int { return rank(a) - rank(b) })
	return es[:min(n, len(es))]
}

func rank(e Entity) int {
	switch e.Type {
	case "cloud.account.uid", "actor.user.account.uid", "cloud.region":
		return 1
	}
	return 0
}

type pair struct{ Name, Value string }

func pairsOf(names, values []string) []pair {
	var ps []pair
	for i, v := range values {
		p := pair{"key", v}
		if i < len(names) {
			p.Name = names[i]
		}
		ps = append(ps, p)
	}
	return ps
}
