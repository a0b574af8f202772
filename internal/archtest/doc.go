// Package archtest holds the rules of the architecture as tests: which package may
// know which, where time may be asked for, and how packages are named.
package archtest
