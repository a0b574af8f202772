package rule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxFile is the largest rule file read, in bytes.
const maxFile = 4 << 20

// documents splits a file into the roots of its YAML documents; empty ones are left out.
func documents(content []byte) ([]*yaml.Node, error) {
	if len(content) > maxFile {
		return nil, atLine(1, "the file has %d bytes, at most %d are read", len(content), maxFile)
	}
	loader, err := yaml.NewLoader(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("read YAML: %w", err)
	}
	var docs []*yaml.Node
	for {
		var n yaml.Node
		err := loader.Load(&n)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, yamlError(err)
		}
		root := &n
		if n.Kind == yaml.DocumentNode {
			if len(n.Content) == 0 {
				continue
			}
			root = n.Content[0]
		}
		if root.Kind == 0 || isNull(root) {
			continue
		}
		docs = append(docs, root)
	}
}

// yamlError takes line and message out of an error of the YAML library.
func yamlError(err error) error {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		return atLine(1, "not valid YAML: %v", err)
	}
	msg := load.Message
	if load.ContextMsg != "" {
		msg = load.ContextMsg + ": " + msg
	}
	return atLine(max(load.Mark.Line, 1), "not valid YAML: %s", msg)
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// describe names what a node is, for messages.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "a YAML alias"
	}
	if isNull(n) {
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

// entry is one key and value of a map.
type entry struct {
	key   string
	line  int
	value *yaml.Node
}

// entries reads a map in the order written. what names it in messages.
func entries(n *yaml.Node, what string) ([]entry, error) {
	if n.Kind != yaml.MappingNode {
		return nil, at(n, "%s: want a map, not %s", what, describe(n))
	}
	es := make([]entry, 0, len(n.Content)/2)
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			return nil, at(k, "%s: want a plain key, not %s", what, describe(k))
		}
		if k.ShortTag() == "!!merge" {
			return nil, at(k, "%s: YAML merge keys (<<) are not supported in rules", what)
		}
		if v.Kind == yaml.AliasNode {
			return nil, at(k, "%s: YAML aliases (*%s) are not supported in rules", k.Value, v.Value)
		}
		if first, ok := seen[k.Value]; ok {
			return nil, at(k, "%s: key %q is there twice, first on line %d", what, k.Value, first)
		}
		seen[k.Value] = k.Line
		es = append(es, entry{k.Value, k.Line, v})
	}
	return es, nil
}

// items reads a list, or takes one value as a list of it.
func items(n *yaml.Node, what string) ([]*yaml.Node, error) {
	if n.Kind != yaml.SequenceNode {
		return []*yaml.Node{n}, nil
	}
	for _, v := range n.Content {
		if v.Kind == yaml.AliasNode {
			return nil, at(v, "%s: YAML aliases (*%s) are not supported in rules", what, v.Value)
		}
	}
	return n.Content, nil
}

// text reads a scalar as text.
func text(n *yaml.Node, what string) (string, error) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		return "", at(n, "%s: want text, not %s", what, describe(n))
	}
	if n.ShortTag() == "!!binary" {
		return "", at(n, "%s: want text, not binary", what)
	}
	return n.Value, nil
}

// texts reads a list of texts, or one. An empty value is an empty list.
func texts(n *yaml.Node, what string) ([]string, error) {
	if isNull(n) {
		return nil, nil
	}
	ns, err := items(n, what)
	if err != nil {
		return nil, err
	}
	ss := make([]string, 0, len(ns))
	for _, v := range ns {
		s, err := text(v, what)
		if err != nil {
			return nil, err
		}
		ss = append(ss, s)
	}
	return ss, nil
}

func boolean(n *yaml.Node, what string) (bool, error) {
	if n.Kind == yaml.ScalarNode {
		switch strings.ToLower(n.Value) {
		case "true", "yes", "on":
			return true, nil
		case "false", "no", "off":
			return false, nil
		}
	}
	return false, at(n, "%s: want true or false, not %s", what, describe(n))
}
