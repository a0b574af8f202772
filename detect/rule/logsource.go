package rule

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/vedette-sec/vedette/event"
)

// Route says which events a log source stands for, and what its fields name.
type Route struct {
	Type  event.Type  // only records of this type; empty: of every type
	Class event.Class // only events of this class; 0: of every class
	Attrs bool        // fields are attributes of the normalised event, not paths of the record
}

// Route finds the events of a log source. The reason is not empty if there is
// no decoder for it.
func (l Logsource) Route() (r Route, reason string) {
	switch {
	case l.Product == "vedette":
		r.Attrs = true
		r.Class = classes[l.Category]
		r.Type = event.Type(l.Service)
		return r, ""
	case l.Product == "aws" && l.Service == "cloudtrail" && l.Category == "":
		return Route{Type: event.TypeCloudTrail}, ""
	}
	return r, fmt.Sprintf("log source %s is not decoded yet", l)
}

// entities are the fields by which a single-event rule's findings are told apart.
func (r Route) entities() []string {
	if r.Attrs {
		return []string{"actor.user.uid", "src_endpoint.ip", "function.name"}
	}
	return []string{"userIdentity.arn", "sourceIPAddress", "recipientAccountId"}
}

func (l Logsource) String() string {
	s := ""
	for _, p := range []struct{ key, value string }{{"product", l.Product}, {"category", l.Category}, {"service", l.Service}} {
		if p.value == "" {
			continue
		}
		if s != "" {
			s += ", "
		}
		s += p.key + " " + p.value
	}
	return s
}

// classes are the categories of product vedette.
var classes = map[string]event.Class{
	"http_activity":      event.ClassHTTPActivity,
	"api_activity":       event.ClassAPIActivity,
	"authentication":     event.ClassAuthentication,
	"datastore_activity": event.ClassDatastore,
}

// serviceNames lists the services of product vedette: the log types.
func serviceNames() string {
	var names []string
	for _, t := range event.Types() {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}

func parseLogsource(n *yaml.Node) (Logsource, error) {
	var l Logsource
	es, err := entries(n, "logsource")
	if err != nil {
		return l, err
	}
	for _, e := range es {
		var to *string
		switch e.key {
		case "product":
			to = &l.Product
		case "category":
			to = &l.Category
		case "service":
			to = &l.Service
		default: // definition and the author's own remarks
			continue
		}
		if isNull(e.value) {
			continue
		}
		if *to, err = text(e.value, "logsource: "+e.key); err != nil {
			return l, err
		}
	}
	if l == (Logsource{}) {
		return l, at(n, "logsource: want at least one of product, category and service")
	}
	if l.Product != "vedette" {
		return l, nil
	}
	if l.Category != "" && classes[l.Category] == 0 {
		return l, at(n, "logsource: product vedette has the categories http_activity, api_activity, authentication and datastore_activity, not %q", l.Category)
	}
	if l.Service != "" && !event.Type(l.Service).Known() {
		return l, at(n, "logsource: product vedette has the services %s, not %q", serviceNames(), l.Service)
	}
	return l, nil
}
