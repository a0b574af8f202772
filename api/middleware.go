package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// exchange is what becomes known of a request while it is handled; the access
// log line is made of it.
type exchange struct {
	id  string
	who principal
	err error // for the operator
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return new(exchange)
}

func setPrincipal(ctx context.Context, p principal) { exchangeOf(ctx).who = p }

// note keeps an error for the access log line.
func note(ctx context.Context, err error) { exchangeOf(ctx).err = err }

// recorder notices what is answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController through.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// traced begins the span of a request, within that of a caller who names one. What
// asks all the time how we are makes none.
func (s *Server) traced(r *http.Request, x *exchange) (context.Context, trace.Span) {
	switch r.URL.Path {
	case "/healthz", "/readyz", "/metrics":
		return r.Context(), noop.Span{}
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := s.o.Tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
	if span.IsRecording() {
		span.SetAttributes(attribute.String("http.request.method", r.Method), attribute.String("vedette.request.id", x.id))
	}
	return ctx, span
}

// observe is the outermost layer: request id, access log, metrics, traces, panics.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := s.o.Clock()
		x := &exchange{id: requestID()}
		rec := &recorder{ResponseWriter: w}
		ctx, span := s.traced(r, x)
		r = r.WithContext(context.WithValue(ctx, exchangeKey{}, x))
		w.Header().Set("X-Request-Id", x.id)
		s.metrics.inFlight.Inc()
		defer s.metrics.inFlight.Dec()
		defer func() {
			defer span.End()
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
					panic(p)
				}
				s.o.Logger.Error("handler panicked", "request_id", x.id, "panic", p, "stack", string(debug.Stack()))
				if rec.status == 0 {
					writeProblem(rec, http.StatusInternalServerError, toAnswer(errors.New("panic")).detail)
				}
			}
			s.finish(r, rec, x, span, s.o.Clock().Sub(start))
		}()
		next.ServeHTTP(rec, r)
	})
}

func (s *Server) finish(r *http.Request, rec *recorder, x *exchange, span trace.Span, took time.Duration) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	route := r.Pattern
	if route == "" {
		route = "none"
	}
	s.metrics.requests.WithLabelValues(route, strconv.Itoa(rec.status)).Inc()
	s.metrics.duration.WithLabelValues(route).Observe(took.Seconds())
	level := slog.LevelInfo
	switch {
	case rec.status >= 500:
		level = slog.LevelError
	case route == "GET /healthz", route == "GET /readyz", route == "GET /metrics":
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{
		slog.String("request_id", x.id), slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes), slog.Duration("took", took),
		slog.String("remote", r.RemoteAddr), slog.String("token", x.who.name),
	}
	if x.err != nil && rec.status >= 400 {
		attrs = append(attrs, slog.Any("error", x.err))
	}
	if span.IsRecording() {
		attrs = append(attrs, slog.String("trace_id", span.SpanContext().TraceID().String()))
		if r.Pattern != "" {
			span.SetName(r.Pattern) // which begins with the method
		}
		span.SetAttributes(attribute.String("http.route", route), attribute.Int("http.response.status_code", rec.status),
			attribute.Int64("http.response.body.size", rec.bytes), attribute.String("vedette.token", x.who.name))
		if rec.status >= 500 {
			span.SetStatus(codes.Error, http.StatusText(rec.status))
		}
	}
	s.o.Logger.LogAttrs(r.Context(), level, "request", attrs...)
}

func requestID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// harden sets the headers that every answer has. The policy lets a page load our
// stylesheet, post to us, and nothing else.
func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// within bounds how long a request may take and how much it may send.
func within(d time.Duration, body int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), d)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, body)
		defer io.Copy(io.Discard, io.LimitReader(r.Body, 4<<10)) //nolint:errcheck // only so that the connection can be used again
		next.ServeHTTP(w, r)
	})
}
