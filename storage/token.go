package storage

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

var _ api.AdminTokens = (*DB)(nil)

// ErrExists says that the tenant has, or had, a token of this name. Names are not
// given twice: the audit trail refers to them.
var ErrExists = errors.New("there is, or was, a token of this name")

// maxTokenName bounds a token's name, which travels with every record pushed.
const maxTokenName = 100

// TokenByHash returns the token whose secret has this SHA-256, revoked or not, or
// api.ErrNotFound.
func (db *DB) TokenByHash(ctx context.Context, hash [sha256.Size]byte) (api.Token, error) {
	r, err := db.q.TokenByHash(ctx, hash[:])
	if err != nil {
		return api.Token{}, fmt.Errorf("look up token: %w", forAPI(err))
	}
	t := api.Token{ID: r.ID, Tenant: r.Tenant, Name: r.Name, Scopes: scopesOf(r.Scopes), Hash: hash, CreatedAt: r.CreatedAt.Time.UTC()}
	if r.RevokedAt.Valid {
		t.RevokedAt = r.RevokedAt.Time.UTC()
	}
	return t, nil
}

// CreateToken draws a secret for a new token and returns it: it cannot be read
// again. It returns ErrExists if the name is taken.
func (db *DB) CreateToken(ctx context.Context, tenant, name string, scopes ...api.Scope) (api.Secret, error) {
	secret := api.NewSecret()
	p, err := tokenRow(api.Token{Tenant: tenant, Name: name, Scopes: scopes, Hash: secret.Hash()})
	if err != nil {
		return api.Secret{}, fmt.Errorf("create token: %w", err)
	}
	if err := db.q.CreateToken(ctx, dbsqlc.CreateTokenParams(p)); err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "23505" {
			err = ErrExists
		}
		return api.Secret{}, fmt.Errorf("create token: %w", err)
	}
	return secret, nil
}

// PutToken creates the token, or gives the one of this tenant and name the hash
// and scopes and puts it into force.
func (db *DB) PutToken(ctx context.Context, t api.Token) error {
	p, err := tokenRow(t)
	if err == nil {
		err = db.q.PutToken(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("put token: %w", forAPI(err))
	}
	return nil
}

// RevokeToken takes a token out of force for good. It returns api.ErrNotFound if
// there is none of this name; one that was revoked before stays as it is.
func (db *DB) RevokeToken(ctx context.Context, tenant, name string) error {
	n, err := db.q.RevokeToken(ctx, dbsqlc.RevokeTokenParams{Tenant: tenant, Name: name})
	if err == nil && n == 0 {
		err = api.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	return nil
}

// ListTokens returns the tenant's tokens, revoked ones too, by name.
func (db *DB) ListTokens(ctx context.Context, tenant string) ([]api.Token, error) {
	rows, err := db.q.ListTokens(ctx, tenant)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	ts := make([]api.Token, len(rows))
	for i, r := range rows {
		ts[i] = api.Token{ID: r.ID, Tenant: tenant, Name: r.Name, Scopes: scopesOf(r.Scopes), CreatedAt: r.CreatedAt.Time.UTC()}
		copy(ts[i].Hash[:], r.Hash)
		if r.RevokedAt.Valid {
			ts[i].RevokedAt = r.RevokedAt.Time.UTC()
		}
	}
	return ts, nil
}

func tokenRow(t api.Token) (dbsqlc.PutTokenParams, error) {
	if t.Tenant == "" || t.Name == "" || len(t.Name) > maxTokenName || strings.IndexFunc(t.Name, func(r rune) bool { return !strconv.IsPrint(r) }) >= 0 {
		return dbsqlc.PutTokenParams{}, fmt.Errorf("name: want 1 to %d bytes of printable text", maxTokenName)
	}
	if len(t.Scopes) == 0 {
		return dbsqlc.PutTokenParams{}, errors.New("scopes: want at least one")
	}
	var scopes []string
	for _, s := range t.Scopes {
		if _, err := api.ParseScope(string(s)); err != nil {
			return dbsqlc.PutTokenParams{}, err
		}
		scopes = append(scopes, string(s))
	}
	return dbsqlc.PutTokenParams{ID: newUUID(), Tenant: t.Tenant, Name: t.Name, Hash: t.Hash[:], Scopes: scopes}, nil
}

func scopesOf(ss []string) []api.Scope {
	out := make([]api.Scope, len(ss))
	for i, s := range ss {
		out[i] = api.Scope(s)
	}
	return out
}

// newUUID draws a random UUID (version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
