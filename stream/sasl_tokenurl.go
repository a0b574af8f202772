package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/secret"
)

// tokenEndpoint gives tokens for a client's secret: RFC 6749, 4.4.
type tokenEndpoint struct {
	url    string
	id     string
	secret secret.String
	scope  string
	client *http.Client
}

func checkTokenURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Fragment != "":
		return errors.New("kafka sasl: the token URL is none") // it is not shown: it may hold a secret
	case u.User != nil:
		return errors.New("kafka sasl: the token URL holds a user name: give the client id and its secret by themselves")
	case u.Scheme == "https", u.Scheme == "http" && loopback([]string{net.JoinHostPort(u.Hostname(), "0")}):
		return nil
	}
	return errors.New("kafka sasl: the token URL gets the client's secret: it must be https")
}

func newTokenEndpoint(c OAuthConfig) (*tokenEndpoint, error) {
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	conf, err := TLSConfig{Enabled: true, CAFile: c.CAFile}.load()
	if err != nil {
		return nil, err
	}
	return &tokenEndpoint{
		url: c.TokenURL, id: c.ClientID, secret: c.ClientSecret, scope: c.Scope,
		client: &http.Client{
			Timeout: c.Timeout,
			// Tokens are asked for rarely: a connection kept open would have to be closed by somebody.
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, DisableKeepAlives: true,
				TLSHandshakeTimeout: c.Timeout, ForceAttemptHTTP2: true,
			},
			// The secret goes to the address that was configured and nowhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// token asks for a token and returns how long it holds, counted from before the
// question. An endpoint that does not say gets asked every time.
func (e *tokenEndpoint) token(ctx context.Context) (string, time.Duration, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if e.scope != "" {
		form.Set("scope", e.scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, errors.New("ask the token URL: it is none")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(e.id), url.QueryEscape(e.secret.Reveal()))
	res, err := e.client.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("ask the token URL: %w", withoutURL(err))
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxToken+1))
	if err != nil {
		return "", 0, fmt.Errorf("read the token URL's answer: %w", withoutURL(err))
	}
	var answer struct {
		AccessToken string      `json:"access_token"`
		TokenType   string      `json:"token_type"`
		ExpiresIn   json.Number `json:"expires_in"`
		Error       string      `json:"error"`
		Description string      `json:"error_description"`
	}
	if len(b) > maxToken {
		err = errors.New("it is too long")
	} else {
		err = json.Unmarshal(b, &answer)
	}
	switch {
	case res.StatusCode == http.StatusBadRequest, res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		why := bounded(answer.Error)
		if answer.Description != "" {
			why += ": " + bounded(answer.Description)
		}
		return "", 0, fmt.Errorf("%w: the token URL answers %s: %s", ErrAuthentication, res.Status, why)
	case res.StatusCode >= 500, res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusRequestTimeout:
		return "", 0, unavailable("the token URL answers " + bounded(res.Status))
	case res.StatusCode != http.StatusOK:
		return "", 0, fmt.Errorf("the token URL answers %s", bounded(res.Status))
	case err != nil:
		return "", 0, fmt.Errorf("the token URL's answer cannot be read: %w", withoutToken(err))
	case answer.AccessToken == "":
		return "", 0, errors.New("the token URL's answer holds no token")
	case answer.TokenType != "" && !strings.EqualFold(answer.TokenType, "bearer"):
		return "", 0, fmt.Errorf("the token URL gives a token of type %s, want Bearer", bounded(answer.TokenType))
	}
	seconds, err := answer.ExpiresIn.Float64()
	if err != nil || seconds < 0 {
		seconds = 0
	}
	return answer.AccessToken, time.Duration(min(seconds, 24*60*60) * float64(time.Second)), nil
}

// withoutURL takes the address out of an error of net/http.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// withoutToken makes sure that an error about JSON shows nothing of it.
func withoutToken(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("no JSON from byte %d on", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("JSON with %s of another type", kind.Field)
	}
	return err
}

// unavailable is a net.Error, since it is one to [Retriable]: a service that is
// away, told by a proxy or by itself.
type unavailable string

func (e unavailable) Error() string { return string(e) }
func (unavailable) Timeout() bool   { return true }
func (unavailable) Temporary() bool { return true }
