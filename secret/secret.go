// Package secret is for what must be known and not be seen: passwords, keys,
// tokens, addresses that are a right by themselves.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Hidden is what is seen instead of a secret.
const Hidden = "<secret>"

// String is a text that shows itself to nobody but Reveal's caller: fmt, whatever
// the verb, slog and the encoders of JSON, YAML and text get Hidden.
//
// Two are not asked: an unexported field of a struct that is printed, so that its
// type needs a Format of its own, and the key of a map that is written as JSON.
type String string

// Reveal returns the secret itself.
func (s String) Reveal() string { return string(s) }

// String returns Hidden.
func (String) String() string { return Hidden }

// Format writes Hidden, also for the verbs that do not ask String: %#v, %d.
func (String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Hidden) }

// LogValue is Hidden.
func (String) LogValue() slog.Value { return slog.StringValue(Hidden) }

// MarshalText returns Hidden. JSON and YAML are written with it.
func (String) MarshalText() ([]byte, error) { return []byte(Hidden), nil }
