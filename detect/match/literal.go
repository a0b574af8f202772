package match

import (
	"regexp/syntax"
)

// maxNeeded bounds the alternatives looked for before an expression is run.
const maxNeeded = 16

// neededLiterals finds texts of which one is in whatever the expression
// matches, folded. It returns nil if it knows none: the expression then always runs.
func neededLiterals(src string) [][]byte {
	re, err := syntax.Parse(src, syntax.Perl)
	if err != nil {
		return nil
	}
	return needed(re.Simplify())
}

func needed(re *syntax.Regexp) [][]byte {
	switch re.Op {
	case syntax.OpLiteral:
		return [][]byte{appendFolded(nil, []byte(string(re.Rune)))}
	case syntax.OpCapture, syntax.OpPlus:
		return needed(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return needed(re.Sub[0])
		}
	case syntax.OpConcat:
		var best [][]byte
		for _, sub := range re.Sub {
			if lits := needed(sub); lits != nil && shortest(lits) > shortest(best) {
				best = lits
			}
		}
		return best
	case syntax.OpAlternate:
		var all [][]byte
		for _, sub := range re.Sub {
			lits := needed(sub)
			if lits == nil || len(all)+len(lits) > maxNeeded {
				return nil
			}
			all = append(all, lits...)
		}
		return all
	}
	return nil
}

// shortest is the length of the least selective text; of none it is 0.
func shortest(lits [][]byte) int {
	if len(lits) == 0 {
		return 0
	}
	n := len(lits[0])
	for _, l := range lits[1:] {
		n = min(n, len(l))
	}
	return n
}
