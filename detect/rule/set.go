package rule

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// Set is the rules of some files, checked against each other. It is immutable.
type Set struct {
	Rules        []*Rule // all that loaded, inactive ones too, by file and place
	Detections   []*Rule // the active ones: what match evaluates
	Correlations []*Rule // the active rules that may fire, implicit event_count ≥ 1 included
	Digest       string  // of the sources: names and contents

	sources   map[string][]byte
	byVersion map[string]*Rule
}

// implicitTimespan is the window of the event_count ≥ 1 of a standalone detection.
const implicitTimespan = time.Hour

// maxDirDepth bounds how deep directories are read, against links in a circle.
const maxDirDepth = 32

// Load reads rule files, and from directories and those below them all files
// named *.yml and *.yaml but hidden ones. The error joins an [Error] for every
// rule that was refused; with an error there is no set.
func Load(paths []string) (*Set, []Warning, error) {
	sources := map[string][]byte{}
	for _, p := range paths {
		before := len(sources)
		if err := readPath(sources, filepath.Clean(p), 0); err != nil {
			return nil, nil, err
		}
		if st, err := os.Stat(p); err == nil && st.IsDir() && len(sources) == before && !holdsBelow(sources, p) {
			return nil, nil, fmt.Errorf("load rules: %s holds no file named *.yml or *.yaml", p)
		}
	}
	return FromSources(sources)
}

// holdsBelow reports whether a file below dir is among the sources, because dir
// was given twice.
func holdsBelow(sources map[string][]byte, dir string) bool {
	prefix := filepath.ToSlash(filepath.Clean(dir)) + "/"
	for name := range sources {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func isRuleFile(name string) bool {
	ext := path.Ext(name)
	return (ext == ".yml" || ext == ".yaml") && !strings.HasPrefix(path.Base(name), ".")
}

// readPath follows links, as a mounted Kubernetes ConfigMap is made of them.
func readPath(sources map[string][]byte, name string, depth int) error {
	st, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	if depth > maxDirDepth {
		return fmt.Errorf("load rules: %s is more than %d directories deep", name, maxDirDepth)
	}
	if !st.IsDir() {
		if st.Size() > maxFile {
			return fmt.Errorf("load rules: %s has %d bytes, at most %d are read", name, st.Size(), maxFile)
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("load rules: %w", err)
		}
		sources[filepath.ToSlash(name)] = content
		return nil
	}
	list, err := os.ReadDir(name)
	if err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		child := filepath.Join(name, e.Name())
		if !isRuleFile(e.Name()) {
			if st, err := os.Stat(child); err != nil || !st.IsDir() {
				continue
			}
		}
		if err := readPath(sources, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// ParseFS reads all files of a file system named *.yml and *.yaml; see Load.
func ParseFS(fsys fs.FS) (*Set, []Warning, error) {
	sources := map[string][]byte{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !isRuleFile(name) {
			return err
		}
		sources[name], err = fs.ReadFile(fsys, name)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load rules: %w", err)
	}
	return FromSources(sources)
}

// FromSources builds a set from files' contents by name, as [Set.Sources] returns them.
func FromSources(sources map[string][]byte) (*Set, []Warning, error) {
	s := &Set{sources: make(map[string][]byte, len(sources)), byVersion: map[string]*Rule{}}
	names := make([]string, 0, len(sources))
	for name, content := range sources {
		s.sources[name] = slices.Clone(content)
		names = append(names, name)
	}
	sort.Strings(names)
	s.Digest = digest(names, s.sources)
	var docs []*document
	var errs []error
	for _, name := range names {
		ds, es := parseFile(name, s.sources[name])
		docs = append(docs, ds...)
		errs = append(errs, es...)
	}
	rs := newResolver(docs)
	errs = append(errs, rs.resolve()...)
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	for _, d := range docs {
		r := d.rule
		s.Rules = append(s.Rules, r)
		s.byVersion[r.Version] = r
		if r.Inactive != "" {
			continue
		}
		if r.Detection != nil {
			s.Detections = append(s.Detections, r)
		}
		if r.Correlation != nil {
			s.Correlations = append(s.Correlations, r)
		}
	}
	return s, rs.warnings, nil
}

// ByVersion returns the rule with this meaning, or nil.
func (s *Set) ByVersion(v string) *Rule { return s.byVersion[v] }

// Sources returns the files' contents by name, a copy of the map; the contents
// are not to be changed.
func (s *Set) Sources() map[string][]byte {
	m := make(map[string][]byte, len(s.sources))
	for name, content := range s.sources {
		m[name] = content
	}
	return m
}

func digest(names []string, sources map[string][]byte) string {
	h := sha256.New()
	var n [8]byte
	part := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for _, name := range names {
		part([]byte(name))
		part(sources[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}
