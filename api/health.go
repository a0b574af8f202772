package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const checkTimeout = 3 * time.Second

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// ready runs all checks at once. What is wrong is for the log: the answer, which
// needs no token, only says what is.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	errs := make([]error, len(s.o.Checks))
	var wg sync.WaitGroup
	for i, c := range s.o.Checks {
		wg.Go(func() { errs[i] = c.Func(ctx) })
	}
	wg.Wait()
	status, word := http.StatusOK, "ready"
	checks := map[string]string{}
	for i, c := range s.o.Checks {
		checks[c.Name] = "ok"
		if errs[i] != nil {
			checks[c.Name] = "failing"
			status, word = http.StatusServiceUnavailable, "not ready"
			s.o.Logger.WarnContext(ctx, "not ready", "check", c.Name, "error", errs[i])
		}
	}
	writeJSON(w, status, map[string]any{"status": word, "checks": checks})
}

// serveMetrics lets this machine's own agent in, and tokens that may read.
func (s *Server) serveMetrics(h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.o.OpenMetrics && !onLoopback(r) {
			if _, a := s.authorize(r, ScopeRead); a != nil {
				s.refuse(w, r, a)
				return
			}
		}
		h.ServeHTTP(w, r)
	}
}

// addHealth documents the routes that huma does not serve.
func addHealth(doc *huma.OpenAPI) {
	status := func(desc string) *huma.Response {
		return &huma.Response{Description: desc, Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"status"},
			Properties: map[string]*huma.Schema{
				"status": {Type: huma.TypeString},
				"checks": {Type: huma.TypeObject, AdditionalProperties: &huma.Schema{Type: huma.TypeString, Enum: []any{"ok", "failing"}}},
			},
		}}}}
	}
	doc.AddOperation(&huma.Operation{
		Method: http.MethodGet, Path: "/healthz", OperationID: "health", Tags: []string{"Operations"},
		Summary: "Whether the process is alive", Responses: map[string]*huma.Response{"200": status("It is")},
	})
	doc.AddOperation(&huma.Operation{
		Method: http.MethodGet, Path: "/readyz", OperationID: "ready", Tags: []string{"Operations"},
		Summary:   "Whether it can do its work",
		Responses: map[string]*huma.Response{"200": status("It can"), "503": status("Something it needs is failing")},
	})
}

// pushOperation documents POST /v1/logs.
func pushOperation() *huma.Operation {
	text := &huma.Schema{Type: huma.TypeString}
	count := &huma.Schema{Type: huma.TypeInteger, Format: "int64"}
	body := map[string]*huma.MediaType{}
	for _, t := range []string{"application/json", "application/x-ndjson", "application/gzip", "text/plain"} {
		body[t] = &huma.MediaType{}
	}
	responses := map[string]*huma.Response{"202": {
		Description: "Kafka has acknowledged all of it",
		Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"accepted", "dead_lettered"},
			Properties: map[string]*huma.Schema{"accepted": count, "dead_lettered": count},
		}}},
	}}
	for code, desc := range map[string]string{
		"400": "Not taken: a parameter or the body is wrong. Final: do not send it again", "401": "No token that is known", "403": "The token may not",
		"408": "The body did not arrive in time: send it again", "413": "The body is too long: send several", "415": "Not a content type or encoding that is taken",
		"429": "Too much is being taken: again after Retry-After", "503": "Kafka or the database is away: again after Retry-After",
	} {
		responses[code] = &huma.Response{Description: desc, Content: map[string]*huma.MediaType{
			"application/problem+json": {Schema: &huma.Schema{Ref: "#/components/schemas/ErrorModel"}},
		}}
	}
	return &huma.Operation{
		Method: http.MethodPost, Path: "/v1/logs", OperationID: "push-logs", Tags: []string{"Logs"},
		Summary: "Push log records",
		Description: "Takes JSON lines, {\"Records\":[…]}, a JSON array, CloudWatch Logs DATA_MESSAGE envelopes or text lines, any of them gzipped. " +
			"The answer 202 comes when Kafka has acknowledged all of it. Any other answer promises nothing. " +
			"After 408, 429 and 5xx send all of it again, what arrives twice counts once; the others are final, as is 400 for a body of more than 1000 pieces that are no records. Needs scope ingest.",
		Parameters: []*huma.Param{{Name: "type", In: "query", Description: "Log type of all records; without it, it is told from the content", Schema: text}},
		RequestBody: &huma.RequestBody{
			Required: true, Content: body,
		},
		Responses: responses,
		Security:  []map[string][]string{{"token": {string(ScopeIngest)}}},
	}
}
