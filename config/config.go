// Package config is Vedette's configuration: one YAML file, whose every key is a
// field here with its default in Default. Unknown keys and bad values are refused
// with file, line, key and what was expected. docs/configuration.md is written
// from these comments.
package config

import (
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/secret"
)

// Bytes is a size, written as "512KiB", "4MiB" or a number of bytes.
type Bytes int64

// Config is the whole configuration.
type Config struct {
	// DataDir holds what the process keeps on disk: databases by digest and tokens. Default "/var/lib/vedette".
	DataDir string `yaml:"data_dir"`
	// Tenant is the tenant of everything this process ingests. Default "default".
	Tenant string `yaml:"tenant"`

	Log       Log       `yaml:"log"`
	Tracing   Tracing   `yaml:"tracing"`
	Kafka     Kafka     `yaml:"kafka"`
	Postgres  Postgres  `yaml:"postgres"`
	API       API       `yaml:"api"`
	Rules     Rules     `yaml:"rules"`
	Enrich    Enrich    `yaml:"enrich"`
	Snapshots Snapshots `yaml:"snapshots"`
	Collect   Collect   `yaml:"collect"`
	Incidents Incidents `yaml:"incidents"`
	Alerting  Alerting  `yaml:"alerting"`
}

// Snapshots are copies of what correlate holds in its windows, in the data
// directory's snapshots folder: who takes a partition over goes on from one instead of
// reading the observations again. They are a cache.
type Snapshots struct {
	Every   time.Duration `yaml:"every"`    // between two of a partition, and one when the service stops; 0s writes none. Default 5m.
	MaxSize Bytes         `yaml:"max_size"` // of one; of larger windows none is written. Default 1GiB.
}

// Log says how the process logs, to standard error.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error. Default "info".
	Format string `yaml:"format"` // text or json. Default "text".
}

// Tracing sends traces to an OpenTelemetry collector by OTLP over HTTP, if there is an
// endpoint here or in OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT).
type Tracing struct {
	Endpoint string                   `yaml:"endpoint"` // such as https://otel.example:4318, to which v1/traces is added; the environment's by default
	Headers  map[string]secret.String `yaml:"headers"`  // sent along, such as a key; besides those of OTEL_EXPORTER_OTLP_HEADERS. With any, the endpoint has to be https, or on this machine
	CAFile   string                   `yaml:"ca_file"`  // PEM; that of OTEL_EXPORTER_OTLP_CERTIFICATE, or the system's, by default
	Ratio    float64                  `yaml:"ratio"`    // share of the traces begun here that are kept, 0 to 1; requests that bring a trace of their own keep to its decision. Default 1.
	Queue    int                      `yaml:"queue"`    // spans that wait to be sent, at most; more are dropped and counted. Default 4096.
}

// Kafka is the log.
type Kafka struct {
	Brokers               []string `yaml:"brokers"`                // host:port each; required
	TLS                   bool     `yaml:"tls"`                    // Default false.
	CAFile                string   `yaml:"ca_file"`                // PEM; the system's by default
	CertFile              string   `yaml:"cert_file"`              // PEM, a client certificate, if the brokers ask for one
	KeyFile               string   `yaml:"key_file"`               // PEM, of cert_file
	ServerName            string   `yaml:"server_name"`            // that the brokers' certificates must have; each broker's host name by default
	SASL                  SASL     `yaml:"sasl"`                   // none by default
	LogsPartitions        int      `yaml:"logs_partitions"`        // of vedette.logs, at least: more may be added at any time, by raising this or with Kafka's tools. Default 4.
	ObservationPartitions int      `yaml:"observation_partitions"` // of the observations, fixed at first start; vedette reshard changes it. Default 4.
	Replication           int      `yaml:"replication"`            // of topics created. Default 3.
	GroupPrefix           string   `yaml:"group_prefix"`           // of the consumer groups that share the work, PREFIX.match and PREFIX.correlate. Default "vedette".
}

// SASL signs in to Kafka.
type SASL struct {
	Mechanism string        `yaml:"mechanism"` // plain, scram-sha-256, scram-sha-512, oauthbearer or aws_msk_iam; empty for none
	Username  string        `yaml:"username"`
	Password  secret.String `yaml:"password"`
	OAuth     OAuth         `yaml:"oauth"` // for oauthbearer
	MSK       MSK           `yaml:"msk"`
}

// MSK is for aws_msk_iam, which needs kafka.tls: Amazon MSK knows us by IAM. The
// credentials are those that AWS's SDK finds: environment, shared files, web identity, the role of container or instance.
type MSK struct {
	Region string `yaml:"region"` // of the cluster; that of AWS_REGION or the shared files by default
}

// OAuth says where the token comes from: a file that something else keeps fresh,
// or an endpoint that knows the client's secret.
type OAuth struct {
	TokenFile    string            `yaml:"token_file"` // read for every connection
	TokenURL     string            `yaml:"token_url"`  // https, or on this machine
	ClientID     string            `yaml:"client_id"`
	ClientSecret secret.String     `yaml:"client_secret"`
	Scope        string            `yaml:"scope"`      // as the endpoint wants it
	CAFile       string            `yaml:"ca_file"`    // PEM, for token_url; the system's by default
	Extensions   map[string]string `yaml:"extensions"` // sent to brokers that ask for them, such as logicalCluster
}

// Postgres is the ledger.
type Postgres struct {
	DSN            secret.String `yaml:"dsn"`             // a URL or key=value string; required
	MaxConnections int           `yaml:"max_connections"` // Default 20.
}

// API is the HTTP listener: push endpoint, incident API, page, health and metrics.
type API struct {
	Listen      string `yaml:"listen"`       // host:port. Default "127.0.0.1:8080".
	ExternalURL string `yaml:"external_url"` // as people reach it, for links in alerts; http://<listen> by default
	TLSCertFile string `yaml:"tls_cert_file"`
	TLSKeyFile  string `yaml:"tls_key_file"`
	// OpenOnLoopback lets a browser on this machine read incidents without a token. Default false.
	OpenOnLoopback bool  `yaml:"open_on_loopback"`
	MaxBody        Bytes `yaml:"max_body"`      // of one push, as sent; unpacked it may be sixteen times as long. Default 32MiB.
	MaxInFlight    Bytes `yaml:"max_in_flight"` // of all pushes together, then 429. Default 128MiB.
}

// Rules says which detection rules run.
type Rules struct {
	Shipped bool     `yaml:"shipped"` // the rules inside the program. Default true.
	Paths   []string `yaml:"paths"`   // Sigma files and directories; read again on SIGHUP
}

// Enrich is what is known beside the logs.
type Enrich struct {
	GeoDatabases []string  `yaml:"geo_databases"` // MMDB files: country, city or ASN
	Inventory    Inventory `yaml:"inventory"`
}

// Inventory is what is known of the functions. Without it the gateway-bypass
// rules that need it answer "unknown".
type Inventory struct {
	// Functions by name, or by ARN without a version.
	Functions map[string]Function `yaml:"functions"`
}

// Function is one function's expected callers.
type Function struct {
	Gateways       []string `yaml:"gateways"`        // ids of the gateway APIs that route to it
	Authorizers    []string `yaml:"authorizers"`     // ids of the REST APIs whose authorizer it is
	HTTPAuthorizer bool     `yaml:"http_authorizer"` // it authorizes an HTTP API, whose access log cannot name its invocations
	Services       []string `yaml:"services"`        // services that call it, such as events or events.amazonaws.com
	EventSources   []string `yaml:"event_sources"`   // what is polled for it: sqs, kinesis, dynamodb, …
	Principals     []string `yaml:"principals"`      // ARN or name of roles and users that may invoke it directly
}

// Collect lists the collectors.
type Collect struct {
	Files []FileSource `yaml:"files"`
}

// FileSource watches files and directories.
type FileSource struct {
	Name  string        `yaml:"name"`  // the origin; unique
	Paths []string      `yaml:"paths"` // files, or directories read recursively
	Type  string        `yaml:"type"`  // log type; told from the content by default
	Poll  time.Duration `yaml:"poll"`  // Default 1s.
}

// Incidents says how findings become incidents.
type Incidents struct {
	JoinWindow time.Duration `yaml:"join_window"` // findings that share an entity join within it. Default 30m.
	FloodKeys  int           `yaml:"flood_keys"`  // so many keys that one rule finds in one tile (an hour, or its window) are one incident. Default 50.
	Evidence   int           `yaml:"evidence"`    // records copied for each finding. Default 10.
}

// Alerting says whom to tell.
type Alerting struct {
	Receivers []Receiver `yaml:"receivers"`
	// AllowInsecure allows plain http to receivers on other machines, and link-local addresses. Default false.
	AllowInsecure bool `yaml:"allow_insecure"`
}

// Receiver is one place that is told of incidents.
type Receiver struct {
	Name        string        `yaml:"name"`         // unique
	Type        string        `yaml:"type"`         // slack, pagerduty or webhook
	URL         secret.String `yaml:"url"`          // slack, webhook: where to post; pagerduty: only to replace its own
	Key         secret.String `yaml:"key"`          // pagerduty: routing key; webhook: signing key
	MinSeverity string        `yaml:"min_severity"` // informational, low, medium, high or critical. Default "medium".
}

// Default is the configuration of an empty file.
func Default() *Config {
	return &Config{
		DataDir:   "/var/lib/vedette",
		Tenant:    "default",
		Log:       Log{Level: "info", Format: "text"},
		Tracing:   Tracing{Ratio: 1, Queue: 4096},
		Kafka:     Kafka{LogsPartitions: 4, ObservationPartitions: 4, Replication: 3, GroupPrefix: "vedette"},
		Postgres:  Postgres{MaxConnections: 20},
		API:       API{Listen: "127.0.0.1:8080", MaxBody: 32 << 20, MaxInFlight: 128 << 20},
		Rules:     Rules{Shipped: true},
		Snapshots: Snapshots{Every: 5 * time.Minute, MaxSize: 1 << 30},
		Incidents: Incidents{JoinWindow: 30 * time.Minute, FloodKeys: 50, Evidence: 10},
	}
}

// LogTypes are the names that a FileSource's type may have.
func LogTypes() []string {
	var names []string
	for _, t := range event.Types() {
		names = append(names, string(t))
	}
	return names
}

// validate reports what is wrong, by key; with required, also what a server lacks.
func (c *Config) validate(required bool, fail func(key, format string, args ...any)) {
	oneOf := func(key, got string, names ...string) {
		if !slices.Contains(names, got) {
			fail(key, "want one of %s, got %q", strings.Join(names, ", "), got)
		}
	}
	positive := func(key string, n int64) {
		if n <= 0 {
			fail(key, "want more than 0, got %d", n)
		}
	}
	hostPort := func(key, s string) {
		if _, _, err := net.SplitHostPort(s); err != nil {
			fail(key, "want host:port, got %q", s)
		}
	}
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	if e := c.Tracing.Endpoint; e != "" {
		if u, err := url.Parse(e); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			fail("tracing.endpoint", "want an http or https URL")
		}
	}
	if r := c.Tracing.Ratio; !(r >= 0 && r <= 1) {
		fail("tracing.ratio", "want 0 to 1, got %v", r)
	}
	positive("tracing.queue", int64(c.Tracing.Queue))
	if c.DataDir == "" {
		fail("data_dir", "want a directory")
	}
	if c.Tenant == "" || len(c.Tenant) > 63 {
		fail("tenant", "want 1 to 63 characters")
	}
	if required && len(c.Kafka.Brokers) == 0 {
		fail("kafka.brokers", "want at least one host:port")
	}
	for i, b := range c.Kafka.Brokers {
		hostPort("kafka.brokers["+strconv.Itoa(i)+"]", b)
	}
	oneOf("kafka.sasl.mechanism", c.Kafka.SASL.Mechanism, "", "plain", "scram-sha-256", "scram-sha-512", "oauthbearer", "aws_msk_iam")
	if c.Kafka.SASL.Mechanism == "aws_msk_iam" && !c.Kafka.TLS {
		fail("kafka.tls", "want true with aws_msk_iam")
	}
	if (c.Kafka.CertFile == "") != (c.Kafka.KeyFile == "") {
		fail("kafka.cert_file", "want both cert_file and key_file, or neither")
	}
	if o := c.Kafka.SASL.OAuth; c.Kafka.SASL.Mechanism == "oauthbearer" && (o.TokenFile == "") == (o.TokenURL == "") {
		fail("kafka.sasl.oauth", "want either token_file or token_url")
	}
	positive("kafka.logs_partitions", int64(c.Kafka.LogsPartitions))
	positive("kafka.observation_partitions", int64(c.Kafka.ObservationPartitions))
	positive("kafka.replication", int64(c.Kafka.Replication))
	if c.Kafka.GroupPrefix == "" {
		fail("kafka.group_prefix", "want the beginning of the consumer groups' names")
	}
	if required && c.Postgres.DSN == "" {
		fail("postgres.dsn", "want a Postgres URL or key=value string")
	}
	if c.Postgres.MaxConnections < 8 {
		fail("postgres.max_connections", "want at least 8, got %d", c.Postgres.MaxConnections)
	}
	hostPort("api.listen", c.API.Listen)
	if c.API.ExternalURL != "" {
		if u, err := url.Parse(c.API.ExternalURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			fail("api.external_url", "want an http or https URL, got %q", c.API.ExternalURL)
		}
	}
	if (c.API.TLSCertFile == "") != (c.API.TLSKeyFile == "") {
		fail("api.tls_cert_file", "want both tls_cert_file and tls_key_file, or neither")
	}
	positive("api.max_body", int64(c.API.MaxBody))
	if c.API.MaxInFlight < c.API.MaxBody {
		fail("api.max_in_flight", "want at least api.max_body (%d), got %d", c.API.MaxBody, c.API.MaxInFlight)
	}
	if c.Snapshots.Every != 0 && c.Snapshots.Every < 10*time.Second {
		fail("snapshots.every", "want 10s or more, or 0s for none, got %s", c.Snapshots.Every)
	}
	positive("snapshots.max_size", int64(c.Snapshots.MaxSize))
	names := map[string]bool{}
	for i := range c.Collect.Files {
		f := &c.Collect.Files[i]
		key := "collect.files[" + strconv.Itoa(i) + "]"
		if f.Poll == 0 {
			f.Poll = time.Second
		}
		positive(key+".poll", int64(f.Poll))
		if f.Name == "" || names[f.Name] {
			fail(key+".name", "want a name of its own, got %q", f.Name)
		}
		names[f.Name] = true
		if len(f.Paths) == 0 {
			fail(key+".paths", "want at least one path")
		}
		oneOf(key+".type", f.Type, append([]string{""}, LogTypes()...)...)
	}
	positive("incidents.join_window", int64(c.Incidents.JoinWindow))
	positive("incidents.evidence", int64(c.Incidents.Evidence))
	if c.Incidents.FloodKeys < 2 {
		fail("incidents.flood_keys", "want at least 2, got %d", c.Incidents.FloodKeys)
	}
	names = map[string]bool{}
	for i := range c.Alerting.Receivers {
		r := &c.Alerting.Receivers[i]
		key := "alerting.receivers[" + strconv.Itoa(i) + "]"
		if r.MinSeverity == "" {
			r.MinSeverity = "medium"
		}
		if r.Name == "" || names[r.Name] {
			fail(key+".name", "want a name of its own, got %q", r.Name)
		}
		names[r.Name] = true
		oneOf(key+".type", r.Type, "slack", "pagerduty", "webhook")
		oneOf(key+".min_severity", r.MinSeverity, "informational", "low", "medium", "high", "critical")
		if r.URL == "" && r.Type != "pagerduty" {
			fail(key+".url", "want the URL to post to")
		}
		if r.Type == "webhook" && len(r.Key) < 24 {
			fail(key+".key", "want a signing key of at least 24 bytes")
		}
		if r.Key == "" && r.Type == "pagerduty" {
			fail(key+".key", "want the routing key")
		}
	}
}
