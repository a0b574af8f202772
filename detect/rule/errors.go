package rule

import (
	"fmt"

	"go.yaml.in/yaml/v4"
)

// Error is a rule that was refused: where it stands, and what was expected there.
type Error struct {
	File string
	Line int
	Msg  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Msg) }

// Warning is something about a rule that loaded which its author should know.
type Warning struct {
	File string
	Line int
	Rule string // title
	Msg  string
}

func (w Warning) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", w.File, w.Line, w.Rule, w.Msg)
}

// at is an error at a node, its file still to be filled in by the document's parser.
func at(n *yaml.Node, format string, args ...any) error {
	return atLine(n.Line, format, args...)
}

func atLine(line int, format string, args ...any) error {
	return &Error{Line: line, Msg: fmt.Sprintf(format, args...)}
}
