package api

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"sync"
	"time"
)

const (
	sessionAge   = 12 * time.Hour
	sessionLimit = 4096
)

// sessions holds who is signed in, by the hash of what the cookie says.
type sessions struct {
	mu   sync.Mutex
	open map[[sha256.Size]byte]session
}

// session stands for a token in a browser. The token is looked up anew at every
// request: its hash is all that is kept.
type session struct {
	token   [sha256.Size]byte
	csrf    string
	expires time.Time
}

func random() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// start opens a session and returns what its cookie says.
func (ss *sessions) start(token [sha256.Size]byte, now time.Time) string {
	id := random()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if len(ss.open) >= sessionLimit {
		ss.makeRoom(now)
	}
	ss.open[sha256.Sum256([]byte(id))] = session{token: token, csrf: random(), expires: now.Add(sessionAge)}
	return id
}

// makeRoom drops what has expired, and the oldest session.
func (ss *sessions) makeRoom(now time.Time) {
	var oldest [sha256.Size]byte
	var least time.Time
	for k, s := range ss.open {
		if !now.Before(s.expires) {
			delete(ss.open, k)
		} else if least.IsZero() || s.expires.Before(least) {
			oldest, least = k, s.expires
		}
	}
	delete(ss.open, oldest)
}

func (ss *sessions) get(id string, now time.Time) (session, bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	s, ok := ss.open[sha256.Sum256([]byte(id))]
	if !ok || !now.Before(s.expires) {
		return session{}, false
	}
	return s, true
}

func (ss *sessions) end(id string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.open, sha256.Sum256([]byte(id)))
}

// honest reports whether a form carries the session's own mark.
func (s session) honest(form string) bool {
	return s.csrf != "" && subtle.ConstantTimeCompare([]byte(s.csrf), []byte(form)) == 1
}

// secure reports whether cookies may be bound to TLS.
func (s *Server) secure(r *http.Request) bool { return s.o.SecureCookies || r.TLS != nil }

// cookieName carries the __Host- prefix where browsers allow it: a sibling domain
// cannot plant such a cookie.
func (s *Server) cookieName(r *http.Request) string {
	if s.secure(r) {
		return "__Host-vedette"
	}
	return "vedette"
}

func (s *Server) cookie(r *http.Request, value string, age time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: s.cookieName(r), Value: value, Path: "/", MaxAge: int(age.Seconds()),
		HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteStrictMode,
	}
}
