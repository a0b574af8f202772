package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// principal is on whose behalf a request is handled.
type principal struct {
	tenant string
	name   string // the token's; goes into audit entries and the log
	token  *Token // nil for a viewer on this machine
	viewer bool
}

func (p principal) allows(s Scope) bool {
	if p.token != nil {
		return p.token.Allows(s)
	}
	return p.viewer && s == ScopeRead
}

// bearer is the secret of the Authorization header.
func bearer(r *http.Request) (Secret, error) {
	hs := r.Header.Values("Authorization")
	if len(hs) != 1 {
		return Secret{}, errors.New("want one Authorization header")
	}
	scheme, rest, _ := strings.Cut(hs[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Secret{}, errors.New("want a bearer token")
	}
	return ParseSecret(strings.TrimSpace(rest))
}

// authorize finds out whose request it is and whether the token gives the right.
func (s *Server) authorize(r *http.Request, want Scope) (principal, *answer) {
	secret, err := bearer(r)
	if err != nil {
		return principal{}, &answer{
			status: http.StatusUnauthorized, challenge: true, cause: err,
			detail: "Send a token: Authorization: Bearer vdt_…",
		}
	}
	p, a := s.identify(r.Context(), secret.Hash())
	if a != nil {
		return principal{}, a
	}
	setPrincipal(r.Context(), p)
	if !p.allows(want) {
		return principal{}, &answer{status: http.StatusForbidden, detail: "The token does not give this right: it takes one of scope " + string(want) + "."}
	}
	return p, nil
}

// identify looks a token up by its hash.
func (s *Server) identify(ctx context.Context, hash [sha256.Size]byte) (principal, *answer) {
	t, err := s.tokens.lookup(ctx, hash, s.o.Clock())
	switch {
	case errors.Is(err, ErrNotFound):
		return principal{}, &answer{status: http.StatusUnauthorized, challenge: true, detail: "The token is not known or was revoked.", cause: err}
	case err != nil:
		return principal{}, &answer{status: http.StatusServiceUnavailable, retryAfter: 5, detail: "The database is away: tokens cannot be checked. Try again.", cause: err}
	}
	return principal{tenant: t.Tenant, name: t.Name, token: &t}, nil
}

// How long a token that was looked up is taken as it was, and how long if the
// store cannot be asked: nobody can revoke a token then, and ingest goes on
// without the database.
const (
	tokenFresh = time.Second
	tokenStale = 10 * time.Minute
	tokenCache = 4096
)

// tokenLookup remembers tokens for a moment, so that a client that pushes in a
// loop does not cost a query a request. Unknown tokens are not remembered.
type tokenLookup struct {
	store Tokens
	mu    sync.Mutex
	known map[[sha256.Size]byte]knownToken
}

type knownToken struct {
	t  Token
	at time.Time
}

func (l *tokenLookup) lookup(ctx context.Context, hash [sha256.Size]byte, now time.Time) (Token, error) {
	l.mu.Lock()
	k, ok := l.known[hash]
	l.mu.Unlock()
	if ok && now.Sub(k.at) < tokenFresh {
		return k.t, nil
	}
	t, err := l.store.TokenByHash(ctx, hash)
	if err == nil && (!t.RevokedAt.IsZero() || subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1) {
		err = ErrNotFound
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		if len(l.known) >= tokenCache {
			clear(l.known)
		}
		l.known[hash] = knownToken{t, now}
	case errors.Is(err, ErrNotFound):
		delete(l.known, hash)
	case ok && now.Sub(k.at) < tokenStale:
		return k.t, nil
	}
	return t, err
}

// onLoopback reports whether the request was made on this machine, to this
// machine by a name or address that only means itself, and not through a proxy.
// A DNS name that was rebound to 127.0.0.1 fails the second test.
func onLoopback(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.IsLoopback()
}
