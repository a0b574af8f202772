package kafkatest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Credentials are what a secure cluster believes. All of it is made for the
// test. Files are PEM.
type Credentials struct {
	CAFile      string // signed the brokers' certificates, for 127.0.0.1 and localhost
	OtherCAFile string // signed nothing that the brokers have

	CertFile, KeyFile string // a client certificate that MutualTLS accepts

	// Known to PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512. The SCRAM mechanisms have
	// the same password, PLAIN has one of its own.
	Username, Password, PlainPassword string

	// What a token must say for OAUTHBEARER.
	Issuer, Audience string

	dir     string
	brokers string // file with the brokers' key and certificate
	keys    string // file with the public key of tokens, as a JSON Web Key Set
	tokens  *rsa.PrivateKey
}

const tokenKeyID = "test"

func newCredentials(dir string) (*Credentials, error) {
	c := &Credentials{
		Username: "vedette", Password: rand.Text(), PlainPassword: rand.Text(),
		Issuer: "https://issuer.test", Audience: "kafka", dir: dir,
	}
	if err := c.certificates(); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	var err error
	if c.tokens, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, fmt.Errorf("make a key for tokens: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": tokenKeyID,
		"n": b64(c.tokens.N.Bytes()), "e": b64(big.NewInt(int64(c.tokens.E)).Bytes()),
	}}})
	if err != nil {
		return nil, err
	}
	c.keys = filepath.Join(dir, "keys.json")
	if err := os.WriteFile(c.keys, set, 0o600); err != nil {
		return nil, fmt.Errorf("write the key set of tokens: %w", err)
	}
	return c, nil
}

// Token returns a signed token for subject that holds for so long from now; less
// than zero: one that has expired. Claims replace those that it would have; nil
// takes one out.
func (c *Credentials) Token(subject string, holds time.Duration, claims map[string]any) (string, error) {
	now := time.Now()
	all := map[string]any{
		"iss": c.Issuer, "aud": c.Audience, "sub": subject, "scope": "kafka",
		"iat": now.Add(min(0, 2*holds)).Unix(), "exp": now.Add(holds).Unix(),
	}
	for k, v := range claims {
		if v == nil {
			delete(all, k)
			continue
		}
		all[k] = v
	}
	header, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": tokenKeyID})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(all)
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64(header) + "." + b64(body)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, c.tokens, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed + "." + b64(sig), nil
}

// properties makes a node accept the credentials.
func (c *Credentials) properties() map[string]string {
	const sasl, security = "listener.name.sasl.", "org.apache.kafka.common.security."
	p := map[string]string{
		"ssl.keystore.type":                  "PEM",
		"ssl.keystore.location":              c.brokers,
		"ssl.truststore.type":                "PEM",
		"ssl.truststore.location":            c.CAFile,
		"listener.name.mtls.ssl.client.auth": "required",

		"sasl.enabled.mechanisms":                               "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
		sasl + "plain.sasl.jaas.config":                         fmt.Sprintf("%splain.PlainLoginModule required user_%s=%q;", security, c.Username, c.PlainPassword),
		sasl + "oauthbearer.sasl.jaas.config":                   security + "oauthbearer.OAuthBearerLoginModule required;",
		sasl + "oauthbearer.sasl.server.callback.handler.class": security + "oauthbearer.OAuthBearerValidatorCallbackHandler",
		"sasl.oauthbearer.jwks.endpoint.url":                    "file://" + c.keys,
		"sasl.oauthbearer.expected.audience":                    c.Audience,
		"sasl.oauthbearer.expected.issuer":                      c.Issuer,
	}
	scram := security + "scram.ScramLoginModule required;"
	maps.Copy(p, map[string]string{sasl + "scram-sha-256.sasl.jaas.config": scram, sasl + "scram-sha-512.sasl.jaas.config": scram})
	return p
}

// formatOptions are for the storage tool: what SCRAM knows is in the metadata
// log from its first record on.
func (c *Credentials) formatOptions() []string {
	var args []string
	for _, m := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", m, c.Username, c.Password))
	}
	return args
}

// javaOptions let Kafka read the key set: it reads only what these allow.
func (c *Credentials) javaOptions() []string {
	return []string{
		"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://" + c.keys,
		"-Dorg.apache.kafka.sasl.oauthbearer.allowed.files=" + c.keys,
	}
}

// certificates makes two authorities, and the first one's brokers and client.
func (c *Credentials) certificates() error {
	ca, err := newAuthority("vedette test CA")
	if err != nil {
		return err
	}
	other, err := newAuthority("another CA")
	if err != nil {
		return err
	}
	brokerCert, brokerKey, err := ca.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "broker"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	clientCert, clientKey, err := ca.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "vedette"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path    *string
		name    string
		content []byte
	}{
		{&c.CAFile, "ca.pem", ca.pem},
		{&c.OtherCAFile, "other-ca.pem", other.pem},
		{&c.brokers, "broker.pem", append(brokerKey, brokerCert...)},
		{&c.CertFile, "client.pem", clientCert},
		{&c.KeyFile, "client-key.pem", clientKey},
	} {
		*f.path = filepath.Join(c.dir, f.name)
		if err := os.WriteFile(*f.path, f.content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{key: key}
	a.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := a.sign(a.cert, &key.PublicKey)
	if err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// issue returns a certificate and its key, as PEM.
func (a *authority) issue(c *x509.Certificate) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := a.sign(c, &k.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}), nil
}

func (a *authority) sign(c *x509.Certificate, key *ecdsa.PublicKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	c.SerialNumber = serial
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	return x509.CreateCertificate(rand.Reader, c, a.cert, key, a.key)
}
