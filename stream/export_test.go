package stream

// EncodeBatch shows the encoding of a batch to tests.
var EncodeBatch = encodeBatch

// Connections is how many a member has.
func (g *Group) Connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// Sever makes a member lose touch with its group.
func (g *Group) Sever() { g.sever() }
