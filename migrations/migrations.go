// Package migrations holds the schema, as goose migrations that only go forward
// and are safe beside the version before.
package migrations

import "embed"

// FS holds the migrations.
//
//go:embed *.sql
var FS embed.FS
