package stream_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/stream"
)

// issuer is a token endpoint that answers as its answer says.
type issuer struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Value // func(http.ResponseWriter, *http.Request)
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	is := &issuer{}
	is.answer.Store(func(w http.ResponseWriter, r *http.Request) {
		id, secret, ok := r.BasicAuth()
		if !ok || id != "vedette%3Aprod" || secret != "p%C3%A4ss%26w" || r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("scope") != "logs write" {
			t.Errorf("asked by %q %q: %v", id, secret, r.PostForm)
		}
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"bearer","expires_in":"600"}`, is.asked.Load())
	})
	is.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		is.asked.Add(1)
		is.answer.Load().(func(http.ResponseWriter, *http.Request))(w, r)
	}))
	t.Cleanup(is.Close)
	return is
}

func (is *issuer) config() stream.OAuthConfig {
	return stream.OAuthConfig{TokenURL: is.URL + "/token", ClientID: "vedette:prod", ClientSecret: "päss&w", Scope: "logs write"}
}

func (is *issuer) reply(status int, body string) {
	is.answer.Store(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
}

func TestOAuthTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first.tok-en_~+/==\n")
	m, err := stream.OAuthConfig{TokenFile: file, Extensions: map[string]string{"logicalCluster": "lkc-1", "identityPoolId": "p 2"}}.Mechanism()
	if err != nil {
		t.Fatal(err)
	}
	if m.Name() != "OAUTHBEARER" {
		t.Errorf("name %q", m.Name())
	}
	start := func() string {
		t.Helper()
		_, first, err := m.Start(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		return string(first)
	}
	if got, want := start(), "n,,\x01auth=Bearer first.tok-en_~+/==\x01identityPoolId=p 2\x01logicalCluster=lkc-1\x01\x01"; got != want {
		t.Errorf("first message %q, want %q", got, want)
	}
	write("second")
	if got := start(); !strings.Contains(got, "Bearer second\x01") {
		t.Errorf("first message %q, want the new token", got)
	}
	for name, content := range map[string]string{
		"empty": "", "two words": "a b", "a control character": "a\x01auth=Bearer b", "far too long": strings.Repeat("x", 1<<20),
	} {
		write(content)
		if _, _, err := m.Start(ctx(t)); err == nil {
			t.Errorf("a token file that is %s was taken", name)
		} else if content != "" && strings.Contains(err.Error(), content) {
			t.Errorf("error %q shows the token", err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Start(ctx(t)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no token file: error %v", err)
	}
}

func TestOAuthClientCredentials(t *testing.T) {
	is := newIssuer(t)
	now := time.Unix(1000, 0)
	c := is.config()
	c.Now = func() time.Time { return now }
	m, err := c.Mechanism()
	if err != nil {
		t.Fatal(err)
	}
	token := func() string {
		t.Helper()
		_, first, err := m.Start(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(first), "auth=Bearer ")
		tok, _, _ := strings.Cut(rest, "\x01")
		return tok
	}
	// Many connections at once share one question.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, _, err := m.Start(ctx(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := token(); got != "t1" || is.asked.Load() != 1 {
		t.Errorf("token %s after %d questions, want t1 after one", got, is.asked.Load())
	}
	now = now.Add(539 * time.Second)
	if got := token(); got != "t1" {
		t.Errorf("token %s while the first holds", got)
	}
	now = now.Add(2 * time.Second)
	if got := token(); got != "t2" {
		t.Errorf("token %s when the first is about to expire, want t2", got)
	}
	// A token that a broker refuses is not shown again.
	s, _, err := m.Start(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Next(ctx(t), []byte(`{"status":"invalid_token\u0007","scope":"kafka"}`))
	if !errors.Is(err, stream.ErrAuthentication) || !strings.Contains(err.Error(), "refuses the token: invalid_token") || !strings.Contains(err.Error(), "scope kafka") || strings.ContainsRune(err.Error(), 7) {
		t.Errorf("refused token: error %q", err)
	}
	if got := token(); got != "t3" {
		t.Errorf("token %s after a refusal, want another", got)
	}
}

func TestOAuthAccepted(t *testing.T) {
	is := newIssuer(t)
	m, err := is.config().Mechanism()
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := m.Start(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if done, reply, err := s.Next(ctx(t), nil); !done || reply != nil || err != nil {
		t.Errorf("accepted: %t %q %v", done, reply, err)
	}
	if _, _, err := s.Next(ctx(t), []byte("what")); err == nil {
		t.Error("an answer that is no answer was taken for one")
	}
}

// What an endpoint says when it gives no token: which errors are worth waiting
// for, and that none shows a secret.
func TestOAuthEndpointErrors(t *testing.T) {
	is := newIssuer(t)
	m, err := is.config().Mechanism()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		body   string
		want   string
		wait   bool
	}{
		{401, `{"error":"invalid_client","error_description":"who are\nyou"}`, "invalid_client: who are you", false},
		{400, `<html>`, "400", false},
		{503, `later`, "503", true},
		{429, ``, "429", true},
		{302, ``, "302", false},
		{200, `{"access_token":"hush`, "no JSON from byte", false},
		{200, `{"access_token":["hush"]}`, "another type", false},
		{200, `{}`, "no token", false},
		{200, `{"access_token":"hush","token_type":"mac"}`, "type mac", false},
		{200, `{"access_token":"` + strings.Repeat("x", 70<<10) + `"}`, "too long", false},
	} {
		is.reply(c.status, c.body)
		_, _, err := m.Start(ctx(t))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d %.40s: error %v, want %q", c.status, c.body, err, c.want)
			continue
		}
		if got := stream.Retriable(err); got != c.wait {
			t.Errorf("%d %.40s: retriable %t", c.status, c.body, got)
		}
		if errors.Is(err, stream.ErrAuthentication) != (c.status == 400 || c.status == 401) {
			t.Errorf("%d: error %v", c.status, err)
		}
		if strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "päss") || len(err.Error()) > 500 {
			t.Errorf("error shows too much: %.600s", err)
		}
	}
	is.Close()
	if _, _, err := m.Start(ctx(t)); err == nil || !stream.Retriable(err) {
		t.Errorf("nobody listens: error %v, want one to retry", err)
	}
}

// Somebody who gives up does not take the token from those who wait with him.
func TestOAuthWaitersSurviveTheFirst(t *testing.T) {
	is := newIssuer(t)
	came, release := make(chan struct{}), make(chan struct{})
	is.answer.Store(func(w http.ResponseWriter, r *http.Request) {
		if is.asked.Load() == 1 {
			close(came)
			<-release
			return
		}
		fmt.Fprint(w, `{"access_token":"good","expires_in":60}`)
	})
	m, err := is.config().Mechanism()
	if err != nil {
		t.Fatal(err)
	}
	first, cancel := context.WithCancel(ctx(t))
	gone := make(chan error, 1)
	go func() { _, _, err := m.Start(first); gone <- err }()
	<-came
	second := make(chan error, 1)
	go func() { _, _, err := m.Start(ctx(t)); second <- err }()
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	close(release)
}

func TestOAuthValidate(t *testing.T) {
	ok := stream.OAuthConfig{TokenURL: "https://issuer.example/token", ClientID: "a", ClientSecret: "hush"}
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*stream.OAuthConfig){
		"a token file or":   func(c *stream.OAuthConfig) { c.TokenURL = "" },
		"not both":          func(c *stream.OAuthConfig) { c.TokenFile = "x" },
		"must be https":     func(c *stream.OAuthConfig) { c.TokenURL = "http://issuer.example/token" },
		"by themselves":     func(c *stream.OAuthConfig) { c.TokenURL = "https://a:hush@issuer.example/token" },
		"URL is none":       func(c *stream.OAuthConfig) { c.TokenURL = "issuer/token" },
		"client secret":     func(c *stream.OAuthConfig) { c.ClientSecret = "" },
		"client id":         func(c *stream.OAuthConfig) { c.ClientID = "" },
		"other than auth":   func(c *stream.OAuthConfig) { c.Extensions = map[string]string{"auth": "x"} },
		`"a=b"`:             func(c *stream.OAuthConfig) { c.Extensions = map[string]string{"a=b": "x"} },
		"extension x: want": func(c *stream.OAuthConfig) { c.Extensions = map[string]string{"x": "a\x01auth=Bearer b"} },
	} {
		c := ok
		change(&c)
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("error %q shows a secret", err)
		}
		if _, err := c.Mechanism(); err == nil {
			t.Errorf("a mechanism was made of what is invalid: %s", want)
		}
	}
	for _, u := range []string{"http://127.0.0.1/t", "http://localhost:80/t", "http://[::1]:1/t"} {
		c := ok
		if c.TokenURL = u; c.Validate() != nil {
			t.Errorf("%s: %v", u, c.Validate())
		}
	}
	c := ok
	c.CAFile = filepath.Join(t.TempDir(), "missing.pem")
	if _, err := c.Mechanism(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no CA file: %v", err)
	}
	if s := fmt.Sprintf("%v %+v %#v", ok, ok, ok); strings.Contains(s, "hush") {
		t.Errorf("printed secret: %s", s)
	}
}
