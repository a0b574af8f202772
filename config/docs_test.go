package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

// docs/configuration.md lists every key with its comment: written from the code,
// so that the two cannot part.
func TestConfigurationDocs(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]*ast.StructType{}
	docs := map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			if ts, ok := s.(*ast.TypeSpec); ok {
				if st, ok := ts.Type.(*ast.StructType); ok {
					types[ts.Name.Name], docs[ts.Name.Name] = st, oneLine(g.Doc.Text())
				}
			}
		}
	}
	var b strings.Builder
	b.WriteString("# Configuration\n\nOne YAML file, given as `vedette run --config FILE`. `${NAME}` in a value is replaced by the environment variable NAME.\n" +
		"Unknown keys and bad values are refused at start, with file, line, key and what was expected.\n" +
		"This page is written from the comments in `config/config.go` (`go test ./config -update`).\n\n| key | kind | what it is |\n| --- | --- | --- |\n")
	var walk func(name, prefix string)
	walk = func(name, prefix string) {
		for _, fl := range types[name].Fields.List {
			key := prefix + reflect.StructTag(strings.Trim(fl.Tag.Value, "`")).Get("yaml")
			text := oneLine(fl.Doc.Text() + fl.Comment.Text())
			kind, suffix := fl.Type, ""
			switch x := kind.(type) {
			case *ast.ArrayType:
				kind, suffix = x.Elt, "[]"
			case *ast.MapType:
				kind, suffix = x.Value, ".NAME"
			}
			id, _ := kind.(*ast.Ident)
			if id != nil && types[id.Name] != nil {
				if text == "" {
					text = docs[id.Name]
				}
				fmt.Fprintf(&b, "| `%s%s` | section | %s |\n", key, suffix, text)
				walk(id.Name, key+suffix+".")
				continue
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", key, kindName(kind)+map[bool]string{true: " list", false: ""}[suffix == "[]"], text)
		}
	}
	walk("Config", "")
	const path = "../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is not what config.go says; run go test ./config -update", path)
	}
}

func kindName(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return map[string]string{"string": "text", "int": "number", "float64": "number", "bool": "boolean", "Bytes": "size"}[x.Name]
	case *ast.SelectorExpr:
		if id, ok := x.X.(*ast.Ident); ok && id.Name == "secret" {
			return "secret"
		}
		return strings.ToLower(x.Sel.Name)
	}
	return "?"
}

func oneLine(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}
