package kafkatest

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sums lists Kafka's jars with their SHA-256, as scripts/kafka.sh verifies them.
//
//go:embed kafka.sum
var sums string

// Version is the version of Kafka that is run.
func Version() string {
	m := regexp.MustCompile(`kafka_2\.13-(.+)\.jar`).FindStringSubmatch(sums)
	if m == nil {
		panic("kafkatest: kafka.sum does not list Kafka itself")
	}
	return m[1]
}

// jars returns the names that an installation must have.
func jars() []string {
	var names []string
	for line := range strings.Lines(sums) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		names = append(names, name)
	}
	return names
}

// installation is where Java and the jars are.
type installation struct {
	java string
	libs string
}

// find locates what scripts/kafka.sh installed.
func find() (installation, error) {
	dir := os.Getenv("VEDETTE_KAFKA_DIR")
	if dir == "" {
		// Where the script puts it on every system; os.UserCacheDir differs on some.
		cache := os.Getenv("XDG_CACHE_HOME")
		if cache == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return installation{}, fmt.Errorf("find the cache of scripts/kafka.sh: %w", err)
			}
			cache = filepath.Join(home, ".cache")
		}
		dir = filepath.Join(cache, "vedette", "kafka-"+Version())
	}
	in := installation{libs: filepath.Join(dir, "libs")}
	for _, name := range jars() {
		if _, err := os.Stat(filepath.Join(in.libs, name)); err != nil {
			return in, fmt.Errorf("no Kafka %s in %s", Version(), dir)
		}
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return in, errors.New("no java on PATH")
	}
	in.java = java
	return in, nil
}

// need returns the installation. Where tests are not asked to run against a real
// Kafka it skips t; where they are and there is none it fails.
func need(t testing.TB) installation {
	t.Helper()
	if os.Getenv("VEDETTE_KAFKA") != "1" {
		t.Skip("needs a real Kafka: scripts/kafka.sh && VEDETTE_KAFKA=1 go test -run '^" + top(t.Name()) + "$'")
	}
	in, err := find()
	if err != nil {
		t.Fatalf("VEDETTE_KAFKA=1, but there is no Kafka to test against (%v): run scripts/kafka.sh", err)
	}
	return in
}

func top(test string) string {
	name, _, _ := strings.Cut(test, "/")
	return name
}
