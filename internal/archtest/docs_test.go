package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(([^)#\s]+)`)

// Every relative link in the documents leads somewhere.
func TestDocumentLinks(t *testing.T) {
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../docs/decisions/*.md")
	if err != nil {
		t.Fatal(err)
	}
	docs = append(append(docs, more...), "../../README.md", "../../CHANGELOG.md")
	checked := 0
	for _, doc := range docs {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			checked++
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", doc, m[1])
			}
		}
	}
	if checked < 8 {
		t.Errorf("only %d links were checked", checked)
	}
}

var metric = regexp.MustCompile("`(vedette_[a-z_]+)")

// Every metric that the documents name exists, by its whole name or by the prefix
// and the rest of it as the code puts them together.
func TestDocumentedMetricsExist(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		code.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, doc := range docs {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metric.FindAllStringSubmatch(string(b), -1) {
			checked++
			parts := strings.SplitN(m[1], "_", 3)
			if !strings.Contains(code.String(), `"`+m[1]+`"`) && !(len(parts) == 3 &&
				strings.Contains(code.String(), `"`+parts[0]+"_"+parts[1]+`_"`) && strings.Contains(code.String(), `"`+parts[2]+`"`)) {
				t.Errorf("%s names the metric %s, which is not in the code", doc, m[1])
			}
		}
	}
	if checked == 0 {
		t.Error("no metrics were checked")
	}
}
