package alerting

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/vedette-sec/vedette/secret"
)

// ClientOptions configure a Client. Zero values mean the defaults.
type ClientOptions struct {
	Timeout time.Duration // of a request as a whole; 10 s
	// AllowInsecure allows plain http to hosts that are not loopback, and requests
	// to link-local addresses, where clouds keep their credentials.
	AllowInsecure bool
	Now           func() time.Time // time.Now if nil
}

// Client posts to receivers over HTTP: to configured URLs only, never on to
// where a redirect points, with a deadline, and with errors that hold no secret.
// It is shared by the notifiers.
type Client struct {
	opts ClientOptions
	http *http.Client
}

// NewClient makes a client.
func NewClient(o ClientOptions) *Client {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &net.Dialer{Timeout: o.Timeout, KeepAlive: 30 * time.Second}
	if !o.AllowInsecure {
		d.Control = refuseLinkLocal
	}
	return &Client{opts: o, http: &http.Client{
		Timeout: o.Timeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            d.DialContext,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           32,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        90 * time.Second,
			TLSHandshakeTimeout:    o.Timeout,
			ResponseHeaderTimeout:  o.Timeout,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// refuseLinkLocal keeps requests from instance metadata services, whatever name
// leads there.
func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %q: %w", address, err)
	}
	ip := a.Addr().Unmap()
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || ip == metadataV6 {
		return errors.New("the host has a link-local, multicast or unspecified address, which is not allowed")
	}
	return nil
}

// metadataV6 is the instance metadata service of AWS over IPv6, a unique local
// address.
var metadataV6 = netip.MustParseAddr("fd00:ec2::254")

// CheckURL parses a configured receiver's URL and refuses one that is not
// absolute, not https (http is allowed to loopback, or to anywhere with
// AllowInsecure), or that holds user information or a fragment. Errors do not
// quote the URL: it may be a secret.
func (c *Client) CheckURL(raw secret.String) error {
	u, err := url.Parse(raw.Reveal())
	switch {
	case err != nil:
		return errors.New("the URL cannot be parsed")
	case u.Host == "" || u.Hostname() == "":
		return errors.New("the URL has no host: want https://host/…")
	case u.User != nil:
		return errors.New("the URL holds a user name or password, which is not supported")
	case u.Fragment != "":
		return errors.New("the URL holds a fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (c.opts.AllowInsecure || loopback(u.Hostname())):
		return nil
	case u.Scheme == "http":
		return errors.New("the URL is plain http: want https, or allow insecure receivers")
	}
	return errors.New("the URL's scheme is not https")
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// maxAnswer bounds how much of an answer is read, and maxQuote how much of it is
// quoted in an error, in bytes.
const (
	maxAnswer = 64 << 10
	maxQuote  = 200
)

// Post sends body and tells by the answer what became of it: nil for 2xx,
// otherwise a *Failure and what Retry-After asks for, if anything. secrets (and
// the URL) do not show in the error, even if the answer repeats them.
func (c *Client) Post(ctx context.Context, to secret.String, header http.Header, body []byte, secrets ...secret.String) (retryAfter time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	if err := c.CheckURL(to); err != nil {
		return 0, &Failure{Reason: ReasonInvalid, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.Reveal(), bytes.NewReader(body))
	if err != nil {
		return 0, &Failure{Reason: ReasonInvalid, Err: errors.New("the request cannot be made")}
	}
	for k, vs := range header {
		req.Header[k] = vs
	}
	req.Header.Set("User-Agent", "vedette")
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, transportFailure(err, append(secrets, to))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return 0, nil // accepted, whatever became of the rest of the answer
	}
	if err != nil {
		answer = nil
	}
	f := &Failure{Status: resp.StatusCode, Err: quote(answer, append(secrets, to))}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		f.Reason, f.Retry = ReasonThrottled, true
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		f.Reason = ReasonRefused
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		f.Reason = ReasonRedirect
	default:
		f.Reason, f.Retry = ReasonServer, true
	}
	if f.Retry {
		retryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), c.opts.Now())
	}
	return retryAfter, f
}

// transportFailure is a Failure for a request that got no answer. The error of
// net/http quotes the URL, so only what it wraps is kept.
func transportFailure(err error, secrets []secret.String) *Failure {
	reason := ReasonUnreachable
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		reason = ReasonCanceled
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		reason = ReasonTimeout
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return &Failure{Reason: reason, Retry: true, Err: quote([]byte(err.Error()), secrets)}
}

// quote makes an error of the beginning of a text, without secrets and without
// what would disturb a log.
func quote(b []byte, secrets []secret.String) error {
	s := string(b)
	for _, one := range secrets {
		s = hide(s, one.Reveal())
		u, err := url.Parse(one.Reveal())
		if err != nil || u.Host == "" {
			continue
		}
		// Any part of a URL but its host may be the secret one.
		s = hide(s, u.RequestURI())
		for part := range strings.FieldsFuncSeq(u.EscapedPath()+"/"+u.RawQuery, func(r rune) bool { return strings.ContainsRune("/&=", r) }) {
			s = hide(s, part)
		}
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxQuote {
		s = string(r[:maxQuote]) + "…"
	}
	if s == "" {
		s = "no explanation"
	}
	return errors.New(s)
}

func hide(s, plain string) string {
	if len(plain) < 8 { // too short to be one, and to be replaced sensibly
		return s
	}
	s = strings.ReplaceAll(s, plain, secret.Hidden)
	if q := url.QueryEscape(plain); q != plain {
		s = strings.ReplaceAll(s, q, secret.Hidden)
	}
	return s
}

// maxRetryAfter bounds what a receiver may ask for.
const maxRetryAfter = time.Hour

// parseRetryAfter reads the header's value: seconds or an HTTP date.
func parseRetryAfter(v string, now time.Time) time.Duration {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0
	}
	var d time.Duration
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
