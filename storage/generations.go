package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// PutGeneration stores a generation under its digest. One that is there is left
// as it is: the digest is of the content.
func (db *DB) PutGeneration(ctx context.Context, digest string, content []byte) error {
	err := db.retry(ctx, "put_generation", func() error {
		return db.q.InsertGeneration(ctx, dbsqlc.InsertGenerationParams{Digest: digest, Content: nonNil(content)})
	})
	if err != nil {
		return fmt.Errorf("store generation %s: %w", digest, err)
	}
	return nil
}

// Generation returns the content of the generation, or ErrNotFound.
func (db *DB) Generation(ctx context.Context, digest string) ([]byte, error) {
	var content []byte
	err := db.retry(ctx, "generation", func() (err error) {
		content, err = db.q.GetGeneration(ctx, digest)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read generation %s: %w", digest, notFound(err))
	}
	return content, nil
}

// FirstGeneration returns the generation that was stored first, or ErrNotFound.
func (db *DB) FirstGeneration(ctx context.Context) (digest string, content []byte, err error) {
	var r dbsqlc.FirstGenerationRow
	err = db.retry(ctx, "first_generation", func() (err error) {
		r, err = db.q.FirstGeneration(ctx)
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("read the first generation: %w", notFound(err))
	}
	return r.Digest, r.Content, nil
}

// PutRuleVersions stores what the rules say, for the findings that will refer to
// them. The words of a version that is there are brought up to date.
func (db *DB) PutRuleVersions(ctx context.Context, rules []*rule.Rule) error {
	params := make([]dbsqlc.PutRuleVersionParams, len(rules))
	for i, r := range rules {
		params[i] = ruleVersion(r)
	}
	err := db.retry(ctx, "put_rule_versions", func() error {
		return db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) error {
			var errs []error
			q.PutRuleVersion(ctx, params).Exec(func(i int, err error) {
				if err != nil && len(errs) == 0 { // those after it only say that the batch failed
					errs = append(errs, fmt.Errorf("%s (%s): %w", rules[i].Title, rules[i].ID, err))
				}
			})
			return errors.Join(errs...)
		})
	})
	if err != nil {
		return fmt.Errorf("store %d rule versions: %w", len(rules), err)
	}
	return nil
}

func ruleVersion(r *rule.Rule) dbsqlc.PutRuleVersionParams {
	p := dbsqlc.PutRuleVersionParams{
		Version:        r.Version,
		RuleID:         text(r.ID),
		Title:          text(r.Title),
		Level:          int16(r.Level),
		Author:         text(r.Author),
		License:        text(r.License),
		Description:    text(r.Description),
		RuleReferences: texts(r.References),
		Tags:           texts(r.Tags),
		FalsePositives: texts(r.FalsePos),
		GroupBy:        []string{},
		Summary:        text(r.Summary()),
	}
	if r.Correlation != nil {
		p.GroupBy = texts(r.Correlation.GroupBy)
	}
	return p
}

// text makes s fit for a column: Postgres takes neither NUL nor broken UTF-8.
func text(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

func texts(ss []string) []string {
	out := make([]string, len(ss))
	for i, s := range ss {
		out[i] = text(s)
	}
	return out
}

func notFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
