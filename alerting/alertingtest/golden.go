package alertingtest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/alerting"
)

// Recording is a server that keeps the body of the last request.
type Recording struct {
	URL    string
	Client *alerting.Client
}

// Recorder starts a Recording into body, which may be read once a notification
// is delivered.
func Recorder(t *testing.T, body *[]byte) Recording {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		*body = b
	}))
	t.Cleanup(s.Close)
	c := alerting.NewClient(alerting.ClientOptions{Now: now})
	t.Cleanup(c.Close)
	return Recording{URL: s.URL, Client: c}
}

// Golden compares JSON with a file, or writes the file.
func Golden(t *testing.T, file string, got []byte, update bool) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, got, "", "  "); err != nil {
		t.Fatal(err)
	}
	pretty.WriteByte('\n')
	if update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), pretty.String()); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}
