package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/layout"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/stream"
)

// Mover is what the layout of a stopped service is changed with.
type Mover struct {
	layout.Options
	close []func()
}

// OpenMover opens Postgres and Kafka as the configuration says.
func OpenMover(ctx context.Context, c *config.Config, logger *slog.Logger, say func(string)) (_ *Mover, err error) {
	m := &Mover{}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	db, err := storage.Open(ctx, storage.Options{
		DSN: c.Postgres.DSN.Reveal(), MaxConns: int32(c.Postgres.MaxConnections), EvidenceLimit: c.Incidents.Evidence, Log: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("open Postgres: %w", err)
	}
	m.close = append(m.close, db.Close)
	if err := db.Migrate(ctx); err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	if err := db.PutRuleVersions(ctx, []*rule.Rule{rule.VisibilityLost()}); err != nil {
		return nil, err
	}
	kafka, err := stream.NewClient(KafkaConfig(c.Kafka))
	if err != nil {
		return nil, fmt.Errorf("open Kafka: %w", err)
	}
	m.close = append(m.close, kafka.Close)
	gens := generations{store: db, dataDir: c.DataDir}
	m.Options = layout.Options{
		Kafka: layout.Cluster{Client: kafka}, Ledger: db, Match: matching{gens}, Correlate: correlating{gens},
		Topic: stream.Topic{Replication: c.Kafka.Replication}, Evidence: c.Incidents.Evidence, Logger: logger, Say: say,
	}
	return m, nil
}

// Close closes what was opened.
func (m *Mover) Close() {
	for _, f := range m.close {
		f()
	}
}

// rebuilt is how many generations of the longest keep an owner may have to rebuild.
const rebuilt = 3

// checkRetention refuses rules that need more of the observations than their topic
// keeps: after a restart windows would lack events, and nobody would know.
func (a *App) checkRetention(ctx context.Context, set *rule.Set) error {
	engine := correlate.NewEngine(correlate.Options{Sources: 1})
	if err := engine.AddRules(set); err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	need := rebuilt * engine.Keep()
	state, err := a.kafka.Inspect(ctx, a.layout.Topic)
	if err == nil && len(state.Topics) == 1 {
		err = errors.Join(state.Topics[0].Err, state.Topics[0].ConfigErr)
	}
	if err != nil {
		a.logger.Warn("whether the observations are kept long enough for the rules is not known", "topic", a.layout.Topic, "need", need, "error", err)
		return nil
	}
	ms, err := strconv.ParseInt(state.Topics[0].Config["retention.ms"], 10, 64)
	if err != nil || ms < 0 || ms >= need.Milliseconds() {
		return nil
	}
	return fmt.Errorf("%s is kept %v, but the rules need %v, three times their longest window and lateness: set its retention.ms to %d or more, or shorten the rules' timespans",
		a.layout.Topic, time.Duration(ms)*time.Millisecond, need, need.Milliseconds())
}
