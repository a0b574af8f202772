package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/vedette-sec/vedette/secret"
)

// A problem is one thing wrong with a configuration: where, and what was expected.
type problem struct {
	file string
	line int
	key  string // dotted, as a user writes it
	msg  string
}

func (p problem) Error() string {
	at := p.file
	if p.line > 0 {
		at += ":" + strconv.Itoa(p.line)
	}
	if p.key != "" {
		return at + ": " + p.key + ": " + p.msg
	}
	return at + ": " + p.msg
}

// decoder fills structs from YAML nodes. It refuses unknown keys and wrong kinds
// by key and line, which the library's own strict mode words in Go's type names.
type decoder struct {
	file   string
	getenv func(string) (string, bool)
	lines  map[string]int // line of each key seen, for later validation
	errs   []error
}

func (d *decoder) fail(n *yaml.Node, key, format string, args ...any) {
	d.errs = append(d.errs, problem{d.file, n.Line, key, fmt.Sprintf(format, args...)})
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// keyOf is a field's name in the file: its yaml tag.
func keyOf(f reflect.StructField) string { return f.Tag.Get("yaml") }

func (d *decoder) value(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.lines[key] = n.Line
	switch v.Interface().(type) {
	case time.Duration, secret.String, Bytes:
		d.scalar(n, v, key)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, key)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.fail(n, key, "want a list, got %s", describe(n))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, c := range n.Content {
			d.value(c, v.Index(i), fmt.Sprintf("%s[%d]", key, i))
		}
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			d.fail(n, key, "want a mapping, got %s", describe(n))
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for i := 0; i+1 < len(n.Content); i += 2 {
			e := reflect.New(v.Type().Elem()).Elem()
			d.value(n.Content[i+1], e, join(key, n.Content[i].Value))
			v.SetMapIndex(reflect.ValueOf(n.Content[i].Value), e)
		}
	default:
		d.scalar(n, v, key)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // an empty section keeps its defaults
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, key, "want a mapping, got %s", describe(n))
		return
	}
	fields := map[string]reflect.Value{}
	var names []string
	for i := range v.NumField() {
		name := keyOf(v.Type().Field(i))
		fields[name] = v.Field(i)
		names = append(names, name)
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		f, ok := fields[k.Value]
		switch {
		case !ok:
			d.fail(k, join(key, k.Value), "unknown key; %s", suggest(k.Value, names))
		case seen[k.Value] != 0:
			d.fail(k, join(key, k.Value), "given twice, first on line %d", seen[k.Value])
		default:
			seen[k.Value] = k.Line
			d.value(c, f, join(key, k.Value))
		}
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, key, "want %s, got %s", want(v), describe(n))
		return
	}
	s, err := expand(n.Value, d.getenv)
	if err != nil {
		d.fail(n, key, "%v", err)
		return
	}
	if err := setScalar(v, s); err != nil {
		got := strconv.Quote(n.Value)
		if _, ok := v.Interface().(secret.String); ok {
			got = secret.Hidden
		}
		d.fail(n, key, "want %s, got %s", want(v), got)
	}
}

func setScalar(v reflect.Value, s string) error {
	switch v.Interface().(type) {
	case time.Duration:
		x, err := time.ParseDuration(s)
		if err != nil {
			return err
		}
		v.SetInt(int64(x))
		return nil
	case Bytes:
		x, err := parseBytes(s)
		if err != nil {
			return err
		}
		v.SetInt(x)
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		x, err := strconv.ParseBool(s)
		if err != nil {
			return err
		}
		v.SetBool(x)
	case reflect.Int, reflect.Int64:
		x, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return err
		}
		v.SetInt(x)
	case reflect.Float64:
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return err
		}
		v.SetFloat(x)
	default:
		return errors.New("unsupported kind " + v.Kind().String())
	}
	return nil
}

func want(v reflect.Value) string {
	switch v.Interface().(type) {
	case time.Duration:
		return `a duration such as "30s" or "2h"`
	case Bytes:
		return `a size such as "4MiB"`
	}
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "a text"
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

// suggest names the nearest known key, or all of them.
func suggest(got string, names []string) string {
	best, dist := "", 3
	for _, n := range names {
		if x := distance(got, n); x < dist {
			best, dist = n, x
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	slices.Sort(names)
	return "want one of " + strings.Join(names, ", ")
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// expand replaces ${NAME} by the environment variable NAME, which must be set.
func expand(s string, getenv func(string) (string, bool)) (string, error) {
	var missing string
	if !strings.Contains(s, "${") {
		return s, nil
	}
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			break
		}
		j := strings.IndexByte(s[i:], '}')
		if j < 0 {
			return "", errors.New("unfinished ${…}")
		}
		b.WriteString(s[:i])
		name := s[i+2 : i+j]
		v, ok := getenv(name)
		if !ok {
			missing = name
		}
		b.WriteString(v)
		s = s[i+j+1:]
	}
	if missing != "" {
		return "", fmt.Errorf("environment variable %s is not set", missing)
	}
	return b.String(), nil
}

func parseBytes(s string) (int64, error) {
	for _, u := range []struct {
		suffix string
		factor int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}} {
		if t, ok := strings.CutSuffix(s, u.suffix); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(t), 10, 64)
			if err != nil {
				return 0, err
			}
			if n < 0 || n > (1<<62)/u.factor {
				return 0, errors.New("out of range")
			}
			return n * u.factor, nil
		}
	}
	return 0, errors.New("not a size")
}

// parse decodes data, named file in messages, over the values that c holds. With
// required, what a server needs must be there.
func parse(file string, data []byte, c *Config, required bool, getenv func(string) (string, bool)) error {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return fmt.Errorf("%s: not YAML: %w", file, err)
	}
	d := &decoder{file: file, getenv: getenv, lines: map[string]int{}}
	if len(root.Content) > 0 {
		d.mapping(root.Content[0], reflect.ValueOf(c).Elem(), "")
	}
	if len(d.errs) == 0 {
		c.validate(required, func(key, format string, args ...any) {
			d.errs = append(d.errs, problem{file, d.line(key), key, fmt.Sprintf(format, args...)})
		})
	}
	return errors.Join(d.errs...)
}

// line is that of key, or of the nearest section around it.
func (d *decoder) line(key string) int {
	for key != "" {
		if l, ok := d.lines[key]; ok {
			return l
		}
		i := strings.LastIndexAny(key, ".[")
		if i < 0 {
			break
		}
		key = key[:i]
	}
	return 0
}

// Load reads the configuration at path over the defaults. ${NAME} in a value is
// replaced by the environment variable NAME. Every error names file, line, key
// and what was expected.
func Load(path string) (*Config, error) { return load(path, true, os.LookupEnv) }

// LoadOffline is Load for what needs no server: Kafka and Postgres may be left
// out, and an environment variable that is not set is empty.
func LoadOffline(path string) (*Config, error) {
	return load(path, false, func(name string) (string, bool) { return os.Getenv(name), true })
}

func load(path string, required bool, getenv func(string) (string, bool)) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c := Default()
	if err := parse(path, data, c, required, getenv); err != nil {
		return nil, err
	}
	return c, nil
}
