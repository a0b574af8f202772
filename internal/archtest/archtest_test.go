package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/vedette-sec/vedette"

// pkg is a package of this module as its source says it is, tests left out.
type pkg struct {
	name    string
	files   map[string]*ast.File // by base name
	imports map[string]string    // import path → a file that has it
}

// packages parses the module, by directory relative to its root.
func packages(t *testing.T) (map[string]*pkg, *token.FileSet) {
	t.Helper()
	root := filepath.Join("..", "..")
	fset := token.NewFileSet()
	pkgs := make(map[string]*pkg)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			if rel != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "tools" || base == "bin" || base == "dist") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(rel))
		p := pkgs[dir]
		if p == nil {
			p = &pkg{name: f.Name.Name, files: make(map[string]*ast.File), imports: make(map[string]string)}
			pkgs[dir] = p
		}
		p.files[d.Name()] = f
		for _, im := range f.Imports {
			if to, err := strconv.Unquote(im.Path.Value); err == nil {
				p.imports[to] = rel
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 10 {
		t.Fatalf("found %d packages: is this the module's root?", len(pkgs))
	}
	return pkgs, fset
}

// within says whether dir is the house or a room in it.
func within(dir, house string) bool { return dir == house || strings.HasPrefix(dir, house+"/") }

// houses say who may know whom in this module. The longest that fits a package
// counts. "x" stands for the package x alone, "x/..." for all below it too; a
// package's own house is always open to it, unless rooms says otherwise.
var houses = []struct {
	house string
	knows []string
	why   string
}{
	{"event", nil, "what a record means depends on nobody: every other part is tested and replayed on top of it"},
	{"secret", nil, "what hides itself hides from everybody alike"},
	{"tracing", []string{"secret"}, "it sends spans away, whatever they tell: parts get a tracer handed in and know nothing of where spans go"},
	{"stream", []string{"secret"}, "Kafka carries bytes: if it knew what is in them, a change of meaning would be a change of transport"},
	{"ingest", []string{"event", "stream"}, "a collector brings records in and knows nothing of detection, so that it can be down or new without touching what is found"},
	{"detect", []string{"event", "stream"}, "detection is a function of the log: it knows neither where findings are kept nor who is told"},
	{"detect/rules", nil, "the shipped rules are files, nothing more"},
	{"incident", []string{"detect"}, "incidents are a function of findings: of detection only the finding is known, not how it came about"},
	{"incident/incidenttest", []string{"incident", "detect"}, "it is a ledger of incidents, for tests"},
	{"alerting", []string{"incident", "detect", "secret"}, "alerting tells people of incidents (whose severity is detect's); it decides nothing about them"},
	{"api", []string{"incident", "alerting", "detect", "event", "secret"}, "the API shows what is there through interfaces of its own; it neither keeps nor detects"},
	{
		"storage",
		[]string{"event", "detect", "detect/correlate", "detect/match", "detect/rule", "incident", "alerting", "api", "ingest", "doctor", "migrations"},
		"storage implements the small interfaces that others declare, so it knows their types; nothing that runs is its business",
	},
	{"storage/localpg", nil, "it runs a Postgres for whoever needs one"},
	{"storage/dbsqlc", nil, "generated queries know the schema only"},
	{"storage/pgtest", []string{"storage", "storage/localpg", "migrations", "detect"}, "it makes test databases, and reads what is in them"},
	{"migrations", nil, "the schema is files"},
	{"config", []string{"event", "secret"}, "what is configured is checked before anything starts, so it depends on nothing that runs"},
	{"simulate", []string{"event", "detect/enrich"}, "simulated logs must not be shaped by what detection looks for"},
	{"replay", []string{"event", "ingest/...", "detect/..."}, "replay runs the engine over files without any server"},
	{"doctor", []string{"config", "event", "stream", "detect/...", "incident", "alerting"}, "it asks all that the service depends on, through their faces, and nothing depends on it but what shows its answers"},
	{"internal/archtest", nil, "it reads source"},
	{"internal", []string{"..."}, "integration tests see everything"},
	{"app", []string{"..."}, "wiring"},
	{"bench", []string{"..."}, "it drives the whole service and its parts, as they run, and measures them"},
	{"cmd", []string{"..."}, "wiring"},
}

// alone are packages that only the named may import.
var alone = []struct {
	pkg string
	by  []string
	why string
}{
	{"storage/dbsqlc", []string{"storage"}, "generated queries are storage's own; others ask storage"},
	{"storage/pgtest", []string{"internal"}, "it is for tests, and what they share"},
	{"incident/incidenttest", nil, "it is for tests"},
	{"storage/localpg", []string{"storage/pgtest", "cmd", "internal", "bench"}, "only `vedette dev` and tests run a Postgres of their own"},
	{"stream/devbroker", []string{"cmd", "app", "internal", "bench"}, "only `vedette dev` and tests run a broker of their own"},
	{"storage", []string{"app", "cmd", "internal", "bench", "storage/pgtest"}, "decisions do not depend on where things are kept: declare an interface"},
	{"app", []string{"cmd", "internal", "bench"}, "it wires the parts together: a part that needs it is in the wrong place"},
	{"tracing", []string{"app"}, "parts get a tracer handed in: who sends spans, and where, is wiring"},
	{"simulate", []string{"app", "cmd", "internal"}, "what is simulated is input like any other"},
	{"replay", []string{"app", "cmd", "internal"}, "a command, not a library"},
}

// libraries say which parts may use which module.
var libraries = []struct {
	prefix string
	by     []string
	why    string
}{
	{"github.com/jackc/pgx", []string{"storage", "alerting", "bench", "internal"}, "Postgres is spoken in storage, where jobs are queued in somebody else's transaction, and where two ledgers are compared from without"},
	{"github.com/riverqueue/river", []string{"storage", "alerting/riverqueue"}, "the job queue is pre-1.0: it stays behind our own interface"},
	{"github.com/pressly/goose", []string{"storage"}, "one place migrates"},
	{"github.com/segmentio/kafka-go", []string{"stream"}, "its traps are handled in one place"},
	{"github.com/twmb/franz-go", []string{"stream/devbroker", "internal/kafkatest"}, "the embedded broker is for dev and tests, and tests ask a real one what Vedette never asks; we do not speak to Kafka through it"},
	{"github.com/alecthomas/kong", []string{"cmd"}, "flags are turned into options at the edge"},
	{"github.com/danielgtaylor/huma", []string{"api"}, "HTTP is the API's"},
	{"github.com/aws/", []string{"ingest", "stream"}, "clouds are spoken to by collectors, and to sign in to a cloud's Kafka"},
	{"github.com/Azure/", []string{"ingest"}, "clouds are spoken to by collectors"},
	{"cloud.google.com/", []string{"ingest"}, "clouds are spoken to by collectors"},
	{"go.opentelemetry.io/otel/sdk", []string{"tracing"}, "one place sets traces up; others know the interface"},
	{"go.opentelemetry.io/otel/exporters", []string{"tracing"}, "one place sends traces"},
	{"database/sql", []string{"storage"}, "Postgres is spoken in storage"},
}

func TestArrows(t *testing.T) {
	pkgs, _ := packages(t)
	for _, dir := range slices.Sorted(maps.Keys(pkgs)) {
		h := -1
		for i := range houses {
			if within(dir, houses[i].house) && (h < 0 || len(houses[i].house) > len(houses[h].house)) {
				h = i
			}
		}
		if h < 0 {
			t.Errorf("%s: nobody said what this package may know: add it to houses, with the reason", dir)
			continue
		}
		own := houses[h]
		for _, to := range slices.Sorted(maps.Keys(pkgs[dir].imports)) {
			file := pkgs[dir].imports[to]
			for _, l := range libraries {
				if strings.HasPrefix(to, l.prefix) && !slices.ContainsFunc(l.by, func(by string) bool { return within(dir, by) }) {
					t.Errorf("%s imports %s, which is for %s: %s", file, to, strings.Join(l.by, ", "), l.why)
				}
			}
			to, ours := strings.CutPrefix(to, module+"/")
			if !ours {
				continue
			}
			if !within(to, own.house) && !slices.ContainsFunc(own.knows, func(k string) bool { return knows(k, to) }) {
				t.Errorf("%s imports %s, but %s may know %s: %s", file, to, own.house, list(own.knows), own.why)
			}
			for _, a := range alone {
				if to == a.pkg && dir != a.pkg && !slices.ContainsFunc(a.by, func(by string) bool { return within(dir, by) }) {
					t.Errorf("%s imports %s, which is for %s: %s", file, to, list(a.by), a.why)
				}
			}
		}
	}
}

func knows(allowed, to string) bool {
	if allowed == "..." {
		return true
	}
	if house, ok := strings.CutSuffix(allowed, "/..."); ok {
		return within(to, house)
	}
	return to == allowed
}

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// TestEventIsALeaf keeps I/O out of what a record means.
func TestEventIsALeaf(t *testing.T) {
	pkgs, _ := packages(t)
	for to, file := range pkgs["event"].imports {
		first, _, _ := strings.Cut(to, "/")
		if strings.Contains(first, ".") {
			t.Errorf("%s imports %s: event uses the standard library alone, so that it can be read, fuzzed and reused by itself", file, to)
		}
		for _, io := range []string{"os", "net", "net/http", "io/fs", "syscall", "context", "log/slog", "time"} {
			if to == io {
				t.Errorf("%s imports %s: decoding is a function of bytes; it reads nothing, waits for nothing and asks no clock", file, to)
			}
		}
	}
}

// timeless are the packages that decide. Owners run decisions against a wall clock
// (when to save, when to ask again); they are in owner*.go.
var timeless = []string{"event", "detect", "incident", "api", "ingest", "replay"}

// TestTimeIsAnArgument keeps the wall clock out of decisions: replaying the log has
// to find what the live run found.
func TestTimeIsAnArgument(t *testing.T) {
	pkgs, fset := packages(t)
	for dir, p := range pkgs {
		if !slices.ContainsFunc(timeless, func(house string) bool { return within(dir, house) }) {
			continue
		}
		for name, f := range p.files {
			if within(dir, "detect") && strings.HasPrefix(name, "owner") {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until"}, sel.Sel.Name) {
					t.Errorf("%s: time.%s is called: take the time as an argument, or a clock in Options (what is replayed must not depend on when)",
						fset.Position(call.Pos()), sel.Sel.Name)
				}
				return true
			})
		}
	}
}

// vague names say nothing of what is inside, so everything ends up there.
var vague = []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base", "lib", "types"}

func TestPackagesAreNamedAndDocumented(t *testing.T) {
	pkgs, _ := packages(t)
	for dir, p := range pkgs {
		if slices.Contains(vague, p.name) || slices.Contains(vague, path.Base(dir)) {
			t.Errorf("%s: package %s is named for nothing it does", dir, p.name)
		}
		if p.name != "main" && p.name != path.Base(dir) {
			t.Errorf("%s: package %s does not have its directory's name", dir, p.name)
		}
		var docs []string
		generated := true
		for name, f := range p.files {
			generated = generated && ast.IsGenerated(f)
			if f.Doc != nil {
				docs = append(docs, name)
			}
		}
		slices.Sort(docs)
		if generated {
			continue
		}
		switch len(docs) {
		case 0:
			t.Errorf("%s: no doc comment says what package %s is for", dir, p.name)
		case 1:
			text := p.files[docs[0]].Doc.Text()
			want := fmt.Sprintf("Package %s ", p.name)
			if p.name != "main" && !strings.HasPrefix(text, want) {
				t.Errorf("%s/%s: the doc comment does not begin with %q", dir, docs[0], want)
			}
		default:
			t.Errorf("%s: package %s is documented in %s: one place is enough", dir, p.name, strings.Join(docs, " and "))
		}
	}
}

// TestNoInit refuses what happens before main: nobody can order it, pass it
// anything or see it fail.
func TestNoInit(t *testing.T) {
	pkgs, fset := packages(t)
	for _, p := range pkgs {
		for _, f := range p.files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: an init function: do it where it is needed, or in a constructor", fset.Position(fn.Pos()))
				}
			}
		}
	}
}
