package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/match"
)

// stored are generations by digest.
type stored map[string][]byte

func (s stored) Generation(_ context.Context, digest string) ([]byte, error) {
	if b, ok := s[digest]; ok {
		return b, nil
	}
	return nil, errors.New("not found")
}

func (s stored) FirstGeneration(context.Context) (string, []byte, error) {
	return "", nil, errors.New("none")
}

// A generation is loaded by a program of its semantics, or of the first if it was
// stored before there was a number; correlate can read all, since it does not
// decode.
func TestGenerationOfOtherSemanticsIsNotMatched(t *testing.T) {
	put := func(number int) []byte {
		b, err := json.Marshal(generation{Semantics: number})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	g := generations{store: stored{"ours": put(match.Semantics), "later": put(match.Semantics + 1), "first": []byte(`{"rules":{}}`)}}
	for digest, number := range map[string]int{"ours": match.Semantics, "later": match.Semantics + 1, "first": 1} {
		_, err := matching{g}.Load(t.Context(), digest)
		if got, want := errors.Is(err, match.ErrSemantics), number != match.Semantics; got != want {
			t.Errorf("%s: %v", digest, err)
		}
		if err != nil && !strings.Contains(err.Error(), fmt.Sprint("of semantics ", match.Semantics+1)) {
			t.Errorf("%s: the error does not say which program it takes: %v", digest, err)
		}
		if _, err := (correlating{g}).Rules(t.Context(), digest); err != nil {
			t.Errorf("%s: correlate: %v", digest, err)
		}
	}
	// The number is part of what the digest names.
	a, _, err := generation{Semantics: 1}.content()
	if err != nil {
		t.Fatal(err)
	}
	if b, _, err := (generation{Semantics: 2}).content(); err != nil || a == b {
		t.Errorf("both are %s, %v", b, err)
	}
	if gen, _, err := newGeneration(config.Rules{}, config.Enrich{}, t.TempDir()); err != nil || gen.Semantics != match.Semantics {
		t.Errorf("a new generation has semantics %d, %v", gen.Semantics, err)
	}
}
