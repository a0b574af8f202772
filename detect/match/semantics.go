package match

// Semantics numbers what decoding, normalising, matching and the encoding of
// observations mean. It is raised by whoever changes what the same record comes to
// under the same rules and enrichment: each generation names the number that its
// records are judged by, and a program of another number does not judge them.
const Semantics = 1
