package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Check is one thing that must work for this process to be of use.
type Check struct {
	Name string // bounded: shown to everybody
	Func func(ctx context.Context) error
}

// Options configure a Server.
type Options struct {
	Tokens    Tokens    // required
	Incidents Incidents // nil: no incidents, no pages (a process that only takes logs)
	Actions   Actions   // nil: incidents are read only
	Push      Push      // nil: no POST /v1/logs

	Registerer prometheus.Registerer // required
	Gatherer   prometheus.Gatherer   // what /metrics shows; nil: there is no /metrics
	Checks     []Check               // what /readyz asks
	Logger     *slog.Logger          // default: none
	Clock      func() time.Time      // default: time.Now
	Version    string                // of Vedette, for the OpenAPI document and the pages
	Tracer     trace.Tracer          // nil: requests are not traced

	Tenant         string // whose incidents a viewer without a token sees; default "default"
	OpenOnLoopback bool   // the pages may be read without a token from this machine
	SecureCookies  bool   // a proxy in front speaks TLS for us
	OpenMetrics    bool   // /metrics needs no token, for a listener that only Prometheus reaches
	// OCSF says a record in OCSF's terms, as a JSON object; nil: evidence is raw only.
	OCSF func(logType string, raw []byte) ([]byte, error)
}

func (o *Options) setDefaults() error {
	if o.Tokens == nil {
		return errors.New("api: Tokens is missing")
	}
	if o.Registerer == nil {
		return errors.New("api: Registerer is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Tracer == nil {
		o.Tracer = noop.Tracer{}
	}
	if o.Tenant == "" {
		o.Tenant = "default"
	}
	return nil
}

// Server answers everything that Vedette answers over HTTP.
type Server struct {
	o        Options
	tokens   *tokenLookup
	sessions *sessions
	metrics  *metrics
	openapi  []byte
	handler  http.Handler
}

// How long requests may take, and how much they may send. Push has bounds of its own.
const (
	apiTimeout  = 15 * time.Second
	apiMaxBody  = 64 << 10
	pushTimeout = 2 * time.Minute
)

// New returns a Server.
func New(o Options) (*Server, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{
		o:        o,
		tokens:   &tokenLookup{store: o.Tokens, known: map[[sha256.Size]byte]knownToken{}},
		sessions: &sessions{open: map[[sha256.Size]byte]session{}},
		metrics:  newMetrics(o.Registerer),
	}
	mux := http.NewServeMux()
	bounded := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, within(apiTimeout, apiMaxBody, h)) }

	a := humago.New(patient{mux}, s.humaConfig())
	if o.Incidents != nil {
		s.addIncidents(a)
		pages, err := newPages(s)
		if err != nil {
			return nil, err
		}
		pages.register(bounded)
	}
	if o.Push != nil {
		mux.HandleFunc("POST /v1/logs", s.push)
		a.OpenAPI().AddOperation(pushOperation())
	}
	bounded("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	bounded("GET /readyz", s.ready)
	addHealth(a.OpenAPI())
	if o.Gatherer != nil {
		bounded("GET /metrics", s.serveMetrics(promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4})))
	}
	doc, err := a.OpenAPI().MarshalJSON()
	if err != nil {
		return nil, err
	}
	s.openapi = doc
	bounded("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(s.openapi)
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusNotFound, "There is nothing at this path, or not by this method.")
	})
	// Browsers say where a request comes from; what another site's page makes them
	// send is refused before anything looks at it.
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusForbidden, "The request comes from a page of another site.")
	}))
	s.handler = s.observe(harden(cross.Handler(mux)))
	return s, nil
}

// patient gives huma's routes their bounds.
type patient struct{ *http.ServeMux }

func (p patient) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	p.Handle(pattern, within(apiTimeout, apiMaxBody, http.HandlerFunc(h)))
}

// Handler returns the handler of everything. It may be served on several listeners.
func (s *Server) Handler() http.Handler { return s.handler }

// HTTP returns a server with the bounds that a listener in the open needs. Its
// caller listens, serves and shuts it down.
func (s *Server) HTTP() *http.Server {
	return &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       pushTimeout,
		WriteTimeout:      pushTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
	}
}

// push authenticates and hands over.
func (s *Server) push(w http.ResponseWriter, r *http.Request) {
	p, a := s.authorize(r, ScopeIngest)
	if a != nil {
		s.refuse(w, r, a)
		return
	}
	s.o.Push.ServePush(w, r, p.tenant, "push:"+p.name)
}

// refuse answers with a problem and keeps the cause for the log.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, a *answer) {
	note(r.Context(), a)
	a.headers(w.Header())
	writeProblem(w, a.status, a.detail)
}

func (s *Server) humaConfig() huma.Config {
	c := huma.DefaultConfig("Vedette", s.o.Version)
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil // no $schema in answers
	c.RejectUnknownQueryParameters = true
	c.Transformers = []huma.Transformer{withoutEcho}
	c.Info.Description = "Incidents that Vedette found in cloud logs. Times are RFC 3339 in UTC. Errors are problem details (RFC 9457)."
	c.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", BearerFormat: "vdt_…", Description: "A token of scope ingest, read or write; write includes read."},
	}
	return c
}
