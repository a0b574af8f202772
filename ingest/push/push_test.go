package push_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/ingest/push"
	"github.com/vedette-sec/vedette/stream"
)

// recorder is Kafka as far as push sees it. It copies what it is given, as it may
// not keep it.
type recorder struct {
	mu     sync.Mutex
	got    []stream.LogMessage
	dead   []stream.DeadLetter
	calls  int // of Append
	letter int // calls of DeadLetters
	err    error
	failAt int           // the call that fails, from 1; 0: all, if err is set
	enter  chan struct{} // told of each Append, if not nil
	leave  chan struct{} // Append waits for it, if not nil
}

func (r *recorder) Append(ctx context.Context, ms []stream.LogMessage) error {
	if r.enter != nil {
		r.enter <- struct{}{}
		select {
		case <-r.leave:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.err != nil && (r.failAt == 0 || r.failAt == r.calls) {
		return r.err
	}
	for _, m := range ms {
		m.Value = bytes.Clone(m.Value)
		r.got = append(r.got, m)
	}
	return nil
}

func (r *recorder) DeadLetters(_ context.Context, ds []stream.DeadLetter) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.letter++
	if r.err != nil {
		return r.err
	}
	for _, d := range ds {
		d.Value = bytes.Clone(d.Value)
		r.dead = append(r.dead, d)
	}
	return nil
}

func (r *recorder) values() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var vs []string
	for _, m := range r.got {
		vs = append(vs, string(m.Value))
	}
	return vs
}

func serve(t *testing.T, a push.Appender, edit func(*push.Options)) *httptest.Server {
	t.Helper()
	o := push.Options{Appender: a, Registerer: prometheus.NewRegistry()}
	if edit != nil {
		edit(&o)
	}
	h, err := push.New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServePush(w, r, "default", "push:ci") }))
	t.Cleanup(srv.Close)
	return srv
}

type answer struct {
	*http.Response
	body string
}

func post(t *testing.T, srv *httptest.Server, query string, body io.Reader, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/v1/logs"+query, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res, string(b)}
}

func (a answer) wants(t *testing.T, status int) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("status %d, want %d: %s", a.StatusCode, status, a.body)
	}
	want := "application/problem+json"
	if status == 202 {
		want = "application/json"
	}
	if got := a.Header.Get("Content-Type"); got != want {
		t.Errorf("content type %s, want %s", got, want)
	}
	return a
}

func (a answer) wantsResult(t *testing.T, accepted, dead int) {
	t.Helper()
	a.wants(t, 202)
	if want := fmt.Sprintf(`{"accepted":%d,"dead_lettered":%d}`, accepted, dead); strings.TrimSpace(a.body) != want {
		t.Errorf("answer %s, want %s", a.body, want)
	}
}

func zip(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const envelope = `{"messageType":"DATA_MESSAGE","owner":"111122223333","logGroup":"/aws/lambda/f","logStream":"s","subscriptionFilters":[],` +
	`"logEvents":[{"id":"1","timestamp":1767225600000,"message":"START"},{"id":"2","timestamp":1767225600001,"message":"END"}]}`

var shapes = map[string]struct {
	body string
	want []string
}{
	"lines":       {`{"a":1}` + "\n" + `{"a":2}` + "\n", []string{`{"a":1}`, `{"a":2}`}},
	"one":         {`{"a":1}`, []string{`{"a":1}`}},
	"Records":     {`{"Records":[{"a":1},{"a":2}]}`, []string{`{"a":1}`, `{"a":2}`}},
	"array":       {`[{"a":1},{"a":2}]`, []string{`{"a":1}`, `{"a":2}`}},
	"text":        {"START RequestId: 1\nEND RequestId: 1\n", []string{"START RequestId: 1", "END RequestId: 1"}},
	"empty":       {"", nil},
	"blank lines": {"\n\n", nil},
	"envelope": {envelope, []string{
		`{"owner":"111122223333","logGroup":"/aws/lambda/f","logStream":"s","id":"1","timestamp":1767225600000,"message":"START"}`,
		`{"owner":"111122223333","logGroup":"/aws/lambda/f","logStream":"s","id":"2","timestamp":1767225600001,"message":"END"}`,
	}},
}

func TestShapes(t *testing.T) {
	for name, tc := range shapes {
		for how, f := range map[string]func(*httptest.Server) answer{
			"plain": func(srv *httptest.Server) answer { return post(t, srv, "", strings.NewReader(tc.body)) },
			"gzip, told": func(srv *httptest.Server) answer {
				return post(t, srv, "", bytes.NewReader(zip(t, tc.body)), "Content-Encoding", "gzip", "Content-Type", "application/json")
			},
			"gzip, found": func(srv *httptest.Server) answer {
				return post(t, srv, "", bytes.NewReader(zip(t, tc.body)), "Content-Type", "application/gzip")
			},
			"chunked": func(srv *httptest.Server) answer { return post(t, srv, "", io.MultiReader(strings.NewReader(tc.body))) },
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				rec := new(recorder)
				f(serve(t, rec, nil)).wantsResult(t, len(tc.want), 0)
				if diff := cmp.Diff(tc.want, rec.values()); diff != "" {
					t.Errorf("records (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestWhatARecordCarries(t *testing.T) {
	rec := new(recorder)
	post(t, serve(t, rec, nil), "?type=aws.cloudtrail", strings.NewReader(`{"a":1}`)).wantsResult(t, 1, 0)
	want := []stream.LogMessage{{Tenant: "default", Origin: "push:ci", Type: "aws.cloudtrail", Value: []byte(`{"a":1}`)}}
	if diff := cmp.Diff(want, rec.got); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}

func TestPiecesThatAreNoRecords(t *testing.T) {
	const maxRecord = 100 << 10
	long := `{"a":"` + strings.Repeat("x", maxRecord) + `"}`
	rec := new(recorder)
	srv := serve(t, rec, func(o *push.Options) { o.MaxRecord = maxRecord })
	post(t, srv, "?type=aws.lambda", strings.NewReader(`{"a":1}`+"\n"+long+"\n"+`{"cut":`+"\n"+`{"a":2}`+"\n")).wantsResult(t, 2, 2)
	if diff := cmp.Diff([]string{`{"a":1}`, `{"a":2}`}, rec.values()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if len(rec.dead) != 2 {
		t.Fatalf("%d dead letters", len(rec.dead))
	}
	d := rec.dead[0]
	sum := sha256.Sum256([]byte(long))
	if d.Reason != "too_large" || d.SHA256 != hex.EncodeToString(sum[:]) || len(d.Value) != 64<<10 || !strings.HasPrefix(long, string(d.Value)) {
		t.Errorf("dead letter: %s, %s, %d bytes", d.Reason, d.SHA256, len(d.Value))
	}
	if d.Tenant != "default" || d.Origin != "push:ci" || d.Type != "aws.lambda" || d.Partition != -1 {
		t.Errorf("dead letter %+v", d)
	}
	if d := rec.dead[1]; !strings.HasPrefix(string(d.Value), `{"cut":`) || d.SHA256 == "" {
		t.Errorf("dead letter: %s, %q", d.Reason, d.Value)
	}
}

func TestDamagedGzipIsKept(t *testing.T) {
	rec := new(recorder)
	b := zip(t, strings.Repeat(`{"a":"`+strings.Repeat("x", 100)+"\"}\n", 1000))
	res := post(t, serve(t, rec, nil), "", bytes.NewReader(b[:len(b)/2]), "Content-Encoding", "gzip").wants(t, 202)
	var got push.Result
	if err := json.Unmarshal([]byte(res.body), &got); err != nil {
		t.Fatal(err)
	}
	if got.DeadLettered != 1 || rec.dead[0].Reason != "bad_gzip" || int(got.Accepted) != len(rec.got) {
		t.Errorf("got %+v, dead %+v", got, rec.dead)
	}
}

// A log that is none at all is not worth a round trip a line, nor a dead letter a
// line each time it is sent.
func TestRubbishIsRefused(t *testing.T) {
	rec := new(recorder)
	srv := serve(t, rec, nil)
	for range 2 {
		res := post(t, srv, "", strings.NewReader(strings.Repeat("{\"EVIL\n", 5000))).wants(t, 400)
		if res.Header.Get("Retry-After") != "" {
			t.Error("told to come back, although it is final")
		}
	}
	if len(rec.dead) > 0 {
		t.Errorf("%d dead letters", len(rec.dead))
	}
	post(t, srv, "", strings.NewReader(strings.Repeat("{\"cut\n", 999)+`{"a":1}`)).wantsResult(t, 1, 999)
	if len(rec.dead) != 999 || rec.letter != 1 {
		t.Errorf("%d dead letters in %d calls, want 999 in one", len(rec.dead), rec.letter)
	}
}

// Dead letters wait for each other in bounded memory.
func TestLongDeadLettersAreWrittenOnTheWay(t *testing.T) {
	const maxRecord = 64 << 10
	rec := new(recorder)
	srv := serve(t, rec, func(o *push.Options) { o.MaxRecord = maxRecord })
	long := `{"a":"` + strings.Repeat("x", maxRecord) + `"}` + "\n"
	post(t, srv, "", strings.NewReader(strings.Repeat(long, 40))).wantsResult(t, 0, 40)
	if rec.letter != 3 { // of 1 MiB
		t.Errorf("%d calls for 40 letters of 64 KiB", rec.letter)
	}
}

func TestRefusals(t *testing.T) {
	rec := new(recorder)
	srv := serve(t, rec, func(o *push.Options) { o.MaxBody, o.MaxExpanded = 1<<10, 1<<20 })
	big := strings.Repeat(`{"EVIL":1}`+"\n", 200)
	for name, tc := range map[string]struct {
		query   string
		body    io.Reader
		headers []string
		status  int
	}{
		"type":            {"?type=EVIL", strings.NewReader("{}"), nil, 400},
		"type empty":      {"?type=", strings.NewReader("{}"), nil, 400},
		"type twice":      {"?type=aws.lambda&type=aws.lambda", strings.NewReader("{}"), nil, 400},
		"parameter":       {"?EVIL=1", strings.NewReader("{}"), nil, 400},
		"media type":      {"", strings.NewReader("{}"), []string{"Content-Type", "application/EVIL"}, 415},
		"media type junk": {"", strings.NewReader("{}"), []string{"Content-Type", ";;EVIL"}, 415},
		"encoding":        {"", strings.NewReader("{}"), []string{"Content-Encoding", "br"}, 415},
		"encodings":       {"", strings.NewReader("{}"), []string{"Content-Encoding", "gzip, gzip"}, 415},
		"no gzip":         {"", strings.NewReader(`{"EVIL":1}`), []string{"Content-Encoding", "gzip"}, 400},
		"long":            {"", strings.NewReader(big), nil, 413},
		"long, chunked":   {"", io.MultiReader(strings.NewReader(big)), nil, 413},
		"long, gzip":      {"", io.MultiReader(bytes.NewReader(zip(t, strings.Repeat("EVIL", 1<<17))), strings.NewReader(big)), []string{"Content-Encoding", "gzip"}, 413},
	} {
		t.Run(name, func(t *testing.T) {
			res := post(t, srv, tc.query, tc.body, tc.headers...).wants(t, tc.status)
			if strings.Contains(strings.ToUpper(res.body), "EVIL") {
				t.Errorf("echoed: %s", res.body)
			}
		})
	}
}

// A small body that becomes large is cut off where the bound is, not where memory ends.
func TestDecompressionBomb(t *testing.T) {
	rec := new(recorder)
	srv := serve(t, rec, func(o *push.Options) { o.MaxExpanded = 8 << 20 })
	bomb := zip(t, strings.Repeat(strings.Repeat("x", 1023)+"\n", 32<<10))
	post(t, srv, "", bytes.NewReader(bomb), "Content-Encoding", "gzip").wants(t, 413)
	if n := len(rec.got); n > 8<<10 {
		t.Errorf("%d records of 1 KiB were taken of 8 MiB", n)
	}
}

func TestKafkaAway(t *testing.T) {
	body := strings.Repeat(`{"a":"`+strings.Repeat("x", 1000)+"\"}\n", 3000) // three batches
	for name, rec := range map[string]*recorder{
		"at once":  {err: errors.New("dial secret:9092")},
		"half way": {err: errors.New("dial secret:9092"), failAt: 2},
	} {
		t.Run(name, func(t *testing.T) {
			res := post(t, serve(t, rec, nil), "", strings.NewReader(body)).wants(t, 503)
			if res.Header.Get("Retry-After") == "" || strings.Contains(res.body, "secret") {
				t.Errorf("answer %v: %s", res.Header, res.body)
			}
		})
	}
	t.Run("dead letters", func(t *testing.T) {
		post(t, serve(t, &recorder{err: errors.New("away")}, nil), "", strings.NewReader(`{"cut`)).wants(t, 503)
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	srv := serve(t, new(recorder), func(o *push.Options) { o.Registerer = reg })
	post(t, srv, "", strings.NewReader("a\nb\n{\"cut")).wantsResult(t, 2, 1)
	post(t, srv, "?type=x", strings.NewReader("a")).wants(t, 400)
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP vedette_push_records_total Records pushed and acknowledged by Kafka, by result.
# TYPE vedette_push_records_total counter
vedette_push_records_total{result="accepted"} 2
vedette_push_records_total{result="dead_lettered"} 1
# HELP vedette_push_received_bytes_total Bytes of bodies read, as sent.
# TYPE vedette_push_received_bytes_total counter
vedette_push_received_bytes_total 9
# HELP vedette_push_refused_requests_total Pushes refused, by status code.
# TYPE vedette_push_refused_requests_total counter
vedette_push_refused_requests_total{code="400"} 1
`), "vedette_push_records_total", "vedette_push_received_bytes_total", "vedette_push_refused_requests_total"); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]push.Options{
		"Appender":   {Registerer: prometheus.NewRegistry()},
		"Registerer": {Appender: new(recorder)},
	} {
		if _, err := push.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one about %s", err, want)
		}
	}
}
