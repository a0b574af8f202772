package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/secret"
)

// Scope is a right that a token gives.
type Scope string

// The scopes. Write includes read; ingest includes nothing.
const (
	ScopeIngest Scope = "ingest"
	ScopeRead   Scope = "read"
	ScopeWrite  Scope = "write"
)

// ParseScope reads a scope's name.
func ParseScope(s string) (Scope, error) {
	switch sc := Scope(s); sc {
	case ScopeIngest, ScopeRead, ScopeWrite:
		return sc, nil
	}
	return "", errors.New("scope: want ingest, read or write")
}

// Token is what is kept of a token: everything but itself.
type Token struct {
	ID        string // a UUID
	Tenant    string
	Name      string
	Scopes    []Scope
	Hash      [sha256.Size]byte // of the secret
	CreatedAt time.Time
	RevokedAt time.Time // zero if it is in force
}

// Allows reports whether the token gives the right.
func (t Token) Allows(want Scope) bool {
	for _, s := range t.Scopes {
		if s == want || s == ScopeWrite && want == ScopeRead {
			return true
		}
	}
	return false
}

// Tokens is where tokens are looked up.
type Tokens interface {
	// TokenByHash returns the token whose secret has this SHA-256, revoked or not,
	// or ErrNotFound.
	TokenByHash(ctx context.Context, hash [sha256.Size]byte) (Token, error)
}

const (
	secretPrefix = "vdt_"
	secretBytes  = 32
)

// Secret is a token as its holder knows it: "vdt_" and 32 random bytes in
// base64url. Only its SHA-256 is stored. It shows itself to nobody but Reveal's
// caller.
type Secret struct{ text }

// text is embedded, and not to be set from outside.
type text = secret.String

// NewSecret draws a secret.
func NewSecret() Secret {
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails
	return Secret{text(secretPrefix + base64.RawURLEncoding.EncodeToString(b[:]))}
}

// ParseSecret takes a secret from text; what does not look like one is refused
// without being repeated.
func ParseSecret(s string) (Secret, error) {
	body, ok := strings.CutPrefix(s, secretPrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(secretBytes) {
		return Secret{}, errors.New("not a token: want " + secretPrefix + " and 43 characters")
	}
	if _, err := base64.RawURLEncoding.DecodeString(body); err != nil {
		return Secret{}, errors.New("not a token: not base64url")
	}
	return Secret{text(s)}, nil
}

// Hash is what is stored of the secret. It needs no salt and no stretching: 256
// random bits cannot be guessed.
func (s Secret) Hash() [sha256.Size]byte { return sha256.Sum256([]byte(s.Reveal())) }

// AdminTokens is where the admin token is kept in step with its file.
type AdminTokens interface {
	Tokens
	// PutToken creates the token of this tenant and name, or gives the one that is
	// there the hash and scopes and puts it into force. The old secret is void.
	PutToken(ctx context.Context, t Token) error
}

// EnsureAdminToken makes sure that the file holds a token of the given name with
// all scopes that is in force, and returns it. A file that already does is left
// as it is; one that cannot be read as a token, or whose token was revoked, gets
// a new one. The file is written first and atomically, with mode 0600: a crash in
// between is mended by the next call.
func EnsureAdminToken(ctx context.Context, store AdminTokens, tenant, name, file string) (Secret, error) {
	all := []Scope{ScopeIngest, ScopeRead, ScopeWrite}
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Secret{}, fmt.Errorf("read admin token: %w", err)
	}
	secret, perr := ParseSecret(strings.TrimSpace(string(b)))
	if perr == nil {
		t, err := store.TokenByHash(ctx, secret.Hash())
		switch {
		case errors.Is(err, ErrNotFound): // the file got further than the store
		case err != nil:
			return Secret{}, fmt.Errorf("look up admin token: %w", err)
		case t.RevokedAt.IsZero() && t.Tenant == tenant && t.Allows(ScopeIngest) && t.Allows(ScopeWrite):
			return secret, restrict(file)
		default:
			perr = errors.New("revoked")
		}
	}
	if perr != nil {
		secret = NewSecret()
		if err := writeSecret(file, secret); err != nil {
			return Secret{}, fmt.Errorf("write admin token: %w", err)
		}
	}
	if err := store.PutToken(ctx, Token{Tenant: tenant, Name: name, Scopes: all, Hash: secret.Hash()}); err != nil {
		return Secret{}, fmt.Errorf("store admin token: %w", err)
	}
	return secret, restrict(file)
}

// restrict takes everybody else's rights on the file away, if they have any.
func restrict(file string) error {
	fi, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	if fi.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(file, 0o600); err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	return nil
}

func writeSecret(file string, s Secret) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".token-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.WriteString(s.Reveal() + "\n"); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
