// Package spinetest tests the spine as a whole, on a real broker and a real
// Postgres: match, correlate and the assembler are killed at random instants
// under load, their connections are cut and their answers lost, and what they
// leave is compared with what an undisturbed run over the same log leaves.
//
// It also measures the whole path, from append to checkpoint. It has no code of
// its own for others to use.
package spinetest
