package push_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/ingest/push"
)

// slow is a client that sends what it is told to and no more.
type slow struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, srv *httptest.Server, headers, body string) slow {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c := slow{conn, bufio.NewReader(conn)}
	c.send(t, "POST /v1/logs HTTP/1.1\r\nHost: x\r\n"+headers+"\r\n"+body)
	return c
}

func (c slow) send(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func (c slow) wants(t *testing.T, status int) answer {
	t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res, string(b)}.wants(t, status)
}

// What a client may announce without sending more than a byte of it.
var stalled = map[string]struct{ headers, body string }{
	"chunked":      {"Transfer-Encoding: chunked\r\n", "1\r\n{\r\n"},
	"length":       {"Content-Length: 1000\r\n", "{"},
	"great length": {"Content-Length: 1000000\r\n", "{"},
	"gzip":         {"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "1\r\n\x1f\r\n"},
}

// A client that stops in the middle is let go.
func TestSlowClient(t *testing.T) {
	srv := serve(t, new(recorder), func(o *push.Options) { o.Timeout = 50 * time.Millisecond })
	for name, tc := range stalled {
		t.Run(name, func(t *testing.T) {
			dial(t, srv, tc.headers, tc.body).wants(t, 408)
		})
	}
}

// Over the bounds of what is taken at once a client is told to come back, and
// when there is room again it is taken.
func TestBackPressure(t *testing.T) {
	for name, edit := range map[string]func(*push.Options){
		"requests": func(o *push.Options) { o.MaxRequests = 1 },
		"bytes":    func(o *push.Options) { o.MaxBody, o.MaxInFlight = 10, 10 },
	} {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{enter: make(chan struct{}), leave: make(chan struct{})}
			reg := prometheus.NewRegistry()
			srv := serve(t, rec, func(o *push.Options) {
				edit(o)
				o.Registerer = reg
			})
			first := make(chan answer)
			go func() { first <- post(t, srv, "", strings.NewReader(`{"a":1}`)) }()
			<-rec.enter
			for _, body := range []io.Reader{strings.NewReader(`{"a":2}`), io.MultiReader(strings.NewReader(`{"a":2}`))} {
				res := post(t, srv, "", body).wants(t, 429)
				if res.Header.Get("Retry-After") != "1" {
					t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
				}
			}
			wantInFlight(t, reg, 16<<10+7) // the buffer and the record
			close(rec.leave)
			(<-first).wantsResult(t, 1, 0)
			go func() { <-rec.enter }()
			post(t, srv, "", strings.NewReader(`{"a":3}`)).wantsResult(t, 1, 0)
			wantInFlight(t, reg, 0)
		})
	}
}

func wantInFlight(t *testing.T, reg *prometheus.Registry, n int) {
	t.Helper()
	if err := testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
# HELP vedette_push_in_flight_bytes Bytes that pushes hold in memory.
# TYPE vedette_push_in_flight_bytes gauge
vedette_push_in_flight_bytes %d
`, n)), "vedette_push_in_flight_bytes"); err != nil {
		t.Error(err)
	}
}

// Clients that announce much and send nothing keep nobody else out.
func TestIdleClientsTakeNoRoom(t *testing.T) {
	srv := serve(t, new(recorder), func(o *push.Options) {
		o.MaxBody, o.MaxInFlight, o.MaxRequests = 32<<20, 128<<20, 64
	})
	for range 5 {
		for _, headers := range []string{"Transfer-Encoding: chunked\r\n", "Content-Length: 33000000\r\n"} {
			// It is being read when it is told to go on.
			c := dial(t, srv, headers+"Expect: 100-continue\r\n", "")
			if line, err := c.r.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
				t.Fatalf("answer %q, %v", line, err)
			}
		}
	}
	body := strings.Repeat(`{"a":"`+strings.Repeat("x", 1000)+"\"}\n", 3000)
	post(t, srv, "", strings.NewReader(body)).wantsResult(t, 3000, 0)
	post(t, srv, "", io.MultiReader(strings.NewReader(body))).wantsResult(t, 3000, 0)
}

// When there is little room, batches are small: whoever was let in goes on as long
// as a record fits.
func TestLittleRoom(t *testing.T) {
	const inFlight = 256 << 10
	rec := &recorder{enter: make(chan struct{}), leave: make(chan struct{})}
	reg := prometheus.NewRegistry()
	srv := serve(t, rec, func(o *push.Options) { o.MaxInFlight, o.Registerer = inFlight, reg })
	line := `{"a":"` + strings.Repeat("x", 1000) + "\"}\n"
	answers := make(chan answer)
	for range 3 {
		go func() { answers <- post(t, srv, "", io.MultiReader(strings.NewReader(strings.Repeat(line, 60)))) }()
		<-rec.enter // holds 16 KiB and 60 KiB
	}
	go func() { answers <- post(t, srv, "", io.MultiReader(strings.NewReader(strings.Repeat(line, 3000)))) }()
	<-rec.enter // with a part: more does not fit
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if used := f.GetMetric()[0].GetGauge().GetValue(); f.GetName() == "vedette_push_in_flight_bytes" && (used < inFlight/2 || used > inFlight) {
			t.Errorf("%v bytes are held of %d", used, inFlight)
		}
	}
	close(rec.leave)
	go func() {
		for range rec.enter {
		}
	}()
	for range 4 {
		(<-answers).wants(t, 202)
	}
	close(rec.enter)
	if len(rec.got) != 3180 {
		t.Errorf("%d records", len(rec.got))
	}
	wantInFlight(t, reg, 0)
}

// An answer does not wait for a client that does not send the rest of its body.
func TestRefusalsDoNotWait(t *testing.T) {
	for name, tc := range stalled {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{enter: make(chan struct{}), leave: make(chan struct{})}
			srv := serve(t, rec, func(o *push.Options) { o.MaxRequests = 1 })
			done := make(chan struct{})
			go func() {
				defer close(done)
				post(t, srv, "", strings.NewReader(`{"a":1}`)).wantsResult(t, 1, 0)
			}()
			<-rec.enter
			res := dial(t, srv, tc.headers, tc.body).wants(t, 429)
			if res.Header.Get("Retry-After") != "1" {
				t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
			}
			close(rec.leave)
			<-done
		})
	}
	t.Run("kafka away", func(t *testing.T) {
		srv := serve(t, &recorder{err: errors.New("away")}, nil)
		line := `{"a":"` + strings.Repeat("x", 1<<20) + "\"}\n"
		dial(t, srv, fmt.Sprintf("Content-Length: %d\r\n", len(line)+1000), line).wants(t, 503)
	})
	t.Run("wrong", func(t *testing.T) {
		srv := serve(t, new(recorder), nil)
		c := dial(t, srv, "Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n", "1\r\n{\r\n")
		c.wants(t, 415)
		if n, err := c.r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("the connection stays: %v", err)
		}
	})
}

// Connections are used again after "come back later" if little is left of the body,
// unless too many wait for their clients already.
func TestConnectionsAfterRefusals(t *testing.T) {
	later := func() time.Time { return time.Now().Add(time.Hour) } // a second after it is long
	srv := serve(t, &recorder{err: errors.New("away")}, func(o *push.Options) { o.Clock, o.MaxRequests = later, 1 })
	refused := func(headers, body string, closes bool) slow {
		t.Helper()
		c := dial(t, srv, headers, body)
		if res := c.wants(t, 503); res.Close != closes {
			t.Errorf("connection closes: %v, want %v", res.Close, closes)
		}
		return c
	}
	c := refused("Content-Length: 7\r\n", `{"a":1}`, false)
	c.send(t, "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\"a\":2}")
	c.wants(t, 503)
	// So much that it is written before the body is at its end.
	line := `{"a":"` + strings.Repeat("x", 1<<20) + "\"}\n"
	refused("Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n", len(line), line), true) // and now it is waited for
	refused("Content-Length: 7\r\n", `{"a":1}`, true)
}

// The greatest record there may be is taken even if it needs more room than there
// is, as long as nobody else is there.
func TestAloneThereIsRoom(t *testing.T) {
	const maxRecord = 1 << 20
	srv := serve(t, new(recorder), func(o *push.Options) { o.MaxRecord, o.MaxInFlight = maxRecord, 64<<10 })
	body := `{"a":"` + strings.Repeat("x", maxRecord-8) + `"}`
	post(t, srv, "", strings.NewReader(body)).wantsResult(t, 1, 0)
	post(t, srv, "", bytes.NewReader(zip(t, body))).wantsResult(t, 1, 0)
}
