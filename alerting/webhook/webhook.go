// Package webhook posts incidents as JSON to any HTTP endpoint, signed as the
// Standard Webhooks specification says (https://www.standardwebhooks.com), so
// that its libraries, or [Verify], check them at the other end.
//
// # Headers
//
//	webhook-id         names the telling: <incident id>-<incident version>; the same when it is repeated
//	webhook-timestamp  when it was sent, in seconds since the Unix epoch
//	webhook-signature  v1,<base64 of HMAC-SHA-256(secret, id "." timestamp "." body)>, one for each secret, separated by spaces
//
// A receiver computes the signature over the body's bytes as they came, compares
// in constant time, refuses timestamps more than some minutes away, and ignores
// an id that it has had before: the first two stop forgery and replay, the third
// makes the at-least-once delivery harmless.
//
// # Body
//
// See [Body]. Version rises when a field changes its meaning or goes; new fields
// may come at any time.
package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/secret"
)

// Options configure a Notifier.
type Options struct {
	URL secret.String
	// Secrets sign every message, each for itself, so that a receiver can change
	// from one to the next. Each is "whsec_" and base64, or is taken as it is; it
	// has at least 24 bytes.
	Secrets []secret.String
	Client  *alerting.Client
	Now     func() time.Time // time.Now if nil
}

// Notifier posts to one endpoint.
type Notifier struct {
	opts Options
	keys [][]byte
}

// minSecret is the least length of a secret, as the specification asks, in bytes.
const minSecret = 24

// New makes a notifier, or says what is wrong with its options.
func New(o Options) (*Notifier, error) {
	switch {
	case o.Client == nil:
		return nil, errors.New("webhook: Client is missing")
	case len(o.Secrets) == 0:
		return nil, errors.New("webhook: a secret to sign with is missing")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := o.Client.CheckURL(o.URL); err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	n := &Notifier{opts: o}
	for _, s := range o.Secrets {
		k, err := keyOf(s)
		if err != nil {
			return nil, err
		}
		n.keys = append(n.keys, k)
	}
	return n, nil
}

func keyOf(s secret.String) ([]byte, error) {
	k := []byte(s.Reveal())
	if enc, ok := strings.CutPrefix(s.Reveal(), "whsec_"); ok {
		var err error
		if k, err = base64.StdEncoding.DecodeString(enc); err != nil {
			return nil, errors.New(`webhook: secret: what follows "whsec_" is not base64`)
		}
	}
	if len(k) < minSecret {
		return nil, fmt.Errorf("webhook: secret: %d bytes, want at least %d", len(k), minSecret)
	}
	return k, nil
}

// Format prints what it is and none of its secrets, whatever the verb.
func (w *Notifier) Format(f fmt.State, _ rune) { fmt.Fprint(f, "webhook notifier") }

// Notify posts one message.
func (w *Notifier) Notify(ctx context.Context, n alerting.Notification) (time.Duration, error) {
	body, err := json.Marshal(render(n))
	if err != nil {
		return 0, &alerting.Failure{Reason: alerting.ReasonInvalid, Err: fmt.Errorf("render body: %w", err)}
	}
	id, at := n.DeliveryID(), strconv.FormatInt(w.opts.Now().Unix(), 10)
	var signatures []string
	for _, k := range w.keys {
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(sign(k, id, at, body)))
	}
	h := http.Header{}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", at)
	h.Set("webhook-signature", strings.Join(signatures, " "))
	return w.opts.Client.Post(ctx, w.opts.URL, h, body, w.opts.Secrets...)
}

func sign(key []byte, id, at string, body []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + at + "."))
	m.Write(body)
	return m.Sum(nil)
}

// The errors of Verify.
var (
	ErrSignature = errors.New("webhook: no signature fits")
	ErrTimestamp = errors.New("webhook: timestamp missing or too far away")
)

// Verify checks a message at its receiver: that one of its signatures was made
// with this secret, and that its timestamp is at most tolerance from now (five
// minutes is usual). Ignoring ids that came before is left to the receiver.
func Verify(with secret.String, h http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	key, err := keyOf(with)
	if err != nil {
		return err
	}
	at := h.Get("webhook-timestamp")
	sec, err := strconv.ParseInt(at, 10, 64)
	if err != nil || now.Sub(time.Unix(sec, 0)).Abs() > tolerance {
		return ErrTimestamp
	}
	want := sign(key, h.Get("webhook-id"), at, body)
	for s := range strings.FieldsSeq(h.Get("webhook-signature")) {
		enc, ok := strings.CutPrefix(s, "v1,")
		if !ok {
			continue
		}
		if got, err := base64.StdEncoding.DecodeString(enc); err == nil && hmac.Equal(got, want) {
			return nil
		}
	}
	return ErrSignature
}
