package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// problem is what a client is told (RFC 9457). Its texts are constants of this
// package: nothing of the request gets into them.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

func writeProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(problem{Title: http.StatusText(status), Status: status, Detail: detail})
}

// answer is an error for the client together with the cause, which goes to the
// log only.
type answer struct {
	status     int
	detail     string
	challenge  bool // WWW-Authenticate
	retryAfter int  // seconds
	cause      error
}

func (a *answer) Error() string {
	if a.cause == nil {
		return a.detail
	}
	return a.detail + ": " + a.cause.Error()
}

func (a *answer) Unwrap() error { return a.cause }

func (a *answer) headers(h http.Header) {
	if a.challenge {
		h.Set("WWW-Authenticate", `Bearer realm="vedette"`)
	}
	if a.retryAfter > 0 {
		h.Set("Retry-After", fmt.Sprint(a.retryAfter))
	}
}

// toAnswer says what a client is told of an error of a store.
func toAnswer(err error) *answer {
	var a *answer
	switch {
	case errors.As(err, &a):
		return a
	case errors.Is(err, ErrNotFound):
		return &answer{status: http.StatusNotFound, detail: "There is no such incident.", cause: err}
	case errors.Is(err, ErrConflict):
		return &answer{status: http.StatusPreconditionFailed, detail: "The incident has changed in the meantime: read it again.", cause: err}
	case errors.Is(err, ErrMerged):
		return &answer{status: http.StatusConflict, detail: "The incident became part of another: change that one (merged_into).", cause: err}
	case errors.Is(err, ErrResolved):
		return &answer{status: http.StatusConflict, detail: "The incident is resolved: reopen it first.", cause: err}
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return &answer{status: http.StatusServiceUnavailable, detail: "The database is away: try again.", retryAfter: 5, cause: err}
	}
	return &answer{status: http.StatusInternalServerError, detail: "Something went wrong on our side. The log has it under this X-Request-Id.", cause: err}
}

// known are the places in a request that an error may name: they come from our
// own declarations, all else from the client.
var known = regexp.MustCompile(`^(path|query|header|body)(\.(id|status|severity|rule|entity|since|until|opened_since|opened_until|cursor|limit|assignee|version|If-Match))?$`)

// withoutEcho takes out of an error that huma made what the client sent.
func withoutEcho(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	out := &huma.ErrorModel{Title: m.Title, Status: m.Status, Detail: m.Detail}
	for _, d := range m.Errors {
		e := &huma.ErrorDetail{Message: d.Message}
		if s, ok := d.Value.(string); ok && s != "" && (d.Location == "body" || strings.Contains(d.Message, s)) {
			e.Message = "not valid"
			if d.Location == "body" {
				e.Message = "not a valid JSON object of the expected shape"
			}
		}
		e.Location, _, _ = strings.Cut(d.Location, "[") // without the index
		if !known.MatchString(e.Location) {
			e.Location, _, _ = strings.Cut(e.Location, ".")
			if !known.MatchString(e.Location) {
				e.Location = ""
			}
		}
		out.Errors = append(out.Errors, e)
	}
	return out, nil
}
