package enrich

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vedette-sec/vedette/event"
)

// Inventory says how functions are meant to be reached. A function that is not
// in it has entry point and callers "unknown".
type Inventory struct {
	Functions []Function
}

// Function is one function and its expected entry points.
type Function struct {
	// Name is the function's name, or its ARN without a version, which is taken
	// before the name where both are listed.
	Name string
	// Gateways are the ids of the gateway APIs that have it as an integration.
	Gateways []string
	// Authorizers are the ids of the REST APIs that have it as their authorizer:
	// their access logs name its invocations.
	Authorizers []string
	// HTTPAuthorizer marks an authorizer of HTTP APIs, whose access logs cannot
	// name its invocations: nothing is said of calls past the gateway.
	HTTPAuthorizer bool
	// Services call it through the Lambda API: "events", "scheduler", "s3" or
	// "events.amazonaws.com" …
	Services []string
	// EventSources are polled for it: "sqs", "kinesis", "dynamodb" …
	EventSources []string
	// Principals may invoke it directly: ARN of a role or user, or its name, which
	// then stands for that name in any account.
	Principals []string
}

// The values of event.AttrFunctionEntry and event.AttrFunctionCaller.
var (
	entryGateway = []byte("gateway")
	entryEvents  = []byte("event_source")
	entryDirect  = []byte("direct")
	entryHTTP    = []byte("http_authorizer")
	expected     = []byte("expected")
	unexpected   = []byte("unexpected")
	unknown      = []byte("unknown")
)

const (
	awsDomain      = ".amazonaws.com"
	gatewayService = "apigateway" + awsDomain
	lambdaService  = "lambda" + awsDomain
)

// function is a Function made ready to be asked.
type function struct {
	entry      []byte
	services   map[string]bool // domains
	principals map[string]bool // ARNs and names
}

// canonical writes the inventory so that equal ones have equal bytes.
func (inv Inventory) canonical() []byte {
	b, err := json.Marshal(inv)
	if err != nil {
		panic("enrich: marshal inventory: " + err.Error()) // strings and booleans only
	}
	return b
}

func (inv Inventory) compile() (map[string]*function, error) {
	fs := make(map[string]*function, len(inv.Functions))
	for i, f := range inv.Functions {
		if f.Name == "" {
			return nil, fmt.Errorf("function %d: want a name or an ARN", i+1)
		}
		if fs[f.Name] != nil {
			return nil, fmt.Errorf("function %s is listed twice", f.Name)
		}
		c, err := f.compile()
		if err != nil {
			return nil, fmt.Errorf("function %s: %w", f.Name, err)
		}
		fs[f.Name] = c
	}
	return fs, nil
}

func (f Function) compile() (*function, error) {
	c := &function{services: map[string]bool{}, principals: map[string]bool{}}
	gateway := len(f.Gateways)+len(f.Authorizers) > 0
	switch {
	case f.HTTPAuthorizer:
		c.entry = entryHTTP
	case len(f.Services)+len(f.EventSources) > 0:
		c.entry = entryEvents
	case gateway:
		c.entry = entryGateway // calls of principals are told by CloudTrail
	case len(f.Principals) > 0:
		c.entry = entryDirect
	default:
		return nil, fmt.Errorf("no way to reach it is named (gateways, authorizers, services, event sources, principals)")
	}
	if gateway || f.HTTPAuthorizer {
		c.services[gatewayService] = true
	}
	for _, s := range append(f.Services[:len(f.Services):len(f.Services)], f.EventSources...) {
		if s == "" {
			return nil, fmt.Errorf("an empty service is named")
		}
		if !strings.Contains(s, ".") {
			s += awsDomain
		}
		c.services[s] = true
	}
	if len(f.EventSources) > 0 { // Lambda itself polls
		c.services[lambdaService] = true
	}
	for _, p := range f.Principals {
		if p == "" {
			return nil, fmt.Errorf("an empty principal is named")
		}
		c.principals[p] = true
	}
	return c, nil
}

// enrichFunction sets what the inventory expects of the function of an event.
func (e *Enricher) enrichFunction(ev *event.Event) {
	f := e.function(ev)
	call := ev.Type == event.TypeCloudTrail && hasPrefix(ev.Attr(event.AttrAPIOperation), "Invoke")
	if f == nil {
		ev.SetAttr(event.AttrFunctionEntry, unknown)
		if call {
			ev.SetAttr(event.AttrFunctionCaller, unknown)
		}
		return
	}
	ev.SetAttr(event.AttrFunctionEntry, f.entry)
	if call {
		ev.SetAttr(event.AttrFunctionCaller, f.caller(ev))
	}
}

func (e *Enricher) function(ev *event.Event) *function {
	if len(e.functions) == 0 {
		return nil
	}
	if uid := ev.Attr(event.AttrFunctionUID); uid != nil {
		if f := e.functions[string(uid)]; f != nil {
			return f
		}
	}
	return e.functions[string(ev.Attr(event.AttrFunctionName))]
}

// caller judges who invoked the function: the service, if one called, or else
// the principal. The execution of an asynchronous call, which Lambda makes, says
// nothing of who asked for it; the call has a record of its own.
func (f *function) caller(ev *event.Event) []byte {
	if string(ev.Attr(event.AttrAPIOperation)) == "InvokeExecution" {
		return unknown
	}
	ok := false
	if by := ev.Attr(event.AttrActorInvokedBy); by != nil {
		ok = f.services[string(by)]
	} else if d := ev.Attr(event.AttrSrcDomain); hasSuffix(d, awsDomain) {
		ok = f.services[string(d)]
	} else {
		uid := ev.Attr(event.AttrActorUID)
		ok = f.principals[string(uid)] || f.principals[string(lastPart(uid))]
	}
	if ok {
		return expected
	}
	return unexpected
}

// lastPart is the name at the end of an ARN such as
// arn:aws:iam::111122223333:role/path/NAME. Text that is no ARN has none:
// what is not issued by IAM must not pass for a name.
func lastPart(arn []byte) []byte {
	if !hasPrefix(arn, "arn:") {
		return nil
	}
	for i := len(arn) - 1; i >= 0; i-- {
		if arn[i] == '/' {
			return arn[i+1:]
		}
	}
	return nil
}

func hasPrefix(b []byte, s string) bool { return len(b) >= len(s) && string(b[:len(s)]) == s }

func hasSuffix(b []byte, s string) bool { return len(b) >= len(s) && string(b[len(b)-len(s):]) == s }
