package servicetest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Receiver is an endpoint of webhooks that keeps what it is told.
type Receiver struct {
	server *httptest.Server

	mu     sync.Mutex
	bodies []string
}

// NewReceiver listens until the test ends.
func NewReceiver(t testing.TB) *Receiver {
	r := &Receiver{}
	r.server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return // the sender died: it was not told
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bodies = append(r.bodies, string(b))
	}))
	t.Cleanup(r.server.Close)
	return r
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
