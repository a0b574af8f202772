package match

import "errors"

// ErrFenced says that another owner has taken the source over: whoever gets it
// stops and writes no more.
var ErrFenced = errors.New("match: source taken over by another owner")
