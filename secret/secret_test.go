package secret_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/vedette-sec/vedette/secret"
)

func TestNothingShowsIt(t *testing.T) {
	const plain = "hunter2hunter2"
	s := secret.String(plain)
	in := struct {
		S secret.String
		P *secret.String
		L []secret.String
		M map[string]secret.String
	}{s, &s, []secret.String{s}, map[string]secret.String{"a": s}}
	for name, show := range map[string]func(w *strings.Builder) error{
		"json": func(w *strings.Builder) error { return json.NewEncoder(w).Encode(in) },
		"yaml": func(w *strings.Builder) error {
			b, err := yaml.Marshal(in)
			w.Write(b)
			return err
		},
		"xml": func(w *strings.Builder) error { return xml.NewEncoder(w).Encode([]any{s, in.L}) },
		"html": func(w *strings.Builder) error {
			return template.Must(template.New("").Parse("{{.}}{{.S}}")).Execute(w, in)
		},
		"slog json": func(w *strings.Builder) error {
			slog.New(slog.NewJSONHandler(w, nil)).Info("x", "s", s, "in", in)
			return nil
		},
		"slog text": func(w *strings.Builder) error {
			slog.New(slog.NewTextHandler(w, nil)).Info("x", "s", s, "in", in)
			return nil
		},
		"concatenated": func(w *strings.Builder) error {
			_, err := fmt.Fprintln(w, errors.New("x "+s.String()))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var w strings.Builder
			if err := show(&w); err != nil {
				t.Fatal(err)
			}
			hides(t, w.String(), plain)
		})
	}
	for _, verb := range strings.Fields("%v %+v %#v %s %q %#q %x %X %d %t %c %U %e %o %20s %-.3v %T%v") {
		t.Run(verb, func(t *testing.T) {
			hides(t, fmt.Sprintf(verb, s), plain)
			hides(t, fmt.Sprintf(verb, in.S)+fmt.Sprintf(verb, in.L)+fmt.Sprintf(verb, in.M), plain)
		})
	}
}

// hides looks for what is seen instead, and for the secret in every spelling.
func hides(t *testing.T, shown, plain string) {
	t.Helper()
	low := strings.ToLower(shown)
	for _, spelling := range []string{plain, fmt.Sprintf("%x", plain), plain[:3]} {
		if strings.Contains(low, spelling) {
			t.Errorf("shown: %s", shown)
		}
	}
	if !strings.Contains(shown, "secret") {
		t.Errorf("nothing says that there is one: %s", shown)
	}
}

func TestReveal(t *testing.T) {
	if got := secret.String("hunter2").Reveal(); got != "hunter2" {
		t.Errorf("revealed %q", got)
	}
}
