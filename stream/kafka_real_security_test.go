package stream_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/internal/kafkatest"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/stream"
)

// realSecurity connects in every way that a Config can say, and in those that
// have to fail.
func realSecurity(t *testing.T, k *kafkatest.Cluster, c *stream.Client) {
	ensure(t, c, stream.Topic{Name: "secured", Partitions: 1})
	cr := k.Credentials
	ca := stream.TLSConfig{Enabled: true, CAFile: cr.CAFile}
	sasl := func(mechanism, password string) stream.SASLConfig {
		return stream.SASLConfig{Mechanism: mechanism, Username: cr.Username, Password: secret.String(password)}
	}
	named := ca
	named.ServerName = "localhost"
	misnamed := ca
	misnamed.ServerName = "kafka.example"
	client509 := stream.TLSConfig{Enabled: true, CAFile: cr.CAFile, CertFile: cr.CertFile, KeyFile: cr.KeyFile}
	for _, tc := range []struct {
		name     string
		listener kafkatest.Listener
		tls      stream.TLSConfig
		sasl     stream.SASLConfig
		refused  string // what the error says; empty: it works
	}{
		{"TLS", kafkatest.TLS, ca, stream.SASLConfig{}, ""},
		{"TLS by another name of the broker", kafkatest.TLS, named, stream.SASLConfig{}, ""},
		{"client certificate", kafkatest.MutualTLS, client509, stream.SASLConfig{}, ""},
		{"PLAIN", kafkatest.SASL, ca, sasl("PLAIN", cr.PlainPassword), ""},
		{"SCRAM-SHA-256", kafkatest.SASL, ca, sasl("SCRAM-SHA-256", cr.Password), ""},
		{"SCRAM-SHA-512", kafkatest.SASL, ca, sasl("SCRAM-SHA-512", cr.Password), ""},

		{"a CA that did not sign", kafkatest.TLS, stream.TLSConfig{Enabled: true, CAFile: cr.OtherCAFile}, stream.SASLConfig{}, "certificate"},
		{"the system's CAs", kafkatest.TLS, stream.TLSConfig{Enabled: true}, stream.SASLConfig{}, "certificate"},
		{"a name that the broker does not have", kafkatest.TLS, misnamed, stream.SASLConfig{}, "kafka.example"},
		{"a CA that did not sign, with a password", kafkatest.SASL, stream.TLSConfig{Enabled: true, CAFile: cr.OtherCAFile}, sasl("PLAIN", cr.PlainPassword), "certificate"},
		{"no client certificate", kafkatest.MutualTLS, ca, stream.SASLConfig{}, "certificate"},
		{"PLAIN, wrong password", kafkatest.SASL, ca, sasl("PLAIN", "wrong-one"), "password"},
		{"SCRAM, wrong password", kafkatest.SASL, ca, sasl("SCRAM-SHA-512", "wrong-one"), "credentials"},
		{"no TLS where it is spoken", kafkatest.TLS, stream.TLSConfig{}, stream.SASLConfig{}, "reach kafka"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := client(t, stream.Config{
				Brokers: k.BrokersOn(tc.listener), TLS: tc.tls, SASL: tc.sasl, DialTimeout: 5 * time.Second, RequestTimeout: 10 * time.Second,
			})
			err := c.Ping(ctx(t))
			if tc.refused != "" {
				if err == nil || !strings.Contains(strings.ToLower(err.Error()), tc.refused) {
					t.Errorf("error %v, want one about %s", err, tc.refused)
				}
				if err != nil && strings.Contains(err.Error(), "wrong-one") {
					t.Errorf("error %q shows the password", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, c, tc.name)
		})
	}
}

// roundTrip writes a record and reads it again.
func roundTrip(t *testing.T, c *stream.Client, value string) {
	t.Helper()
	p := producer(t, c, stream.ProducerOptions{Topic: "secured"})
	base, err := p.Produce(ctx(t), 0, []stream.Record{{Value: []byte(value)}})
	if err != nil {
		t.Fatal(err)
	}
	if recs := readAll(t, c, "secured", 0, base); len(recs) != 1 || string(recs[0].Value) != value {
		t.Errorf("read %v", recs)
	}
}

// realOAuth shows tokens to a broker that checks their signature, issuer,
// audience and life.
func realOAuth(t *testing.T, k *kafkatest.Cluster, c *stream.Client) {
	ensure(t, c, stream.Topic{Name: "secured", Partitions: 1})
	cr := k.Credentials
	token := func(holds time.Duration, claims map[string]any) string {
		t.Helper()
		s, err := cr.Token("vedette", holds, claims)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ask := func(t *testing.T, o stream.OAuthConfig) error {
		t.Helper()
		return client(t, stream.Config{
			Brokers: k.BrokersOn(kafkatest.SASL), TLS: stream.TLSConfig{Enabled: true, CAFile: cr.CAFile},
			SASL: stream.SASLConfig{Mechanism: "OAUTHBEARER", OAuth: o},
		}).Ping(ctx(t))
	}
	file := filepath.Join(t.TempDir(), "token")
	good := token(time.Hour, nil)
	for name, tc := range map[string]struct {
		token string
		ok    bool
	}{
		"good":             {good, true},
		"expired":          {token(-time.Hour, nil), false},
		"another audience": {token(time.Hour, map[string]any{"aud": "other"}), false},
		"another issuer":   {token(time.Hour, map[string]any{"iss": "https://evil.test"}), false},
		"a broken seal":    {good[:len(good)-8] + "AAAAAAAA", false},
		"no token":         {"opaque", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tc.token), 0o600); err != nil {
				t.Fatal(err)
			}
			err := ask(t, stream.OAuthConfig{TokenFile: file})
			if (err == nil) != tc.ok {
				t.Errorf("error %v, want none: %t", err, tc.ok)
			}
			if err != nil && (!errors.Is(err, stream.ErrAuthentication) || stream.Retriable(err) || strings.Contains(err.Error(), tc.token)) {
				t.Errorf("error %v (retriable %t), want ErrAuthentication", err, stream.Retriable(err))
			}
		})
	}
	t.Run("client credentials", func(t *testing.T) {
		is := newIssuer(t)
		is.answer.Store(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, good)
		})
		if err := ask(t, is.config()); err != nil {
			t.Fatal(err)
		}
		is.reply(http.StatusServiceUnavailable, "")
		if err := ask(t, is.config()); err == nil || !stream.Retriable(err) {
			t.Errorf("an endpoint that is away: error %v, want one to retry", err)
		}
	})
}
