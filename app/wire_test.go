package app_test

import (
	"math/rand/v2"
	"net"
	"sync"
)

// wires are a broker's connections, which can be made to fail as networks do.
type wires struct {
	mu     sync.Mutex
	rnd    *rand.Rand    // not nil: some requests and answers are cut by a reset
	resets int           // so far
	hung   chan struct{} // not nil: no answer gets through until it is closed
}

func (w *wires) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return wiredListener{l, w}, nil
}

type wiredListener struct {
	net.Listener
	w *wires
}

func (l wiredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &wire{c.(*net.TCPConn), l.w}, nil
}

// wire is one connection, seen from the broker.
type wire struct {
	*net.TCPConn
	w *wires
}

// every is of how many pieces of requests and answers one is cut.
const every = 12

// cut resets the connection, if it is its turn: what was to go through does not.
func (c *wire) cut() bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.rnd == nil || c.w.rnd.IntN(every) > 0 {
		return false
	}
	c.w.resets++
	_ = c.SetLinger(0) // with a reset, not in order
	_ = c.Close()
	return true
}

func (c *wire) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if n > 0 && c.cut() { // in the middle of a request, or behind a part of it
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *wire) Write(b []byte) (int, error) {
	c.w.mu.Lock()
	hung := c.w.hung
	c.w.mu.Unlock()
	if hung != nil {
		<-hung
	}
	if c.cut() { // what was asked for is done, and nobody hears of it
		return 0, net.ErrClosed
	}
	return c.TCPConn.Write(b)
}

func (w *wires) reset(rnd *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rnd = rnd
}

func (w *wires) counted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resets
}

// hang lets no answer through until heal.
func (w *wires) hang() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hung = make(chan struct{})
}

func (w *wires) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rnd = nil
	if w.hung != nil {
		close(w.hung)
		w.hung = nil
	}
}
