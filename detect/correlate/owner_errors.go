package correlate

import "errors"

// ErrFenced says that another owner has taken the partition over: whoever gets
// it stops and commits no more.
var ErrFenced = errors.New("correlate: partition taken over by another owner")
