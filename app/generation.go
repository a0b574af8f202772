package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/detect/rules"
	"github.com/vedette-sec/vedette/stream"
)

// generation is what makes match a function of the record: the rules, the
// enrichment and the semantics of the program, by value. Databases are named by digest
// and looked for in the data directory's geo folder.
type generation struct {
	Semantics int               `json:"semantics,omitempty"` // match.Semantics; those stored before there was a number: 0, which is 1
	Rules     map[string][]byte `json:"rules"`               // file → content
	Geo       []string          `json:"geo,omitempty"`
	Inventory enrich.Inventory  `json:"inventory"`
}

// content is the canonical form of g, and digest names it.
func (g generation) content() (digest string, content []byte, err error) {
	content, err = json.Marshal(g) // maps are written in the order of their keys
	if err != nil {
		return "", nil, fmt.Errorf("encode generation: %w", err)
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16]), content, nil
}

// compile loads what g names.
func (g generation) compile(dataDir string) (*rule.Set, *enrich.Enricher, error) {
	set, _, err := rule.FromSources(g.Rules)
	if err != nil {
		return nil, nil, fmt.Errorf("rules: %w", err)
	}
	o := enrich.Options{Inventory: g.Inventory}
	for _, sum := range g.Geo {
		o.Databases = append(o.Databases, geoPath(dataDir, sum))
	}
	e, err := enrich.New(o)
	if err != nil {
		return nil, nil, fmt.Errorf("enrichment: %w", err)
	}
	return set, e, nil
}

// RuleSources reads the shipped rules, unless they are switched off, and those
// under paths.
func RuleSources(c config.Rules) (map[string][]byte, []rule.Warning, error) {
	sources := map[string][]byte{}
	if c.Shipped {
		err := fs.WalkDir(rules.FS, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := fs.ReadFile(rules.FS, name)
			sources["vedette/"+name] = b
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read the shipped rules: %w", err)
		}
	}
	if len(c.Paths) > 0 {
		set, _, err := rule.Load(c.Paths)
		if err != nil {
			return nil, nil, err
		}
		for name, b := range set.Sources() {
			if _, ok := sources[name]; ok {
				return nil, nil, fmt.Errorf("rule file %s: the name is taken", name)
			}
			sources[name] = b
		}
	}
	_, warnings, err := rule.FromSources(sources)
	return sources, warnings, err
}

// newGeneration reads everything that the configuration names, from now on by
// value: the databases are copied into the data directory under their digests.
func newGeneration(r config.Rules, e config.Enrich, dataDir string) (generation, []rule.Warning, error) {
	g := generation{Semantics: match.Semantics, Inventory: Inventory(e.Inventory)}
	sources, warnings, err := RuleSources(r)
	if err != nil {
		return g, nil, err
	}
	g.Rules = sources
	for _, path := range e.GeoDatabases {
		sum, err := keepGeo(dataDir, path)
		if err != nil {
			return g, nil, fmt.Errorf("load database %s: %w", path, err)
		}
		g.Geo = append(g.Geo, sum)
	}
	return g, warnings, nil
}

// Inventory says the configuration in the enrich package's terms.
func Inventory(c config.Inventory) enrich.Inventory {
	var inv enrich.Inventory
	for name, f := range c.Functions {
		inv.Functions = append(inv.Functions, enrich.Function{
			Name: name, Gateways: f.Gateways, Authorizers: f.Authorizers, HTTPAuthorizer: f.HTTPAuthorizer,
			Services: f.Services, EventSources: f.EventSources, Principals: f.Principals,
		})
	}
	slices.SortFunc(inv.Functions, func(a, b enrich.Function) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return inv
}

func geoPath(dataDir, sum string) string { return filepath.Join(dataDir, "geo", sum+".mmdb") }

// keepGeo copies a database to where any generation that names it finds it.
func keepGeo(dataDir, path string) (sum string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(b)
	sum = hex.EncodeToString(h[:])
	to := geoPath(dataDir, sum)
	if _, err := os.Stat(to); err == nil {
		return sum, nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	return sum, writeWhole(to, b)
}

// writeWhole writes a file of which nobody ever sees a part, whoever else writes
// it at the same time and whenever the machine stops.
func writeWhole(name string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil { // it holds no secret, and other users may share the directory
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// Reload reads rules, databases and inventory as c names them and puts what they
// say into force from a recorded place in the log on. If anything of it does not
// load or cannot run, what is in force stays, and the error says what is wrong.
// Nothing else of c is looked at. It is the business of the processes that match:
// one that only correlates looks whether the rules' windows could be rebuilt, any
// other does nothing.
func (a *App) Reload(ctx context.Context, c *config.Config) error {
	if !a.has(Match) {
		return a.checkRules(ctx, c.Rules)
	}
	gen, warnings, err := newGeneration(c.Rules, c.Enrich, a.cfg.DataDir)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.logger.Warn("rule", "warning", w.String())
	}
	digest, content, err := gen.content()
	if err != nil {
		return err
	}
	set, e, err := gen.compile(a.cfg.DataDir)
	if err != nil {
		return err
	}
	if err := a.checkRetention(ctx, set); err != nil {
		return err
	}
	if err := a.db.PutRuleVersions(ctx, append(slices.Clone(set.Correlations), rule.VisibilityLost())); err != nil {
		return fmt.Errorf("store rule versions: %w", err)
	}
	if err := a.db.PutGeneration(ctx, digest, content); err != nil {
		return fmt.Errorf("store generation: %w", err)
	}
	if err := a.enforce(ctx, 0, digest); err != nil {
		return fmt.Errorf("put generation into force: %w", err)
	}
	for _, w := range e.Warnings() {
		a.logger.Warn(w)
	}
	a.logger.Info("rules in force", "generation", digest, "rules", len(set.Correlations))
	return nil
}

// enforce puts a generation into force on the partitions from first on; if it has no
// digest, the one that this process last put into force, if any.
func (a *App) enforce(ctx context.Context, first int32, digest string) error {
	a.inForceM.Lock()
	defer a.inForceM.Unlock()
	if digest == "" {
		digest = a.inForce
	}
	if digest == "" {
		return nil
	}
	if err := a.appender.BroadcastFrom(ctx, first, stream.LogMessage{Kind: stream.KindGeneration, Generation: digest}); err != nil {
		return err
	}
	a.inForce = digest
	return nil
}

// checkRules checks, for a process that correlates the observations of others, that
// they are kept as long as the configured rules need.
func (a *App) checkRules(ctx context.Context, c config.Rules) error {
	if !a.has(Correlate) {
		return nil
	}
	sources, _, err := RuleSources(c)
	if err != nil {
		return err
	}
	set, _, err := rule.FromSources(sources)
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	return a.checkRetention(ctx, set)
}

// generationStore is where generations are kept by digest: Postgres.
type generationStore interface {
	Generation(ctx context.Context, digest string) ([]byte, error)
	FirstGeneration(ctx context.Context) (digest string, content []byte, err error)
}

// generations makes stored generations ready to run.
type generations struct {
	store   generationStore
	dataDir string
}

func (g generations) read(ctx context.Context, digest string) (generation, error) {
	var gen generation
	content, err := g.store.Generation(ctx, digest)
	if err != nil {
		return gen, fmt.Errorf("read generation: %w", err)
	}
	if err := json.Unmarshal(content, &gen); err != nil {
		return gen, fmt.Errorf("decode generation %.12s: %w", digest, err)
	}
	gen.Semantics = max(gen.Semantics, 1)
	return gen, nil
}

// matching is generations as match's owner wants them.
type matching struct{ generations }

func (m matching) Load(ctx context.Context, digest string) (*match.Program, error) {
	gen, err := m.read(ctx, digest)
	if err != nil {
		return nil, err
	}
	if gen.Semantics != match.Semantics {
		return nil, fmt.Errorf("%w: it is of semantics %d, this program of %d: a program of semantics %d has to read the records up to the next generation",
			match.ErrSemantics, gen.Semantics, match.Semantics, gen.Semantics)
	}
	set, e, err := gen.compile(m.dataDir)
	if err != nil {
		return nil, err
	}
	return &match.Program{Digest: digest, Matcher: match.New(set), Enricher: e}, nil
}

func (m matching) First(ctx context.Context) (string, error) {
	digest, _, err := m.store.FirstGeneration(ctx)
	return digest, err
}

// correlating is generations as correlate's owner wants them.
type correlating struct{ generations }

func (c correlating) Rules(ctx context.Context, digest string) (*rule.Set, error) {
	gen, err := c.read(ctx, digest)
	if err != nil {
		return nil, err
	}
	set, _, err := gen.compile(c.dataDir)
	return set, err
}
