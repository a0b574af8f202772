package stream

// EncodeBatch shows the encoding of a batch to tests.
var EncodeBatch = encodeBatch
