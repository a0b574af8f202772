package webhook_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/alerting/alertingtest"
	"github.com/vedette-sec/vedette/alerting/webhook"
	"github.com/vedette-sec/vedette/secret"
)

var update = flag.Bool("update", false, "write the golden file")

const (
	current = secret.String("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	older   = secret.String("an older secret of at least 24 bytes")
	path    = "/hook?token=tttttttttttt"
)

func now() time.Time { return time.Date(2026, 3, 2, 10, 1, 0, 0, time.UTC) }

func TestConformance(t *testing.T) {
	alertingtest.Test(t, alertingtest.Kit{
		New: func(t *testing.T, c *alerting.Client, url string) alerting.Notifier {
			n, err := webhook.New(webhook.Options{URL: secret.String(url), Secrets: []secret.String{current, older}, Client: c, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Path:    path,
		Secrets: []string{path, "tttttttttttt", current.Reveal(), older.Reveal()},
		Check:   check,
	})
}

func check(t *testing.T, r *http.Request, body []byte, n alerting.Notification) {
	t.Helper()
	for _, s := range []secret.String{current, older} {
		if err := webhook.Verify(s, r.Header, body, now().Add(time.Minute), 5*time.Minute); err != nil {
			t.Error(err)
		}
	}
	if got := r.Header.Get("webhook-id"); got != n.DeliveryID() {
		t.Errorf("webhook-id %q, want %q", got, n.DeliveryID())
	}
	var b webhook.Body
	if err := json.Unmarshal(body, &b); err != nil {
		t.Fatal(err)
	}
	if b.Version != webhook.Version || b.Event != string(n.Event) || b.Incident.ID != n.Incident.ID.String() || b.Incident.Status != string(n.Incident.Status) {
		t.Errorf("body: %+v", b)
	}
	if len(b.Incident.Rules) != len(n.Rules) || len(n.Rules) > 0 && b.Incident.Rules[0].Author != strings.ToValidUTF8(n.Rules[0].Author, "\uFFFD") {
		t.Errorf("rules: %+v", b.Incident.Rules)
	}
	if !n.Incident.MergedInto.IsZero() && b.Incident.MergedInto != n.Incident.MergedInto.String() {
		t.Errorf("merged into %q", b.Incident.MergedInto)
	}
}

// TestVerify begins with the specification's own example.
func TestVerify(t *testing.T) {
	body := []byte(`{"test": 2432232314}`)
	at := time.Unix(1614265330, 0)
	h := http.Header{}
	h.Set("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
	h.Set("webhook-timestamp", "1614265330")
	h.Set("webhook-signature", "v2,other v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	if err := webhook.Verify(current, h, body, at.Add(time.Minute), 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(http.Header)
		body   string
		now    time.Time
		want   error
	}{
		"other body":      {body: `{"test": 2432232315}`, now: at, want: webhook.ErrSignature},
		"other id":        {change: func(h http.Header) { h.Set("webhook-id", "msg_other") }, now: at, want: webhook.ErrSignature},
		"other timestamp": {change: func(h http.Header) { h.Set("webhook-timestamp", "1614265331") }, now: at, want: webhook.ErrSignature},
		"no signature":    {change: func(h http.Header) { h.Del("webhook-signature") }, now: at, want: webhook.ErrSignature},
		"not base64":      {change: func(h http.Header) { h.Set("webhook-signature", "v1,%%%") }, now: at, want: webhook.ErrSignature},
		"no timestamp":    {change: func(h http.Header) { h.Del("webhook-timestamp") }, now: at, want: webhook.ErrTimestamp},
		"replayed later":  {now: at.Add(6 * time.Minute), want: webhook.ErrTimestamp},
		"from the future": {now: at.Add(-6 * time.Minute), want: webhook.ErrTimestamp},
	} {
		h := h.Clone()
		if c.change != nil {
			c.change(h)
		}
		b := body
		if c.body != "" {
			b = []byte(c.body)
		}
		if err := webhook.Verify(current, h, b, c.now, 5*time.Minute); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := webhook.Verify(older, h, body, at, time.Minute); !errors.Is(err, webhook.ErrSignature) {
		t.Errorf("another secret: %v", err)
	}
}

func TestBody(t *testing.T) {
	var got []byte
	rec := alertingtest.Recorder(t, &got)
	w, err := webhook.New(webhook.Options{URL: secret.String(rec.URL), Secrets: []secret.String{current}, Client: rec.Client, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Notify(t.Context(), alertingtest.Notification()); err != nil {
		t.Fatal(err)
	}
	alertingtest.Golden(t, filepath.Join("testdata", "trigger.json"), got, *update)
}

func TestNew(t *testing.T) {
	c := alerting.NewClient(alerting.ClientOptions{})
	const url = "https://hook.example/x"
	for name, o := range map[string]webhook.Options{
		"no secret":     {URL: url, Client: c},
		"short secret":  {URL: url, Client: c, Secrets: []secret.String{"short"}},
		"not base64":    {URL: url, Client: c, Secrets: []secret.String{"whsec_%%%"}},
		"short decoded": {URL: url, Client: c, Secrets: []secret.String{secret.String("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 23)))}},
		"no client":     {URL: url, Secrets: []secret.String{current}},
		"plain":         {URL: "http://hook.example/x", Client: c, Secrets: []secret.String{current}},
	} {
		if _, err := webhook.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	insecure := alerting.NewClient(alerting.ClientOptions{AllowInsecure: true})
	if _, err := webhook.New(webhook.Options{URL: "http://hook.example/x", Client: insecure, Secrets: []secret.String{current}}); err != nil {
		t.Error(err)
	}
}
