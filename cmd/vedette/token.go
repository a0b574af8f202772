package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/storage"
)

// TokenCmd manages API tokens.
type TokenCmd struct {
	Create TokenCreateCmd `cmd:"" help:"Create a token and print it, once."`
	List   TokenListCmd   `cmd:"" help:"List the tokens."`
	Revoke TokenRevokeCmd `cmd:"" help:"Revoke a token."`
}

// ledger opens Postgres as a configuration file says.
func ledger(ctx context.Context, file string) (*storage.DB, *config.Config, error) {
	cfg, err := config.Load(file)
	if err != nil {
		return nil, nil, &ExitError{2, err}
	}
	db, err := storage.Open(ctx, storage.Options{DSN: cfg.Postgres.DSN.Reveal(), MaxConns: 2})
	if err != nil {
		return nil, nil, fmt.Errorf("open Postgres: %w", err)
	}
	if err := db.Migrate(ctx); err != nil {
		db.Close()
		return nil, nil, fmt.Errorf("migrate: %w", err)
	}
	return db, cfg, nil
}

// TokenCreateCmd creates a token.
type TokenCreateCmd struct {
	Config string   `required:"" placeholder:"FILE" help:"The configuration file."`
	Name   string   `required:"" help:"A name of its own, shown in the audit trail."`
	Scope  []string `required:"" help:"What it may do: ingest, read, write; several separated by commas."`
}

// Run creates the token.
func (c *TokenCreateCmd) Run(ctx context.Context, s *Streams) error {
	var scopes []api.Scope
	for _, name := range c.Scope {
		scope, err := api.ParseScope(name)
		if err != nil {
			return &ExitError{2, err}
		}
		scopes = append(scopes, scope)
	}
	db, cfg, err := ledger(ctx, c.Config)
	if err != nil {
		return err
	}
	defer db.Close()
	secret, err := db.CreateToken(ctx, cfg.Tenant, c.Name, scopes...)
	if err != nil {
		return fmt.Errorf("create token %s: %w", c.Name, err)
	}
	_, err = fmt.Fprintln(s.Out, secret.Reveal())
	return err
}

// TokenListCmd lists the tokens.
type TokenListCmd struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file."`
}

// Run lists them.
func (c *TokenListCmd) Run(ctx context.Context, s *Streams) error {
	db, cfg, err := ledger(ctx, c.Config)
	if err != nil {
		return err
	}
	defer db.Close()
	tokens, err := db.ListTokens(ctx, cfg.Tenant)
	if err != nil {
		return fmt.Errorf("list tokens: %w", err)
	}
	w := tabwriter.NewWriter(s.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSCOPES\tCREATED\tREVOKED")
	for _, t := range tokens {
		var scopes []string
		for _, x := range t.Scopes {
			scopes = append(scopes, string(x))
		}
		revoked := ""
		if !t.RevokedAt.IsZero() {
			revoked = t.RevokedAt.UTC().Format("2006-01-02 15:04")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, strings.Join(scopes, ","), t.CreatedAt.UTC().Format("2006-01-02 15:04"), revoked)
	}
	return w.Flush()
}

// TokenRevokeCmd revokes a token.
type TokenRevokeCmd struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file."`
	Name   string `required:"" help:"The token's name."`
}

// Run revokes it.
func (c *TokenRevokeCmd) Run(ctx context.Context, _ *Streams) error {
	db, cfg, err := ledger(ctx, c.Config)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.RevokeToken(ctx, cfg.Tenant, c.Name); err != nil {
		return fmt.Errorf("revoke token %s: %w", c.Name, err)
	}
	return nil
}
