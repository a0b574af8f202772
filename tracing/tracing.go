// Package tracing sends what the service did, and how long it took, to an
// OpenTelemetry collector by OTLP over HTTP. Without an endpoint it does nothing
// at all.
//
// Traces are for people who look for where time goes; nothing depends on them. Spans
// wait in a bounded queue, are dropped and counted when it is full, and are sent by
// one goroutine: a collector that is slow, gone or full of errors holds nobody back.
// Packages get a [trace.Tracer] handed in; there is no global one.
package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/vedette-sec/vedette/secret"
)

// Options say where traces go. The zero value takes all from OpenTelemetry's
// environment variables.
type Options struct {
	// Endpoint is the collector's URL, to which v1/traces is added. Without one
	// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, taken as it is, and
	// OTEL_EXPORTER_OTLP_ENDPOINT say it; without those there are no traces.
	Endpoint string
	Headers  map[string]secret.String // besides those of OTEL_EXPORTER_OTLP_HEADERS
	CAFile   string                   // PEM; OTEL_EXPORTER_OTLP_CERTIFICATE, or the system's roots, if empty
	Ratio    float64                  // share of the traces begun here that are kept, 0 to 1; what a caller has decided stands
	Queue    int                      // spans that wait at most; 4096 if zero

	Version  string // of the service
	Instance string // names this process among others
	Roles    []string

	Getenv     func(string) string   // os.Getenv if nil
	Registerer prometheus.Registerer // none if nil
	Logger     *slog.Logger          // slog.Default if nil
}

// sendWithin bounds one request, with its repetitions.
const sendWithin = 10 * time.Second

// Tracing is where spans come together. Close it.
type Tracing struct {
	provider *sdktrace.TracerProvider // nil: off
	client   *http.Client
}

// Open makes a Tracing. It connects to nothing yet: an error is one of the options'.
func Open(o Options) (*Tracing, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Queue <= 0 {
		o.Queue = 4096
	}
	endpoint, err := o.endpoint()
	if err != nil || endpoint == "" {
		return &Tracing{}, err
	}
	if o.Ratio < 0 || o.Ratio > 1 {
		return nil, fmt.Errorf("tracing: the ratio is %v: want 0 to 1", o.Ratio)
	}
	conf, err := o.tls()
	if err != nil {
		return nil, err
	}
	t := &Tracing{client: &http.Client{
		Timeout: sendWithin,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: sendWithin, MaxIdleConns: 2, IdleConnTimeout: time.Minute,
		},
		// Headers may be keys: they go where they were meant to go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	headers := envHeaders(o.Getenv)
	for k, v := range o.Headers {
		headers[k] = v.Reveal()
	}
	exporter, err := otlptracehttp.New(context.Background(), // which connects to nothing
		otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithHeaders(headers), otlptracehttp.WithHTTPClient(t.client),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: sendWithin,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	queue := newQueue(exporter, o.Queue, newMetrics(o.Registerer), o.Logger)
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithResource(o.resource()),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.Ratio))),
		sdktrace.WithSpanProcessor(queue),
		sdktrace.WithRawSpanLimits(limits),
	)
	o.Logger.Info("traces are sent", "endpoint", withoutUser(endpoint), "ratio", o.Ratio)
	return t, nil
}

// limits bound a span, whatever it is told.
var limits = sdktrace.SpanLimits{
	AttributeValueLengthLimit: 512, AttributeCountLimit: 64, EventCountLimit: 64, LinkCountLimit: 32,
	AttributePerEventCountLimit: 16, AttributePerLinkCountLimit: 4,
}

// Tracer is for one package, by its name; nil if there are no traces.
func (t *Tracing) Tracer(name string) trace.Tracer {
	if t.provider == nil {
		return nil
	}
	return t.provider.Tracer("github.com/vedette-sec/vedette/" + name)
}

// Close sends what waits, for as long as ctx allows, and ends.
func (t *Tracing) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	defer t.client.CloseIdleConnections()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("tracing: send the last spans: %w", err)
	}
	return nil
}

// endpoint is the whole URL to post to; empty: nowhere.
func (o *Options) endpoint() (string, error) {
	if strings.EqualFold(o.Getenv("OTEL_SDK_DISABLED"), "true") {
		return "", nil
	}
	raw, whole := o.Endpoint, false
	if raw == "" {
		if o.Getenv("OTEL_TRACES_EXPORTER") == "none" {
			return "", nil
		}
		if raw, whole = o.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), true; raw == "" {
			raw, whole = o.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), false
		}
	}
	if raw == "" {
		return "", nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("tracing: the endpoint is no http or https URL") // not shown: it may hold a secret
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) && (len(o.Headers) > 0 || len(envHeaders(o.Getenv)) > 0) {
		return "", errors.New("tracing: headers would be sent readably: the endpoint must be https")
	}
	if !whole {
		u = u.JoinPath("v1", "traces")
	}
	return u.String(), nil
}

// envHeaders are those of the environment, as OpenTelemetry has them: key=value,
// separated by commas, both with percent escapes.
func envHeaders(getenv func(string) string) map[string]string {
	s := getenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
	if s == "" {
		s = getenv("OTEL_EXPORTER_OTLP_HEADERS")
	}
	headers := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(pair, "=")
		k, kerr := url.PathUnescape(strings.TrimSpace(k))
		v, verr := url.PathUnescape(strings.TrimSpace(v))
		if ok && kerr == nil && verr == nil && k != "" {
			headers[k] = v
		}
	}
	return headers
}

func (o *Options) tls() (*tls.Config, error) {
	file := o.CAFile
	if file == "" {
		file = o.Getenv("OTEL_EXPORTER_OTLP_CERTIFICATE")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tracing: read the CA file: %w", err)
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tracing: CA file %s holds no certificate in PEM", file)
	}
	return conf, nil
}

// resource is what spans say of this process. OTEL_SERVICE_NAME and
// OTEL_RESOURCE_ATTRIBUTES win.
func (o *Options) resource() *resource.Resource {
	own := resource.NewSchemaless(
		attribute.String("service.name", "vedette"), attribute.String("service.version", o.Version),
		attribute.String("service.instance.id", o.Instance), attribute.StringSlice("vedette.roles", o.Roles),
	)
	if host, err := os.Hostname(); err == nil {
		own = merge(own, resource.NewSchemaless(attribute.String("host.name", host)))
	}
	return merge(own, resource.Environment())
}

// merge prefers b. What is left out if their schemas differ is left out.
func merge(a, b *resource.Resource) *resource.Resource {
	r, err := resource.Merge(a, resource.NewSchemaless(b.Attributes()...))
	if err != nil {
		return a
	}
	return r
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}

// withoutUser is an endpoint fit for a log line.
func withoutUser(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + net.JoinHostPort(u.Hostname(), u.Port()) + u.Path
}
