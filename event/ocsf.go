package event

// OCSF appends nothing yet.
func OCSF(dst []byte, ev *Event) []byte { return dst }
