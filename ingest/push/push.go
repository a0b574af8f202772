// Package push takes log records over HTTP: the body of POST /v1/logs.
//
// A body is JSON lines, {"Records":[…]}, a JSON array, CloudWatch Logs
// DATA_MESSAGE envelopes, or text lines, any of them gzipped. It is cut into
// records while it arrives and appended in batches, so that a request needs
// little more memory than a batch, however long its body. Room is taken for what
// has arrived, not for what is announced: a client that sends nothing keeps
// nobody else out but for its place among MaxRequests.
//
// The answer 202 says that Kafka has acknowledged everything: so many records
// appended, so many pieces that are no record kept on the dead letter topic. Any
// other answer promises nothing, not even that nothing was taken. 429, 503 and
// 408 pass: the client sends all of it again, and what arrives twice counts once,
// by the id of its event. Every other answer is final: the same body would get it
// again. One of them is the 400 for a body of more than 1000 pieces that are no
// records; those of them that were not yet written as dead letters are not kept.
//
// The package knows nothing of tokens: its caller has authenticated the client.
package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest"
	"github.com/vedette-sec/vedette/stream"
)

// Appender is Kafka as push needs it. Both methods return when Kafka has
// acknowledged, and do not keep the messages.
type Appender interface {
	Append(ctx context.Context, ms []stream.LogMessage) error
	DeadLetters(ctx context.Context, ds []stream.DeadLetter) error
}

// Defaults of Options.
const (
	DefaultMaxBody     = 32 << 20
	DefaultMaxExpanded = 512 << 20
	DefaultMaxInFlight = 256 << 20
	DefaultMaxRequests = 64
	DefaultTimeout     = 60 * time.Second
)

// Options configure a Handler. Appender and Registerer are required; zero fields
// take the defaults.
type Options struct {
	Appender   Appender
	Registerer prometheus.Registerer
	Logger     *slog.Logger     // default: none
	Clock      func() time.Time // default: time.Now; read deadlines and durations

	MaxBody     int64         // bytes of a body as sent
	MaxExpanded int64         // bytes of a body after decompression
	MaxRecord   int           // bytes of a record; above it a piece is dead-lettered
	MaxInFlight int64         // bytes that all bodies being taken hold in memory; one alone may always go on
	MaxRequests int           // bodies being taken at once
	Timeout     time.Duration // for all of a request
	Types       []event.Type  // what ?type= may name; default: those that event decodes
}

func (o *Options) setDefaults() error {
	if o.Appender == nil {
		return errors.New("push: Appender is missing")
	}
	if o.Registerer == nil {
		return errors.New("push: Registerer is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	for _, d := range []struct {
		v   *int64
		def int64
	}{{&o.MaxBody, DefaultMaxBody}, {&o.MaxExpanded, DefaultMaxExpanded}, {&o.MaxInFlight, DefaultMaxInFlight}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.MaxRecord <= 0 {
		o.MaxRecord = ingest.DefaultMaxRecord
	}
	if o.MaxRequests <= 0 {
		o.MaxRequests = DefaultMaxRequests
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if len(o.Types) == 0 {
		o.Types = event.Types()
	}
	return nil
}

// Handler takes bodies. It is safe for concurrent use.
type Handler struct {
	o       Options
	room    room
	metrics *metrics
}

// New returns a Handler.
func New(o Options) (*Handler, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	h := &Handler{o: o, room: room{bytes: o.MaxInFlight, requests: o.MaxRequests}}
	h.metrics = newMetrics(o.Registerer, &h.room)
	return h, nil
}

// Result is the body of the answer 202.
type Result struct {
	Accepted     int64 `json:"accepted"`
	DeadLettered int64 `json:"dead_lettered"`
}

// refusal is an answer other than 202. Its texts never repeat the request.
type refusal struct {
	status     int
	detail     string
	retryAfter string // seconds
	err        error  // for the log
}

func (r *refusal) Error() string { return r.detail }

func full() *refusal {
	return &refusal{status: http.StatusTooManyRequests, retryAfter: "1", detail: "Too much is being taken at the moment: send it again later."}
}

// ServePush answers a POST whose client was authenticated as origin of tenant.
func (h *Handler) ServePush(w http.ResponseWriter, r *http.Request, tenant, origin string) {
	start := h.o.Clock()
	res, no := h.take(w, r, tenant, origin)
	h.metrics.duration.Observe(h.o.Clock().Sub(start).Seconds())
	if no == nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(res) // the client may be gone; all is acknowledged
		return
	}
	h.metrics.refused.WithLabelValues(fmt.Sprint(no.status)).Inc()
	if no.err != nil {
		h.o.Logger.WarnContext(r.Context(), "push refused", "status", no.status, "origin", origin, "error", no.err,
			"accepted", res.Accepted, "dead_lettered", res.DeadLettered)
	}
	h.refuse(w, r, no)
}

// After a refusal the rest of a body is read, so that the connection can be used
// again, and a client that writes all before it reads gets to the answer: so many
// bytes, for so long.
const (
	maxRest  = 256 << 10 // as net/http does
	restTime = time.Second
)

// refuse answers, and sees the request to its end within a second, whatever the
// client does: by itself net/http would read the rest before the answer goes out.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, no *refusal) {
	rc := http.NewResponseController(w)
	if r.ProtoMajor == 1 { // HTTP/2 ends a stream without ending the connection
		until := h.o.Clock()
		again := no.retryAfter != "" && 0 <= r.ContentLength && r.ContentLength <= maxRest
		// Who asks before sending is not to send now.
		if r.Header.Get("Expect") == "" && h.room.linger() {
			defer h.room.gone()
			until = until.Add(restTime)
		} else {
			again = false
		}
		if rc.SetReadDeadline(until) != nil || !again {
			w.Header().Set("Connection", "close")
		}
		defer func() {
			if rc.Flush() == nil {
				_, _ = io.CopyN(io.Discard, r.Body, maxRest)
			}
		}()
	}
	if no.retryAfter != "" {
		w.Header().Set("Retry-After", no.retryAfter)
	}
	answer, _ := json.Marshal(map[string]any{ // of these it cannot fail
		"title": http.StatusText(no.status), "status": no.status, "detail": no.detail,
	})
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer))) // it ends here, not when the request does
	w.WriteHeader(no.status)
	_, _ = w.Write(answer)
}

// take does the work. On refusal the result says how far it had come.
func (h *Handler) take(w http.ResponseWriter, r *http.Request, tenant, origin string) (Result, *refusal) {
	typ, no := h.check(r)
	if no != nil {
		return Result{}, no
	}
	if r.ContentLength > h.o.MaxBody {
		return Result{}, tooLong(h.o.MaxBody)
	}
	if !h.room.enter() {
		return Result{}, full()
	}
	t := &taking{h: h, tenant: tenant, origin: origin, typ: typ}
	defer func() { h.room.leave(t.held) }()

	// A client that stops in the middle must not hold its place for ever.
	if err := http.NewResponseController(w).SetReadDeadline(h.o.Clock().Add(h.o.Timeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return Result{}, &refusal{status: http.StatusInternalServerError, detail: "The connection cannot be bounded.", err: err}
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.o.Timeout)
	defer cancel()

	body := &source{in: http.MaxBytesReader(w, r.Body, h.o.MaxBody)}
	if strings.EqualFold(r.Header.Get("Content-Encoding"), "gzip") && !body.startsGzip() {
		// The splitter tells gzip by itself, but would take anything else for text.
		return Result{}, readRefusal(body.err, &refusal{status: http.StatusBadRequest, detail: "Content-Encoding says gzip, but the body is not."})
	}
	no = t.run(ctx, body)
	h.metrics.bytes.Add(float64(body.n))
	return t.res, no
}

// check looks at everything but the body.
func (h *Handler) check(r *http.Request) (event.Type, *refusal) {
	if r.Method != http.MethodPost {
		return "", &refusal{status: http.StatusMethodNotAllowed, detail: "Send it by POST."}
	}
	typ := event.TypeUnknown
	for name, vs := range r.URL.Query() {
		if name != "type" || len(vs) != 1 {
			return "", &refusal{status: http.StatusBadRequest, detail: "The only parameter is type, at most once."}
		}
		typ = event.Type(vs[0])
		if !slices.Contains(h.o.Types, typ) {
			return "", &refusal{status: http.StatusBadRequest, detail: fmt.Sprintf("There is no such log type. Known are %v; without one it is told from the content.", h.o.Types)}
		}
	}
	switch strings.ToLower(r.Header.Get("Content-Encoding")) {
	case "", "identity", "gzip":
	default:
		return "", &refusal{status: http.StatusUnsupportedMediaType, detail: "The only content encoding is gzip."}
	}
	if ct := r.Header.Get("Content-Type"); ct != "" {
		m, _, err := mime.ParseMediaType(ct)
		if err != nil || !slices.Contains(mediaTypes, m) {
			return "", &refusal{status: http.StatusUnsupportedMediaType, detail: "Content types are " + strings.Join(mediaTypes, ", ") + "."}
		}
	}
	return typ, nil
}

// mediaTypes are what senders call JSON, JSON lines and text. The form type is
// what curl -d says when told nothing; browsers are kept out by their Origin.
var mediaTypes = []string{
	"application/json", "application/x-ndjson", "application/jsonl", "application/x-jsonlines", "application/json-lines",
	"application/gzip", "application/x-gzip", "application/octet-stream", "text/plain", "application/x-www-form-urlencoded",
}

func tooLong(limit int64) *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("A body may have %d bytes: send several.", limit)}
}

// readRefusal says what an error in reading the body means; other is the answer
// if the body was read well.
func readRefusal(err error, other *refusal) *refusal {
	var long *http.MaxBytesError
	switch {
	case err == nil:
		return other
	case errors.As(err, &long):
		return tooLong(long.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{status: http.StatusRequestTimeout, detail: "The body did not arrive in time.", err: err}
	}
	return &refusal{status: http.StatusBadRequest, detail: "The body could not be read to its end.", err: err}
}

// source is the body. It counts what is read and keeps the error of reading.
type source struct {
	in   io.Reader
	head []byte // read already
	n    int64
	err  error
}

// startsGzip looks at the first bytes.
func (s *source) startsGzip() bool {
	head := make([]byte, 3)
	n, _ := io.ReadFull(s, head)
	s.head = head[:n]
	return n == 3 && head[0] == 0x1f && head[1] == 0x8b && head[2] == 8
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.head) > 0 {
		n := copy(p, s.head)
		s.head = s.head[n:]
		return n, nil
	}
	n, err := s.in.Read(p)
	s.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
