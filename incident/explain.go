package incident

import "github.com/vedette-sec/vedette/detect"

// Explain is filled in below.
func Explain(f detect.Finding, r Rule) string { return r.Summary }
