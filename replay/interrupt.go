package replay

import (
	"context"
	"io"
	"os"
)

// pumpSize is how much is read ahead.
const pumpSize = 256 << 10

// pump reads what may block for ever (a terminal, a pipe) so that the end of ctx
// ends the reading. The goroutine that reads cannot be stopped while it is blocked
// in the kernel; it ends with its next byte, or with the process.
type pump struct {
	ctx    context.Context
	chunks chan []byte
	free   chan []byte
	err    error // set before chunks is closed
	rest   []byte
	last   []byte
}

func newPump(ctx context.Context, open func() (io.Reader, error)) *pump {
	p := &pump{ctx: ctx, chunks: make(chan []byte), free: make(chan []byte, 2)}
	p.free <- make([]byte, pumpSize)
	p.free <- make([]byte, pumpSize)
	go p.run(open)
	return p
}

func (p *pump) run(open func() (io.Reader, error)) {
	defer close(p.chunks)
	r, err := open()
	if err != nil {
		p.err = err
		return
	}
	if c, ok := r.(io.Closer); ok && r != io.Reader(os.Stdin) {
		defer c.Close()
	}
	for {
		var b []byte
		select {
		case b = <-p.free:
		case <-p.ctx.Done():
			p.err = p.ctx.Err()
			return
		}
		n, err := r.Read(b[:cap(b)])
		select {
		case p.chunks <- b[:n]:
		case <-p.ctx.Done():
			p.err = p.ctx.Err()
			return
		}
		if err != nil {
			p.err = err
			return
		}
	}
}

func (p *pump) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.last != nil {
			p.free <- p.last
			p.last = nil
		}
		select {
		case c, ok := <-p.chunks:
			if !ok {
				return 0, p.err
			}
			p.rest, p.last = c, c
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pump) Close() error { return nil }
