package api

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/vedette-sec/vedette/detect"
)

// Limits of a list.
const (
	defaultLimit = 50
	maxLimit     = 200
)

type listInput struct {
	Status      []string `query:"status" enum:"open,acknowledged,resolved,merged" doc:"Any of these, separated by commas. Without it, all but merged."`
	Severity    string   `query:"severity" enum:"informational,low,medium,high,critical" doc:"At least this"`
	Rule        string   `query:"rule" maxLength:"200" doc:"Id of one of its rules"`
	Entity      string   `query:"entity" maxLength:"2048" doc:"One of its entities: the value, or type:value" example:"src_endpoint.ip:203.0.113.7"`
	Since       string   `query:"since" format:"date-time" doc:"Its last event is not before this"`
	Until       string   `query:"until" format:"date-time" doc:"Its first event is before this"`
	OpenedSince string   `query:"opened_since" format:"date-time" doc:"Opened not before this"`
	OpenedUntil string   `query:"opened_until" format:"date-time" doc:"Opened before this"`
	Limit       int      `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor      string   `query:"cursor" maxLength:"64" doc:"next_cursor of the page before"`
}

type listOutput struct {
	Body struct {
		Incidents  []Incident `json:"incidents" nullable:"false" doc:"Newest first, by opened_at"`
		NextCursor string     `json:"next_cursor" doc:"Where the next page begins; empty on the last"`
	}
}

type getInput struct {
	ID string `path:"id" format:"uuid"`
}

type detailOutput struct {
	ETag string `header:"ETag" doc:"The version, for If-Match"`
	Body IncidentDetail
}

type patchInput struct {
	ID      string `path:"id" format:"uuid"`
	IfMatch string `header:"If-Match" maxLength:"64" doc:"ETag of the incident as read: if it has changed since, nothing is done and the answer is 412. Without it and without version the last writer wins."`
	Body    struct {
		Status   string  `json:"status,omitempty" enum:"open,acknowledged,resolved"`
		Assignee *string `json:"assignee,omitempty" maxLength:"200" doc:"Who works on it; empty: nobody"`
		Version  int64   `json:"version,omitempty" minimum:"1" doc:"Like If-Match"`
	}
}

// addIncidents registers the routes under /v1/incidents.
func (s *Server) addIncidents(a huma.API) {
	huma.Register(a, s.operation(huma.Operation{
		OperationID: "list-incidents", Method: http.MethodGet, Path: "/v1/incidents", Summary: "List incidents",
		Description: "Newest first. A cursor stays good while incidents come and go: nothing is shown twice.",
	}, ScopeRead, 400, 422), s.list)
	huma.Register(a, s.operation(huma.Operation{
		OperationID: "get-incident", Method: http.MethodGet, Path: "/v1/incidents/{id}", Summary: "Get an incident",
		Description: "With its findings, why they fired, the records that show it, and what was done. An incident that became part of another says so in merged_into.",
	}, ScopeRead, 404, 422), s.get)
	if s.o.Actions != nil {
		huma.Register(a, s.operation(huma.Operation{
			OperationID: "change-incident", Method: http.MethodPatch, Path: "/v1/incidents/{id}", Summary: "Acknowledge, resolve, reopen or assign an incident",
			Description: "The audit trail keeps the token's name. Needs scope write.",
		}, ScopeWrite, 400, 404, 409, 412, 413, 415, 422), s.patch)
	}
}

// operation completes an operation with what all have: the scope, the errors.
func (s *Server) operation(op huma.Operation, scope Scope, errs ...int) huma.Operation {
	op.Tags = []string{"Incidents"}
	op.Security = []map[string][]string{{"token": {string(scope)}}}
	op.Errors = append(errs, 401, 403, 500, 503)
	op.MaxBodyBytes = apiMaxBody
	op.Middlewares = huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		if _, a := s.authorize(r, scope); a != nil {
			s.refuse(w, r, a)
			return
		}
		ctx.SetHeader("Cache-Control", "no-store")
		next(ctx)
	}}
	return op
}

// fail turns an error into huma's, and keeps the cause for the log.
func fail(ctx context.Context, err error) error {
	a := toAnswer(err)
	note(ctx, a)
	h := http.Header{}
	a.headers(h)
	return huma.ErrorWithHeaders(huma.NewError(a.status, a.detail), h)
}

// invalid is a 422 about one parameter.
func invalid(location, message string) error {
	return huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: location, Message: message})
}

func (in *listInput) query() (Query, error) {
	q := Query{Rule: in.Rule, Entity: in.Entity, Limit: in.Limit}
	for _, st := range in.Status {
		q.Statuses = append(q.Statuses, Status(st))
	}
	if in.Severity != "" {
		l, err := detect.ParseLevel(in.Severity)
		if err != nil {
			return Query{}, invalid("query.severity", "want a Sigma level")
		}
		q.MinSeverity = l
	}
	if strings.ContainsRune(in.Rule, 0) {
		return Query{}, invalid("query.rule", "want text without NUL")
	}
	if strings.ContainsRune(in.Entity, 0) {
		return Query{}, invalid("query.entity", "want text without NUL")
	}
	for _, t := range []struct {
		location, text string
		to             *time.Time
	}{
		{"query.since", in.Since, &q.Since},
		{"query.until", in.Until, &q.Until},
		{"query.opened_since", in.OpenedSince, &q.OpenedSince},
		{"query.opened_until", in.OpenedUntil, &q.OpenedUntil},
	} {
		if t.text == "" {
			continue
		}
		v, err := time.Parse(time.RFC3339, t.text)
		if err != nil || v.Year() < 1970 || v.After(maxTime) {
			return Query{}, invalid(t.location, "want a time as in 2026-01-02T15:04:05Z, from 1970 to 2261")
		}
		*t.to = v
	}
	if in.Cursor != "" {
		c, err := decodeCursor(in.Cursor)
		if err != nil {
			return Query{}, huma.Error400BadRequest("bad cursor", &huma.ErrorDetail{Location: "query.cursor", Message: "want next_cursor of another page"})
		}
		q.After = c
	}
	return q, nil
}

// page reads one page and says where the next begins.
func (s *Server) page(ctx context.Context, tenant string, q Query) ([]Incident, string, error) {
	limit := q.Limit
	q.Limit++ // one more tells whether there is another page
	list, err := s.o.Incidents.ListIncidents(ctx, tenant, q)
	if err != nil {
		return nil, "", err
	}
	if len(list) <= limit {
		return list, "", nil
	}
	last := list[limit-1]
	return list[:limit], Cursor{OpenedAt: last.OpenedAt, ID: last.ID}.encode(), nil
}

func (s *Server) list(ctx context.Context, in *listInput) (*listOutput, error) {
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	out := new(listOutput)
	out.Body.Incidents, out.Body.NextCursor, err = s.page(ctx, exchangeOf(ctx).who.tenant, q)
	if err != nil {
		return nil, fail(ctx, err)
	}
	out.Body.Incidents = orEmpty(out.Body.Incidents)
	for i := range out.Body.Incidents {
		out.Body.Incidents[i].tidy()
	}
	return out, nil
}

// find reads an incident and adds what is worked out here.
func (s *Server) find(ctx context.Context, tenant, id string) (IncidentDetail, error) {
	d, err := s.o.Incidents.FindIncident(ctx, tenant, id)
	if err != nil {
		return IncidentDetail{}, err
	}
	s.explain(&d)
	d.tidy()
	return d, nil
}

// orEmpty is for lists that are shown as [], never as null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func (in *Incident) tidy() {
	in.RuleIDs, in.Entities = orEmpty(in.RuleIDs), orEmpty(in.Entities)
}

func (d *IncidentDetail) tidy() {
	d.Incident.tidy()
	d.Tags, d.Findings, d.Evidence, d.Audit = orEmpty(d.Tags), orEmpty(d.Findings), orEmpty(d.Evidence), orEmpty(d.Audit)
	for i := range d.Findings {
		f := &d.Findings[i]
		f.Key, f.Fields, f.FalsePos = orEmpty(f.Key), orEmpty(f.Fields), orEmpty(f.FalsePos)
		f.References, f.Tags = orEmpty(f.References), orEmpty(f.Tags)
	}
}

func (s *Server) get(ctx context.Context, in *getInput) (*detailOutput, error) {
	d, err := s.find(ctx, exchangeOf(ctx).who.tenant, strings.ToLower(in.ID))
	if err != nil {
		return nil, fail(ctx, err)
	}
	return &detailOutput{ETag: etag(d.Version), Body: d}, nil
}

func (s *Server) patch(ctx context.Context, in *patchInput) (*detailOutput, error) {
	if in.Body.Status == "" && in.Body.Assignee == nil {
		return nil, invalid("body", "want status or assignee")
	}
	c := Change{Status: Status(in.Body.Status), Assignee: in.Body.Assignee, IfVersion: in.Body.Version}
	if a := in.Body.Assignee; a != nil && !plainText(*a) {
		return nil, invalid("body.assignee", "want text without control characters")
	}
	if in.IfMatch != "" && in.IfMatch != "*" {
		v, err := parseETag(in.IfMatch)
		if err != nil || c.IfVersion != 0 && c.IfVersion != v {
			return nil, invalid("header.If-Match", "want the ETag of the incident, and the same version if there is one in the body")
		}
		c.IfVersion = v
	}
	who := exchangeOf(ctx).who
	id := strings.ToLower(in.ID)
	if err := s.o.Actions.ChangeIncident(ctx, who.tenant, id, who.name, c); err != nil {
		return nil, fail(ctx, err)
	}
	d, err := s.find(ctx, who.tenant, id)
	if err != nil {
		return nil, fail(ctx, err)
	}
	return &detailOutput{ETag: etag(d.Version), Body: d}, nil
}

func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

var etagText = regexp.MustCompile(`^"([1-9][0-9]{0,17})"$`)

func parseETag(s string) (int64, error) {
	m := etagText.FindStringSubmatch(s)
	if m == nil {
		return 0, errors.New("not an ETag of ours")
	}
	return strconv.ParseInt(m[1], 10, 64)
}

// plainText reports whether s is printable text on one line.
func plainText(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) || r == '\uFFFD' }) < 0
}
