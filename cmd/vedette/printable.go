package main

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable makes text from outside safe to show: what a terminal would act
// upon, or would not show, becomes U+FFFD. Line breaks and tabs stay.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

// oneLine is printable text on one line.
func oneLine(s string) string {
	return strings.Join(strings.Fields(printable(s)), " ")
}

// cut shortens text to at most n characters, n > 1.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
