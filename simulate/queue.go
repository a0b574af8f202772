package simulate

// queue hands out what comes first, first. It is container/heap without an
// allocation for each item.
type queue[T any] struct {
	before func(a, b *T) bool
	items  []T
}

func (q *queue[T]) len() int { return len(q.items) }

// top is the first; it is valid until the queue changes.
func (q *queue[T]) top() *T { return &q.items[0] }

func (q *queue[T]) push(v T) {
	h := append(q.items, v)
	q.items = h
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.before(&h[i], &h[up]) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (q *queue[T]) pop() T {
	h := q.items
	end := len(h) - 1
	first := h[0]
	h[0] = h[end]
	clear(h[end:])
	h = h[:end]
	q.items = h
	for i := 0; ; {
		down := 2*i + 1
		if down >= end {
			return first
		}
		if r := down + 1; r < end && q.before(&h[r], &h[down]) {
			down = r
		}
		if !q.before(&h[down], &h[i]) {
			return first
		}
		h[i], h[down] = h[down], h[i]
		i = down
	}
}
