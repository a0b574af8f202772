package enrich_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"go4.org/netipx"

	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/event"
)

// writeDB writes a database of prefix → record and returns its path.
func writeDB(t testing.TB, version int, records map[string]mmdbtype.Map) string {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{
		DatabaseType: "Test", IPVersion: version, BuildEpoch: 1, IncludeReservedNetworks: true, DisableIPv4Aliasing: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	for prefix, rec := range records {
		if err := tree.Insert(netipx.PrefixIPNet(netip.MustParsePrefix(prefix)), rec); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "test.mmdb")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newEnricher(t testing.TB, o enrich.Options) *enrich.Enricher {
	t.Helper()
	e, err := enrich.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func decode(t testing.TB, typ event.Type, rec string) *event.Event {
	t.Helper()
	ev := new(event.Event)
	if err := event.NewDecoder().Decode(ev, event.Record{Type: typ, Data: []byte(rec)}); err != nil {
		t.Fatalf("decode %s: %v", rec, err)
	}
	return ev
}

func trail(ip string) string {
	return `{"eventVersion":"1.11","eventTime":"2026-03-02T09:14:07Z","eventSource":"sts.amazonaws.com","eventName":"GetCallerIdentity","sourceIPAddress":"` + ip + `","eventID":"e"}`
}

func TestAddress(t *testing.T) {
	max := writeDB(t, 6, map[string]mmdbtype.Map{
		"192.0.2.0/24":      {"country": mmdbtype.Map{"iso_code": mmdbtype.String("DE")}},
		"2001:db8:1::/48":   {"country": mmdbtype.Map{"iso_code": mmdbtype.String("FR")}},
		"198.51.100.0/25":   {"autonomous_system_number": mmdbtype.Uint32(64500), "autonomous_system_organization": mmdbtype.String("Example Net")},
		"198.51.100.128/25": {"country": mmdbtype.Map{"iso_code": mmdbtype.String("Nowhere")}, "asn": mmdbtype.Uint32(0)},
	})
	flat := writeDB(t, 4, map[string]mmdbtype.Map{
		"192.0.2.0/24":    {"country_code": mmdbtype.String("us"), "asn": mmdbtype.String("AS64501"), "as_name": mmdbtype.String("Flat")},
		"198.51.100.0/24": {"country_code": mmdbtype.String("it"), "asn": mmdbtype.String("AS64502")},
	})
	tests := []struct {
		ip                            string
		dbs                           []string
		country, asn, asName, network string
	}{
		{"192.0.2.7", []string{max}, "DE", "", "", "192.0.2.0/24"},
		{"192.0.2.7", []string{flat}, "US", "64501", "Flat", "192.0.2.0/24"},
		{"192.0.2.7", []string{max, flat}, "DE", "64501", "Flat", "192.0.2.0/24"},
		{"192.0.2.7", []string{flat, max}, "US", "64501", "Flat", "192.0.2.0/24"},
		{"198.51.100.1", []string{max, flat}, "IT", "64500", "Example Net", "198.51.100.0/24"},
		{"198.51.100.200", []string{max}, "", "", "", "198.51.100.0/24"},
		{"2001:db8:1:2::3", []string{flat, max}, "FR", "", "", "2001:db8:1::/48"},
		{"::ffff:192.0.2.7", []string{max}, "DE", "", "", "192.0.2.0/24"},
		{"203.0.113.9", []string{max, flat}, "", "", "", "203.0.113.0/24"},
		{"10.1.2.3", nil, "", "", "", "10.1.2.0/24"},
		{"s3.amazonaws.com", []string{max}, "", "", "", ""},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.ip, " ", len(tt.dbs)), func(t *testing.T) {
			e := newEnricher(t, enrich.Options{Databases: tt.dbs})
			for range 2 { // the second time from the cache
				ev := decode(t, event.TypeCloudTrail, trail(tt.ip))
				e.Enrich(ev)
				got := []string{
					string(ev.Attr(event.AttrSrcCountry)), string(ev.Attr(event.AttrSrcASN)),
					string(ev.Attr(event.AttrSrcASName)), string(ev.Attr(event.AttrSrcNetwork)),
				}
				if d := cmp.Diff([]string{tt.country, tt.asn, tt.asName, tt.network}, got); d != "" {
					t.Errorf("country, ASN, name, network (-want +got):\n%s", d)
				}
			}
		})
	}
}

func TestCacheIsBoundedAndExact(t *testing.T) {
	db := writeDB(t, 4, map[string]mmdbtype.Map{
		"192.0.2.0/25":   {"country_code": mmdbtype.String("DE")},
		"192.0.2.128/25": {"country_code": mmdbtype.String("FR")},
	})
	e := newEnricher(t, enrich.Options{Databases: []string{db}, Cache: 8})
	for range 3 {
		for i := range 256 {
			ev := decode(t, event.TypeCloudTrail, trail(fmt.Sprintf("192.0.2.%d", i)))
			e.Enrich(ev)
			want := "DE"
			if i >= 128 {
				want = "FR"
			}
			if got := string(ev.Attr(event.AttrSrcCountry)); got != want {
				t.Fatalf("192.0.2.%d: %q, want %q", i, got, want)
			}
		}
	}
	if n := e.Cached(); n > 8 {
		t.Errorf("%d addresses remembered, at most 8 allowed", n)
	}
}

func TestKnownAddressCostsNoAllocation(t *testing.T) {
	e := newEnricher(t, enrich.Options{Inventory: inventory})
	ev := decode(t, event.TypeCloudTrail, invoke(`"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/x"`, "192.0.2.1", "Invoke"))
	e.Enrich(ev)
	if n := testing.AllocsPerRun(100, func() { e.Enrich(ev) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var inventory = enrich.Inventory{Functions: []enrich.Function{
	{Name: "orders", Gateways: []string{"a1"}, Principals: []string{"arn:aws:iam::111122223333:role/smoke", "operator"}},
	{Name: "auth", Authorizers: []string{"a1"}},
	{Name: "httpauth", Gateways: []string{"a1"}, HTTPAuthorizer: true},
	{Name: "nightly", Services: []string{"events"}},
	{Name: "worker", EventSources: []string{"sqs"}},
	{Name: "tool", Principals: []string{"operator"}},
	{Name: "arn:aws:lambda:eu-west-1:111122223333:function:other", Services: []string{"s3.amazonaws.com"}},
	{Name: "other", Gateways: []string{"a1"}},
}}

func invokeOf(function, identity, source, operation string) string {
	return `{"eventVersion":"1.11","userIdentity":{` + identity + `},"eventTime":"2026-03-02T10:02:41Z","eventSource":"lambda.amazonaws.com","eventName":"` + operation +
		`","awsRegion":"eu-west-1","sourceIPAddress":"` + source + `","requestParameters":{"functionName":"` + function + `"},"requestID":"r","eventID":"e","eventCategory":"Data","managementEvent":false,"recipientAccountId":"111122223333"}`
}

func invoke(identity, source, operation string) string {
	return invokeOf("orders", identity, source, operation)
}

func TestFunction(t *testing.T) {
	service := func(s string) string { return `"type":"AWSService","invokedBy":"` + s + `.amazonaws.com"` }
	role := func(n string) string {
		return `"type":"AssumedRole","arn":"arn:aws:sts::111122223333:assumed-role/` + n + `/s","sessionContext":{"sessionIssuer":{"type":"Role","arn":"arn:aws:iam::111122223333:role/` + n + `"}}`
	}
	tests := []struct {
		function, identity, source, operation string
		entry, caller                         string
	}{
		{"orders", service("apigateway"), "apigateway.amazonaws.com", "Invoke", "gateway", "expected"},
		{"orders", `"type":"AWSAccount"`, "apigateway.amazonaws.com", "Invoke", "gateway", "expected"},
		{"orders", service("events"), "events.amazonaws.com", "Invoke", "gateway", "unexpected"},
		{"orders", service("lambda"), "lambda.amazonaws.com", "Invoke", "gateway", "unexpected"},
		{"orders", service("lambda"), "lambda.amazonaws.com", "InvokeExecution", "gateway", "unknown"},
		{"orders", role("smoke"), "192.0.2.1", "Invoke", "gateway", "expected"},
		{"orders", role("operator"), "192.0.2.1", "Invoke", "gateway", "expected"},
		{"orders", role("smoker"), "192.0.2.1", "Invoke", "gateway", "unexpected"},
		{"orders", `"type":"IAMUser","principalId":"operator"`, "192.0.2.1", "Invoke", "gateway", "expected"},
		{"orders", `"type":"IAMUser","principalId":"x/operator"`, "192.0.2.1", "Invoke", "gateway", "unexpected"},
		{"orders", role("smoke"), "192.0.2.1", "GetFunction20150331", "", ""},
		{"auth", service("apigateway"), "apigateway.amazonaws.com", "Invoke", "gateway", "expected"},
		{"httpauth", service("apigateway"), "apigateway.amazonaws.com", "Invoke", "http_authorizer", "expected"},
		{"nightly", service("events"), "events.amazonaws.com", "Invoke", "event_source", "expected"},
		{"nightly", service("apigateway"), "apigateway.amazonaws.com", "Invoke", "event_source", "unexpected"},
		{"worker", service("sqs"), "sqs.amazonaws.com", "Invoke", "event_source", "expected"},
		{"worker", service("lambda"), "lambda.amazonaws.com", "Invoke", "event_source", "expected"},
		{"tool", role("operator"), "192.0.2.1", "Invoke", "direct", "expected"},
		{"other", service("s3"), "s3.amazonaws.com", "Invoke", "event_source", "expected"},
		{"stranger", service("s3"), "s3.amazonaws.com", "Invoke", "unknown", "unknown"},
	}
	for _, tt := range tests {
		t.Run(strings.Join([]string{tt.function, tt.identity, tt.operation}, " "), func(t *testing.T) {
			ev := decode(t, event.TypeCloudTrail, invokeOf(tt.function, tt.identity, tt.source, tt.operation))
			newEnricher(t, enrich.Options{Inventory: inventory}).Enrich(ev)
			if entry, caller := string(ev.Attr(event.AttrFunctionEntry)), string(ev.Attr(event.AttrFunctionCaller)); entry != tt.entry || caller != tt.caller {
				t.Errorf("entry %q, caller %q; want %q, %q", entry, caller, tt.entry, tt.caller)
			}
		})
	}
	t.Run("function log", func(t *testing.T) {
		ev := decode(t, event.TypeLambda, `{"owner":"111122223333","logGroup":"/aws/lambda/orders","logStream":"s","id":"1","timestamp":1772445761512,"message":"START RequestId: 8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001 Version: $LATEST\n"}`)
		newEnricher(t, enrich.Options{Inventory: inventory}).Enrich(ev)
		if got := string(ev.Attr(event.AttrFunctionEntry)); got != "gateway" {
			t.Errorf("entry %q", got)
		}
		if got := ev.Attr(event.AttrFunctionCaller); got != nil {
			t.Errorf("caller %q of a log line", got)
		}
	})
	t.Run("no inventory", func(t *testing.T) {
		ev := decode(t, event.TypeCloudTrail, invoke(role("smoke"), "192.0.2.1", "Invoke"))
		newEnricher(t, enrich.Options{}).Enrich(ev)
		if entry, caller := string(ev.Attr(event.AttrFunctionEntry)), string(ev.Attr(event.AttrFunctionCaller)); entry != "unknown" || caller != "unknown" {
			t.Errorf("entry %q, caller %q", entry, caller)
		}
	})
}

func TestBlind(t *testing.T) {
	country := writeDB(t, 4, map[string]mmdbtype.Map{"192.0.2.0/24": {"country_code": mmdbtype.String("us")}})
	asn := writeDB(t, 4, map[string]mmdbtype.Map{"192.0.2.0/24": {"asn": mmdbtype.Uint32(64500), "as_name": mmdbtype.String("x")}})
	geo := []event.Attr{event.AttrSrcCountry, event.AttrSrcASN, event.AttrSrcASName}
	inv := []event.Attr{event.AttrFunctionEntry, event.AttrFunctionCaller}
	const noInventory = "no function inventory: the gateway-bypass rules answer unknown"
	no := func(a event.Attr) string {
		return "no address database knows " + a.String() + ": rules that ask for it are blind"
	}
	tests := []struct {
		o        enrich.Options
		want     []event.Attr
		warnings []string
	}{
		{enrich.Options{}, append(geo, inv...), []string{no(geo[0]), no(geo[1]), no(geo[2]), noInventory}},
		{enrich.Options{Inventory: inventory}, geo, []string{no(geo[0]), no(geo[1]), no(geo[2])}},
		{enrich.Options{Databases: []string{country}, Inventory: inventory}, geo[1:], []string{no(geo[1]), no(geo[2])}},
		{enrich.Options{Databases: []string{country, asn}, Inventory: inventory}, nil, nil},
		{enrich.Options{Databases: []string{asn}}, append(geo[:1:1], inv...), []string{no(geo[0]), noInventory}},
	}
	for i, tt := range tests {
		e := newEnricher(t, tt.o)
		if d := cmp.Diff(tt.want, e.Blind()); d != "" {
			t.Errorf("%d (-want +got):\n%s", i, d)
		}
		if d := cmp.Diff(tt.warnings, e.Warnings()); d != "" {
			t.Errorf("%d: warnings (-want +got):\n%s", i, d)
		}
	}
}

func TestDigest(t *testing.T) {
	a := writeDB(t, 4, map[string]mmdbtype.Map{"192.0.2.0/24": {"country_code": mmdbtype.String("us")}})
	b := writeDB(t, 4, map[string]mmdbtype.Map{"192.0.2.0/24": {"country_code": mmdbtype.String("de")}})
	again := writeDB(t, 4, map[string]mmdbtype.Map{"192.0.2.0/24": {"country_code": mmdbtype.String("us")}})
	digest := func(o enrich.Options) string { return newEnricher(t, o).Digest() }
	seen := map[string]int{}
	for i, o := range []enrich.Options{
		{},
		{Databases: []string{a}},
		{Databases: []string{b}},
		{Databases: []string{a, b}},
		{Databases: []string{b, a}},
		{Inventory: inventory},
		{Inventory: enrich.Inventory{Functions: inventory.Functions[:1]}},
	} {
		d := digest(o)
		if j, ok := seen[d]; ok {
			t.Errorf("%d and %d have one digest", i, j)
		}
		seen[d] = i
	}
	if digest(enrich.Options{Databases: []string{a}}) != digest(enrich.Options{Databases: []string{again}, Cache: 3}) {
		t.Error("the same content has two digests")
	}
}

func TestRefuses(t *testing.T) {
	text := filepath.Join(t.TempDir(), "x.mmdb")
	if err := os.WriteFile(text, []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := writeDB(t, 4, map[string]mmdbtype.Map{"192.0.2.0/24": {"hosting": mmdbtype.Bool(true)}})
	fn := func(fs ...enrich.Function) enrich.Options {
		return enrich.Options{Inventory: enrich.Inventory{Functions: fs}}
	}
	tests := []struct {
		o    enrich.Options
		want string
	}{
		{enrich.Options{Databases: []string{"/does/not/exist"}}, "read address database"},
		{enrich.Options{Databases: []string{text}}, "x.mmdb"},
		{enrich.Options{Databases: []string{other}}, "holds neither"},
		{fn(enrich.Function{Gateways: []string{"a"}}), "function 1: want a name"},
		{fn(enrich.Function{Name: "f"}), "function f: no way to reach it"},
		{fn(enrich.Function{Name: "f", Gateways: []string{"a"}}, enrich.Function{Name: "f", Gateways: []string{"a"}}), "listed twice"},
		{fn(enrich.Function{Name: "f", Services: []string{""}}), "empty service"},
		{fn(enrich.Function{Name: "f", Principals: []string{""}}), "empty principal"},
	}
	for _, tt := range tests {
		if _, err := enrich.New(tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want one with %q", err, tt.want)
		}
	}
}

func BenchmarkEnrich(b *testing.B) {
	e := newEnricher(b, enrich.Options{Inventory: inventory})
	ev := decode(b, event.TypeCloudTrail, trail("192.0.2.1"))
	b.ReportAllocs()
	for b.Loop() {
		e.Enrich(ev)
	}
}
