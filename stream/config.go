package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/vedette-sec/vedette/secret"
)

// Config says which Kafka to talk to, and how.
type Config struct {
	Brokers  []string // host:port, at least one
	ClientID string   // as the brokers' logs and quotas see it; "vedette" if empty
	TLS      TLSConfig
	SASL     SASLConfig

	DialTimeout    time.Duration // including TLS and SASL; 5 s if zero
	RequestTimeout time.Duration // of administrative requests; 10 s if zero
	MetadataAge    time.Duration // how old what is known of brokers and partitions may be; 5 s if zero
}

// TLSConfig encrypts the connections to the brokers. Certificates are PEM files.
type TLSConfig struct {
	Enabled    bool
	CAFile     string // empty: the system's roots
	CertFile   string // client certificate, with KeyFile
	KeyFile    string
	ServerName string // empty: the broker's host name
}

// SASLConfig authenticates to the brokers.
type SASLConfig struct {
	Mechanism string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM; empty: none
	Username  string // for PLAIN and SCRAM
	Password  secret.String
	OAuth     OAuthConfig // for OAUTHBEARER
	MSK       MSKConfig   // for AWS_MSK_IAM
}

// Validate names the first field that cannot work.
func (c Config) Validate() error {
	if len(c.Brokers) == 0 {
		return errors.New("kafka brokers: none given")
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			return fmt.Errorf("kafka brokers: %q is not host:port: %w", b, err)
		}
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		return errors.New("kafka tls: a client certificate needs both its certificate and its key file")
	}
	if _, err := c.SASL.mechanism(); err != nil {
		return err
	}
	if !c.TLS.Enabled && strings.EqualFold(c.SASL.Mechanism, "AWS_MSK_IAM") {
		return errors.New("kafka sasl: AWS_MSK_IAM is for encrypted connections only: enable TLS")
	}
	if !c.TLS.Enabled && !loopback(c.Brokers) {
		switch strings.ToUpper(c.SASL.Mechanism) {
		case "PLAIN":
			return errors.New("kafka sasl: PLAIN sends the password readably: enable TLS")
		case "OAUTHBEARER":
			return errors.New("kafka sasl: OAUTHBEARER sends the token readably: enable TLS")
		}
	}
	return nil
}

func loopback(addrs []string) bool {
	for _, a := range addrs {
		host, _, _ := net.SplitHostPort(a)
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

func (c TLSConfig) load() (*tls.Config, error) {
	if !c.Enabled {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("kafka tls: read CA file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka tls: CA file %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("kafka tls: load client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}

func (c SASLConfig) mechanism() (sasl.Mechanism, error) {
	var m sasl.Mechanism
	var err error
	switch strings.ToUpper(c.Mechanism) {
	case "":
		return nil, nil
	case "OAUTHBEARER":
		return c.OAuth.Mechanism()
	case "AWS_MSK_IAM":
		return c.MSK.mechanism()
	case "PLAIN":
		m = plain.Mechanism{Username: c.Username, Password: c.Password.Reveal()}
	case "SCRAM-SHA-256":
		m, err = scram.Mechanism(scram.SHA256, c.Username, c.Password.Reveal())
	case "SCRAM-SHA-512":
		m, err = scram.Mechanism(scram.SHA512, c.Username, c.Password.Reveal())
	default:
		return nil, fmt.Errorf("kafka sasl: mechanism %q: want PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM", c.Mechanism)
	}
	if err != nil {
		return nil, fmt.Errorf("kafka sasl: %w", err)
	}
	if c.Username == "" || c.Password == "" {
		return nil, fmt.Errorf("kafka sasl: %s needs a user name and a password", c.Mechanism)
	}
	return m, nil
}

// Client is a set of connections to one Kafka. It is safe for concurrent use;
// producers and readers made from it share its connections.
type Client struct {
	kafka          *kafka.Client
	transport      *kafka.Transport
	requestTimeout time.Duration
	sasl           bool
	brokers        []string
}

// NewClient makes a client. It does not connect yet: see [Client.Ping].
func NewClient(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.TLS.load()
	if err != nil {
		return nil, err
	}
	mechanism, err := cfg.SASL.mechanism()
	if err != nil {
		return nil, err
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "vedette"
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	if cfg.RequestTimeout <= 0 {
		cfg.RequestTimeout = 10 * time.Second
	}
	if cfg.MetadataAge <= 0 {
		cfg.MetadataAge = 5 * time.Second
	}
	t := &kafka.Transport{
		ClientID:    cfg.ClientID,
		DialTimeout: cfg.DialTimeout,
		TLS:         tlsConfig,
		SASL:        mechanism,
		MetadataTTL: cfg.MetadataAge,
	}
	return &Client{
		kafka:          &kafka.Client{Addr: kafka.TCP(cfg.Brokers...), Transport: t},
		transport:      t,
		requestTimeout: cfg.RequestTimeout,
		sasl:           mechanism != nil,
		brokers:        cfg.Brokers,
	}, nil
}

// Close drops the connections. Requests in progress fail.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Ping asks the brokers who they are, to learn early that they can be reached
// and that they accept us.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	// Metadata is answered from a cache that may be an error some seconds old;
	// this is not.
	res, err := c.kafka.ApiVersions(ctx, &kafka.ApiVersionsRequest{})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return fmt.Errorf("reach kafka: %w", c.explain(err))
	}
	return nil
}
