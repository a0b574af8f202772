package stream

// EncodeBatch shows the encoding of a batch to tests.
var EncodeBatch = encodeBatch

// Sever makes a member lose touch with its group.
func (g *Group) Sever() { g.sever() }
