package push

import "sync"

// room bounds what is being taken at once.
type room struct {
	bytes    int64 // allowed
	requests int   // allowed

	mu           sync.Mutex
	usedBytes    int64
	usedRequests int
	lingering    int
}

// enter takes a place for a body, if there is one. It never waits: the client does.
func (r *room) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.usedRequests >= r.requests || r.usedBytes >= r.bytes {
		return false
	}
	r.usedRequests++
	return true
}

// leave gives back the place and the held bytes.
func (r *room) leave(held int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.usedRequests--
	r.usedBytes -= held
}

// change lets a body that holds so many bytes hold want instead, if there is room.
// Whoever is alone may always: otherwise what is longer than the room could never
// be taken, however often it is sent.
func (r *room) change(held, want int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	others := r.usedBytes - held
	if want > held && others > 0 && want > r.bytes-others {
		return false
	}
	r.usedBytes = others + want
	return true
}

// linger takes a place for a request that is refused and not yet at its end.
func (r *room) linger() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lingering >= r.requests {
		return false
	}
	r.lingering++
	return true
}

func (r *room) gone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lingering--
}

func (r *room) used() (bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.usedBytes
}
