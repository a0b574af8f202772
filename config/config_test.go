package config

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/secret"
)

func env(m map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

const required = "kafka: {brokers: ['localhost:9092']}\npostgres: {dsn: 'postgres://localhost/vedette'}\n"

func TestParse(t *testing.T) {
	c := Default()
	err := parse("vedette.yaml", []byte(required+`
api: {listen: "0.0.0.0:443", max_body: 8MiB}
incidents: {join_window: 45m}
collect:
  files:
    - {name: trail, paths: [/logs/trail], type: aws.cloudtrail}
alerting:
  receivers:
    - {name: oncall, type: pagerduty, key: "${PD_KEY}", min_severity: high}
`), c, true, env(map[string]string{"PD_KEY": "k-123"}))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Alerting.Receivers[0].Key.Reveal(); got != "k-123" {
		t.Errorf("key from the environment: %q", got)
	}
	if c.API.MaxBody != 8<<20 || c.Incidents.JoinWindow != 45*time.Minute || c.Collect.Files[0].Poll != time.Second {
		t.Errorf("values: %+v", c)
	}
	if c.Kafka.LogsPartitions != 4 {
		t.Errorf("a section that is given in part lost its other defaults: %+v", c.Kafka)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"unknown key", required + "apy: {}\n", `vedette.yaml:3: apy: unknown key; did you mean "api"?`},
		{"unknown nested key", required + "api:\n  colour: red\n", `vedette.yaml:4: api.colour: unknown key; want one of`},
		{"twice", required + "api: {listen: a:1}\napi: {}\n", `given twice`},
		{"kind", required + "kafka2: 1\n", `unknown key`},
		{"list", "kafka:\n  brokers: localhost\n", `vedette.yaml:2: kafka.brokers: want a list, got "localhost"`},
		{"number", required + "incidents:\n  evidence: many\n", `vedette.yaml:4: incidents.evidence: want a whole number, got "many"`},
		{"duration", required + "incidents:\n  join_window: 30\n", `want a duration such as "30s" or "2h", got "30"`},
		{"size", required + "api:\n  max_body: lots\n", `want a size such as "4MiB"`},
		{"boolean", required + "rules: {shipped: perhaps}\n", `want true or false`},
		{"missing", "log: {level: info}\n", "kafka.brokers: want at least one host:port"},
		{"value", required + "log:\n  level: loud\n", `vedette.yaml:4: log.level: want one of debug, info, warn, error, got "loud"`},
		{"environment", required + "data_dir: ${NOPE}\n", "environment variable NOPE is not set"},
		{"receiver", required + "alerting:\n  receivers:\n    - name: x\n      type: fax\n      url: u\n      key: k\n", `vedette.yaml:6: alerting.receivers[0].type: want one of slack, pagerduty, webhook, got "fax"`},
		{"traces", required + "tracing: {endpoint: 'otel:4318'}\n", `vedette.yaml:3: tracing.endpoint: want an http or https URL`},
		{"share of traces", required + "tracing: {ratio: 20}\n", `tracing.ratio: want 0 to 1, got 20`},
		{"share of traces that is none", required + "tracing: {ratio: NaN}\n", `tracing.ratio: want 0 to 1`},
		{"IAM in the open", "kafka: {brokers: ['b:9098'], sasl: {mechanism: aws_msk_iam}}\npostgres: {dsn: d}\n", `kafka.tls: want true with aws_msk_iam`},
		{"log type", required + "collect:\n  files:\n    - {name: x, paths: [y], type: nginx}\n", `collect.files[0].type: want one of`},
		{"not yaml", "a: [", "vedette.yaml: not YAML"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := parse("vedette.yaml", []byte(tt.in), Default(), true, env(nil))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant it to contain %s", err, tt.want)
			}
		})
	}
}

func TestSecretsHide(t *testing.T) {
	c := Default()
	c.Postgres.DSN = "postgres://u:hunter2@h/d"
	c.Kafka.SASL.Password = "hunter2"
	c.Tracing.Headers = map[string]secret.String{"x-key": "hunter2"}
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "config", c, "dsn", c.Postgres.DSN)
	fmt.Fprintf(&b, "%v %+v %#v %s", c, c, c, c.Postgres.DSN)
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("a secret shows: %s", b.String())
	}
}

// Every field has a key, so that nothing in the struct is out of a user's reach.
func TestEveryFieldHasAKey(t *testing.T) {
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		switch ty.Kind() {
		case reflect.Slice, reflect.Map:
			walk(ty.Elem())
		case reflect.Struct:
			for i := range ty.NumField() {
				f := ty.Field(i)
				if keyOf(f) == "" {
					t.Errorf("%s.%s has no yaml key", ty.Name(), f.Name)
				}
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(required))
	f.Add([]byte("kafka: {brokers: [a:1], sasl: {password: ${X}}}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := Default()
		if err := parse("f", in, c, true, env(nil)); err == nil && (len(c.Kafka.Brokers) == 0 || c.Postgres.DSN == "") {
			t.Errorf("accepted without what is required: %q", in)
		}
	})
}
