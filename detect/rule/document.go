package rule

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/vedette-sec/vedette/detect"
)

// document is one parsed YAML document of a rule file.
type document struct {
	rule *Rule
	refs []reference // of a correlation, to be resolved
	line int         // of its detection or correlation section
	warn []string
}

// parseFile reads the documents of one file. A document that is refused is in
// the errors, the others are returned all the same.
func parseFile(name string, content []byte) ([]*document, []error) {
	roots, err := documents(content)
	if err != nil {
		return nil, []error{inFile(name, err)}
	}
	if len(roots) == 0 {
		return nil, []error{&Error{File: name, Line: 1, Msg: "want a rule, the file holds none"}}
	}
	var docs []*document
	var errs []error
	for _, root := range roots {
		d, err := parseDocument(root)
		if err != nil {
			errs = append(errs, inFile(name, err))
			continue
		}
		d.rule.File = name
		docs = append(docs, d)
	}
	return docs, errs
}

// inFile completes an error with the file's name.
func inFile(name string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		e.File = name
		return e
	}
	return err
}

// statuses of Sigma.
const statusUnsupported = "unsupported"

func parseDocument(n *yaml.Node) (*document, error) {
	es, err := entries(n, "rule")
	if err != nil {
		return nil, err
	}
	r := &Rule{Line: n.Line}
	d := &document{rule: r}
	var detection, correlation, logsource *yaml.Node
	for _, e := range es {
		switch e.key {
		case "title":
			r.Title, err = text(e.value, e.key)
			r.Line = e.line
		case "id":
			r.ID, err = text(e.value, e.key)
		case "name":
			r.Name, err = text(e.value, e.key)
		case "status":
			r.Status, err = optional(e.value, e.key)
		case "description":
			r.Description, err = optional(e.value, e.key)
		case "author":
			r.Author, err = authors(e.value)
		case "license":
			r.License, err = optional(e.value, e.key)
		case "references":
			r.References, err = texts(e.value, e.key)
		case "tags":
			r.Tags, err = texts(e.value, e.key)
		case "falsepositives":
			r.FalsePos, err = texts(e.value, e.key)
		case "level":
			r.Level, err = level(e.value)
		case "taxonomy":
			var t string
			if t, err = text(e.value, e.key); err == nil && t != "sigma" {
				err = at(e.value, "taxonomy: %q is not supported; want sigma, or none", t)
			}
		case "logsource":
			logsource = e.value
		case "detection":
			detection, d.line = e.value, e.line
		case "correlation":
			correlation, d.line = e.value, e.line
		case "filter":
			err = atLine(e.line, "filter: Sigma filters are not supported yet; put the exception into the rule's condition")
		case "action":
			err = atLine(e.line, "action: collections of old rules (action: global, reset, repeat) are not supported; write each rule out")
		}
		if err != nil {
			return nil, err
		}
	}
	r.Line = min(r.Line, n.Line)
	if r.Title == "" {
		return nil, at(n, "rule: want a title")
	}
	if !has(es, "level") {
		r.Level = detect.LevelMedium
	}
	if r.ID == "" {
		// Findings need an identity that stays; without an id it is the title's.
		sum := sha256.Sum256([]byte("title\x00" + r.Title))
		r.ID = "title-" + hex.EncodeToString(sum[:16])
	}
	if logsource != nil {
		if r.Logsource, err = parseLogsource(logsource); err != nil {
			return nil, err
		}
	}
	switch {
	case detection != nil && correlation != nil:
		return nil, at(n, "rule %q: want detection or correlation, it has both", r.Title)
	case correlation != nil:
		r.Correlation, d.refs, err = parseCorrelation(correlation)
		return d, err
	case detection == nil:
		return nil, at(n, "rule %q: want a detection or a correlation", r.Title)
	case logsource == nil:
		return nil, at(n, "rule %q: want a logsource", r.Title)
	}
	route, _ := r.Logsource.Route()
	var unused []string
	r.Detection, unused, err = parseDetection(detection, route.Attrs)
	if err != nil {
		return nil, err
	}
	if len(unused) > 0 {
		d.warn = append(d.warn, "the condition does not use "+strings.Join(unused, ", "))
	}
	return d, nil
}

func has(es []entry, key string) bool {
	for _, e := range es {
		if e.key == key {
			return true
		}
	}
	return false
}

// optional reads a text that may be left empty.
func optional(n *yaml.Node, what string) (string, error) {
	if isNull(n) {
		return "", nil
	}
	return text(n, what)
}

// authors reads a text or a list of them.
func authors(n *yaml.Node) (string, error) {
	as, err := texts(n, "author")
	return strings.Join(as, ", "), err
}

func level(n *yaml.Node) (detect.Level, error) {
	s, err := optional(n, "level")
	if err != nil {
		return 0, err
	}
	l, err := detect.ParseLevel(s)
	if err != nil {
		return 0, at(n, "%v", err)
	}
	return l, nil
}
