package push

import "sync"

// room bounds what is being taken at once.
type room struct {
	bytes    int64 // allowed
	requests int   // allowed

	mu           sync.Mutex
	usedBytes    int64
	usedRequests int
}

// enter takes a place for a body of n bytes, if there is one. It never waits: the
// client does.
func (r *room) enter(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.usedRequests >= r.requests || n > r.bytes-r.usedBytes {
		return false
	}
	r.usedRequests++
	r.usedBytes += n
	return true
}

func (r *room) leave(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.usedRequests--
	r.usedBytes -= n
}

func (r *room) used() (bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.usedBytes
}
