// Package rules holds the rules that Vedette ships, as the YAML files that a user
// would write: to be read, copied, tuned and switched off like any other. They
// use only the attributes of the normalised event.
package rules

import "embed"

// FS holds the rule files, *.yml in its root.
//
//go:embed *.yml
var FS embed.FS
