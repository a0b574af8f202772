package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/sasl"

	"github.com/vedette-sec/vedette/secret"
)

// OAuthConfig says where the token comes from that OAUTHBEARER shows to the
// brokers: a file that something else keeps fresh, or an endpoint that gives one
// to whoever knows a client's secret (the client credentials grant).
type OAuthConfig struct {
	TokenFile string // read for every connection; its content is the token

	TokenURL     string // https, or on loopback
	ClientID     string
	ClientSecret secret.String
	Scope        string        // as the endpoint wants it; may be empty
	CAFile       string        // PEM, for TokenURL; empty: the system's roots
	Timeout      time.Duration // of one request to TokenURL; 10 s if zero

	// Extensions go with the token to brokers that ask for them, such as
	// logicalCluster and identityPoolId of Confluent Cloud.
	Extensions map[string]string

	Now func() time.Time // time.Now if nil
}

// Validate names the first field that cannot work.
func (c OAuthConfig) Validate() error {
	switch {
	case c.TokenFile == "" && c.TokenURL == "":
		return errors.New("kafka sasl: OAUTHBEARER needs a token file or a token URL")
	case c.TokenFile != "" && c.TokenURL != "":
		return errors.New("kafka sasl: OAUTHBEARER takes a token file or a token URL, not both")
	case c.TokenURL != "":
		if err := checkTokenURL(c.TokenURL); err != nil {
			return err
		}
		if c.ClientID == "" || c.ClientSecret == "" {
			return errors.New("kafka sasl: a token URL needs a client id and a client secret")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.Extensions)) {
		if !extensionName.MatchString(k) || k == "auth" {
			return fmt.Errorf("kafka sasl: extension %q: want a name of letters other than auth", k)
		}
		if !extensionValue.MatchString(c.Extensions[k]) {
			return fmt.Errorf("kafka sasl: extension %s: want a value of printable ASCII", k)
		}
	}
	return nil
}

// As RFC 7628, 3.1, has them.
var (
	extensionName  = regexp.MustCompile(`^[A-Za-z]+$`)
	extensionValue = regexp.MustCompile(`^[\x21-\x7e \t\r\n]+$`)
	bearerToken    = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)
)

// maxToken bounds what is taken for a token, in bytes.
const maxToken = 64 << 10

// Mechanism makes the SASL mechanism OAUTHBEARER of it. Use one for a client's
// life: its connections share a token for as long as it holds. It never sends
// the secret or the token anywhere but to the endpoint and the brokers, so
// connections to brokers must be encrypted.
func (c OAuthConfig) Mechanism() (sasl.Mechanism, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	m := &oauthBearer{token: tokenFile(c.TokenFile).token, refused: func(string) {}}
	if c.TokenURL != "" {
		e, err := newTokenEndpoint(c)
		if err != nil {
			return nil, err
		}
		cache := &tokenCache{fetch: e.token, now: c.Now}
		m.token, m.refused = cache.token, cache.drop
	}
	for _, k := range slices.Sorted(maps.Keys(c.Extensions)) {
		m.extensions += k + "=" + c.Extensions[k] + "\x01"
	}
	return m, nil
}

// oauthBearer is OAUTHBEARER as RFC 7628 and KIP-255 define it.
type oauthBearer struct {
	token      func(ctx context.Context) (string, error)
	refused    func(token string) // is told of a token that a broker does not take
	extensions string
}

func (*oauthBearer) Name() string { return "OAUTHBEARER" }

// Start begins the authentication of one connection.
func (m *oauthBearer) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	t, err := m.token(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("kafka sasl: get a token: %w", err)
	}
	if !bearerToken.MatchString(t) {
		return nil, nil, fmt.Errorf("kafka sasl: what was given as a token (%d bytes) is none", len(t))
	}
	return oauthSession{func() { m.refused(t) }}, []byte("n,,\x01auth=Bearer " + t + "\x01" + m.extensions + "\x01"), nil
}

// oauthSession waits for the broker's answer: nothing if it accepts the token,
// else why it does not.
type oauthSession struct{ refused func() }

func (s oauthSession) Next(_ context.Context, challenge []byte) (bool, []byte, error) {
	if len(challenge) == 0 {
		return true, nil, nil
	}
	var refusal struct {
		Status string `json:"status"`
		Scope  string `json:"scope"`
	}
	if err := json.Unmarshal(challenge, &refusal); err != nil || refusal.Status == "" {
		return false, nil, errors.New("kafka sasl: the broker answers the token with what is not understood")
	}
	s.refused()
	// The protocol would have us send an empty message for the broker to fail
	// on; the connection is closed all the same, and this says more.
	err := fmt.Errorf("%w: the broker refuses the token: %s", ErrAuthentication, bounded(refusal.Status))
	if refusal.Scope != "" {
		err = fmt.Errorf("%w (it wants the scope %s)", err, bounded(refusal.Scope))
	}
	return false, nil, err
}

// ErrAuthentication says that somebody knows us and refuses us: waiting does not
// mend it.
var ErrAuthentication = errors.New("kafka: authentication failed")

// bounded makes text of others fit for a log line.
func bounded(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// tokenFile is a token that something else keeps fresh: a sidecar, or Kubernetes.
type tokenFile string

func (f tokenFile) token(context.Context) (string, error) {
	b, err := os.ReadFile(string(f))
	if err != nil {
		return "", fmt.Errorf("read token file: %w", err)
	}
	if len(b) > maxToken {
		return "", fmt.Errorf("token file %s has %d bytes, more than any token", string(f), len(b))
	}
	return strings.TrimSpace(string(b)), nil
}

// tokenCache keeps a token for most of the time that it holds. Connections that
// are opened meanwhile share it, and wait for each other while it is fetched.
type tokenCache struct {
	fetch func(ctx context.Context) (token string, holds time.Duration, err error)
	now   func() time.Time

	mu    sync.Mutex // guards the rest; not held while fetching
	busy  chan struct{}
	value string
	until time.Time
}

func (c *tokenCache) token(ctx context.Context) (string, error) {
	for {
		c.mu.Lock()
		if c.value != "" && c.now().Before(c.until) {
			defer c.mu.Unlock()
			return c.value, nil
		}
		if c.busy == nil {
			c.busy = make(chan struct{})
			c.mu.Unlock()
			return c.refresh(ctx)
		}
		busy := c.busy
		c.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (c *tokenCache) refresh(ctx context.Context) (string, error) {
	asked := c.now()
	value, holds, err := c.fetch(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.busy)
	c.busy = nil
	if err != nil {
		return "", err
	}
	// A tenth of its life is left for the broker's clock and ours to differ.
	c.value, c.until = value, asked.Add(holds/10*9)
	return value, nil
}

// drop forgets a token that was refused before its time.
func (c *tokenCache) drop(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.value == token {
		c.value = ""
	}
}
