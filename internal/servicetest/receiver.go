package servicetest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Receiver is an endpoint of webhooks that keeps what it is told.
type Receiver struct {
	server *httptest.Server

	mu     sync.Mutex
	bodies []string
	moody  func() (status int, wait time.Duration)
}

// NewReceiver listens until the test ends.
func NewReceiver(t testing.TB) *Receiver {
	r := &Receiver{}
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return // the sender died: it was not told
		}
		status, wait := r.take(string(b))
		select {
		case <-time.After(wait):
		case <-req.Context().Done():
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.server.Close)
	return r
}

func (r *Receiver) take(body string) (status int, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	status = http.StatusOK
	if r.moody != nil {
		status, wait = r.moody()
	}
	if status == http.StatusOK {
		r.bodies = append(r.bodies, body)
	}
	return status, wait
}

// Moody has it answer as mood says, one message after the other: with a status, of
// which only 200 means that it takes the message, and that late.
func (r *Receiver) Moody(mood func() (status int, wait time.Duration)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moody = mood
}

// URL is where it listens.
func (r *Receiver) URL() string { return r.server.URL }

// Bodies are what it was told, in order.
func (r *Receiver) Bodies() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.bodies...)
}

// Told reports whether some message had all the words in it.
func (r *Receiver) Told(words ...string) bool {
	for _, b := range r.Bodies() {
		all := true
		for _, w := range words {
			all = all && strings.Contains(b, w)
		}
		if all {
			return true
		}
	}
	return false
}
