package stream_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vedette-sec/vedette/stream"
)

// mskBroker is a broker that lets in whom IAM would: it speaks Kafka over TLS as far
// as signing in goes, and checks the signature by itself.
type mskBroker struct {
	addr, ca string
	secrets  map[string]string // by access key

	mu  sync.Mutex
	got []map[string]string // payloads
}

func newMSKBroker(t *testing.T, secrets map[string]string) *mskBroker {
	t.Helper()
	certified := httptest.NewTLSServer(nil)
	certified.Close()
	b := &mskBroker{secrets: secrets, ca: filepath.Join(t.TempDir(), "ca.pem")}
	if err := os.WriteFile(b.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certified.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	b.addr = l.Addr().String()
	var wg sync.WaitGroup
	var conns sync.Map
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Store(c, nil)
			wg.Go(func() {
				defer c.Close()
				b.serve(t, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		wg.Wait()
	})
	return b
}

// serve answers requests until one is not understood or the client hangs up. Nothing
// but what signing in takes is answered before that.
func (b *mskBroker) serve(t *testing.T, c net.Conn) {
	in := false
	for {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		req := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, req); err != nil {
			return
		}
		// Key, version, correlation id and client id, of which the last is of any length.
		key, version := int16(binary.BigEndian.Uint16(req)), int16(binary.BigEndian.Uint16(req[2:]))
		id := req[4:8]
		body := req[10+max(0, int(int16(binary.BigEndian.Uint16(req[8:])))):]
		kreq := kmsg.RequestForKey(key)
		if kreq == nil {
			t.Errorf("request of key %d", key)
			return
		}
		kreq.SetVersion(version)
		if kreq.IsFlexible() {
			body = body[1:] // no tags
		}
		if err := kreq.ReadFrom(body); err != nil {
			t.Errorf("request %T of version %d: %v", kreq, version, err)
			return
		}
		res := kreq.ResponseKind()
		res.SetVersion(version)
		switch r := kreq.(type) {
		case *kmsg.ApiVersionsRequest:
			for _, k := range []struct{ key, max int16 }{{18, 2}, {17, 1}, {36, 1}, {3, 8}} {
				key := kmsg.NewApiVersionsResponseApiKey()
				key.ApiKey, key.MaxVersion = k.key, k.max
				res.(*kmsg.ApiVersionsResponse).ApiKeys = append(res.(*kmsg.ApiVersionsResponse).ApiKeys, key)
			}
		case *kmsg.SASLHandshakeRequest:
			res.(*kmsg.SASLHandshakeResponse).SupportedMechanisms = []string{"AWS_MSK_IAM"}
			if r.Mechanism != "AWS_MSK_IAM" {
				res.(*kmsg.SASLHandshakeResponse).ErrorCode = 33
			}
		case *kmsg.SASLAuthenticateRequest:
			a := res.(*kmsg.SASLAuthenticateResponse)
			if err := b.judge(r.SASLAuthBytes); err != nil {
				a.ErrorCode, a.ErrorMessage = 58, kmsg.StringPtr(err.Error())
			} else {
				in = true
			}
		case *kmsg.MetadataRequest:
			if !in {
				t.Error("metadata is asked for before signing in")
				return
			}
			host, port, _ := net.SplitHostPort(b.addr)
			node := kmsg.NewMetadataResponseBroker()
			node.Host = host
			fmt.Sscan(port, &node.Port)
			res.(*kmsg.MetadataResponse).Brokers = []kmsg.MetadataResponseBroker{node}
		default:
			t.Errorf("request %T", r)
			return
		}
		out := append(id, res.AppendTo(nil)...)
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(len(out)))); err != nil {
			return
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// judge checks a payload as Amazon's broker does: Signature Version 4 in the query of
// a request, https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html,
// in the form of https://github.com/aws/aws-msk-iam-auth#details.
func (b *mskBroker) judge(payload []byte) error {
	var p map[string]string
	if err := json.Unmarshal(payload, &p); err != nil {
		return err
	}
	b.mu.Lock()
	b.got = append(b.got, p)
	b.mu.Unlock()
	if p["version"] != "2020_10_22" || p["action"] != "kafka-cluster:Connect" || p["user-agent"] == "" ||
		p["x-amz-algorithm"] != "AWS4-HMAC-SHA256" || p["x-amz-signedheaders"] != "host" {
		return fmt.Errorf("payload %v", p)
	}
	scope := strings.Split(p["x-amz-credential"], "/")
	if len(scope) != 5 || scope[3] != "kafka-cluster" || scope[4] != "aws4_request" {
		return fmt.Errorf("credential %q", p["x-amz-credential"])
	}
	at, err := time.Parse("20060102T150405Z", p["x-amz-date"])
	if err != nil || time.Since(at).Abs() > time.Minute || p["x-amz-expires"] != "300" || scope[1] != at.Format("20060102") {
		return fmt.Errorf("signed at %q for %q s", p["x-amz-date"], p["x-amz-expires"])
	}
	// In the order of their names.
	var query []string
	for _, k := range []string{"Action", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Security-Token", "X-Amz-SignedHeaders"} {
		if v, ok := p[strings.ToLower(k)]; ok {
			query = append(query, k+"="+strings.ReplaceAll(url.QueryEscape(v), "+", "%20"))
		}
	}
	hash := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	canonical := "GET\n/\n" + strings.Join(query, "&") + "\nhost:" + p["host"] + "\n\nhost\n" + hash("")
	toSign := "AWS4-HMAC-SHA256\n" + p["x-amz-date"] + "\n" + strings.Join(scope[1:], "/") + "\n" + hash(canonical)
	mac := func(key []byte, s string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s))
		return h.Sum(nil)
	}
	key := []byte("AWS4" + b.secrets[scope[0]])
	for _, s := range scope[1:] {
		key = mac(key, s)
	}
	if want := hex.EncodeToString(mac(key, toSign)); p["x-amz-signature"] != want {
		return fmt.Errorf("the signature is wrong")
	}
	return nil
}

// awsEnv leaves nothing of the machine's own AWS configuration.
func awsEnv(t *testing.T, env map[string]string) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for k, v := range map[string]string{
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true", "AWS_PROFILE": "",
		"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "",
		"AWS_ROLE_ARN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
	} {
		t.Setenv(k, v)
	}
	for k, v := range env {
		t.Setenv(k, v)
	}
}

func TestMSKIAM(t *testing.T) {
	const id, hush = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	files := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(files, []byte("[default]\naws_access_key_id = "+id+"\naws_secret_access_key = "+hush+"\nregion = eu-west-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": hush}
	with := func(more map[string]string) map[string]string {
		m := map[string]string{}
		for _, env := range []map[string]string{keys, more} {
			for k, v := range env {
				m[k] = v
			}
		}
		return m
	}
	for _, tt := range []struct {
		name   string
		env    map[string]string
		region string // configured
		want   string // region that it is signed for; empty: refused
	}{
		{"environment", keys, "us-east-1", "us-east-1"},
		{"with a session token", with(map[string]string{"AWS_SESSION_TOKEN": "a/b+c=="}), "us-east-1", "us-east-1"},
		{"region of the environment", with(map[string]string{"AWS_REGION": "eu-central-1"}), "", "eu-central-1"},
		{"configured region wins", with(map[string]string{"AWS_REGION": "eu-central-1"}), "us-east-1", "us-east-1"},
		{"shared file", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": files}, "", "eu-west-1"},
		{"wrong secret", with(map[string]string{"AWS_SECRET_ACCESS_KEY": "another"}), "us-east-1", ""},
		{"no credentials", nil, "us-east-1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			awsEnv(t, tt.env)
			b := newMSKBroker(t, map[string]string{id: hush})
			c, err := stream.NewClient(stream.Config{
				Brokers: []string{b.addr}, TLS: stream.TLSConfig{Enabled: true, CAFile: b.ca},
				SASL: stream.SASLConfig{Mechanism: "AWS_MSK_IAM", MSK: stream.MSKConfig{Region: tt.region}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = c.Ping(ctx(t))
			b.mu.Lock()
			defer b.mu.Unlock()
			if tt.want == "" {
				if err == nil {
					t.Fatal("it is let in")
				}
				if s := err.Error(); strings.Contains(s, hush) || strings.Contains(s, "another") {
					t.Errorf("error %q shows a secret", s)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v; payloads %v", err, b.got)
			}
			if len(b.got) == 0 {
				t.Fatal("it is let in without signing in")
			}
			for _, p := range b.got {
				if scope := strings.Split(p["x-amz-credential"], "/"); scope[0] != id || scope[2] != tt.want || p["host"] != "127.0.0.1" {
					t.Errorf("payload %v, want region %s", p, tt.want)
				}
				if p["x-amz-security-token"] != tt.env["AWS_SESSION_TOKEN"] {
					t.Errorf("session token %q", p["x-amz-security-token"])
				}
			}
		})
	}
}

func TestMSKIAMRefused(t *testing.T) {
	awsEnv(t, nil)
	for _, tt := range []struct {
		name   string
		tls    bool
		region string
		want   string
	}{
		{"in the open", false, "us-east-1", "enable TLS"}, // even on this machine: no broker of MSK's takes it so
		{"no region", true, "", "needs a region"},
	} {
		_, err := stream.NewClient(stream.Config{
			Brokers: []string{"127.0.0.1:9098"}, TLS: stream.TLSConfig{Enabled: tt.tls},
			SASL: stream.SASLConfig{Mechanism: "aws_msk_iam", MSK: stream.MSKConfig{Region: tt.region}},
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
		}
	}
}
