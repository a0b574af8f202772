package kafkatest_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/internal/kafkatest"
)

// What the script fetches and what the tests look for is one thing.
func TestScriptAndTestsAgree(t *testing.T) {
	script, err := os.ReadFile(filepath.Join("..", "..", "scripts", "kafka.sh"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(script, []byte("\nkafka="+kafkatest.Version()+"\n")) {
		t.Errorf("scripts/kafka.sh does not fetch the Kafka %s that kafka.sum lists", kafkatest.Version())
	}
}

// The script says what is missing, and takes nothing that is not what was listed.
func TestScriptRefuses(t *testing.T) {
	bin, sh := t.TempDir(), "/bin/sh"
	for _, name := range []string{"dirname", "sed", "head", "id", "ls", "wc", "mkdir", "mktemp", "rm", "cat", "sha256sum", "shasum", "mv"} {
		if path, err := exec.LookPath(name); err == nil {
			if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	fake := func(name, script string) {
		t.Helper()
		path := filepath.Join(bin, name)
		// A link would lead the write to the machine's own program.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!"+sh+"\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "kafka")
	run := func() string {
		t.Helper()
		cmd := exec.Command(sh, filepath.Join("..", "..", "scripts", "kafka.sh"))
		cmd.Env = []string{"PATH=" + bin, "VEDETTE_KAFKA_DIR=" + dir}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("error %v, want it to fail: %s", err, out)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("it left %v behind", left)
		}
		return string(out)
	}
	want := func(words string) {
		t.Helper()
		if out := run(); !strings.Contains(out, words) {
			t.Errorf("it says %q, want %q in it", out, words)
		}
	}
	want("java was not found. Install it")
	fake("java", `echo 'openjdk version "11.0.2" 2019-01-15' >&2`)
	want("Java is 11; Kafka " + kafkatest.Version() + " needs 17")
	fake("java", `echo 'openjdk version "21" 2023-09-19' >&2`)
	want("mvn was not found. Install it")
	fake("mvn", `echo no such host; exit 1`)
	fake("sleep", ``)
	want("Maven could not fetch")
	// As many jars as wanted, of the right names, one with another content.
	fake("mvn", `for a; do case $a in -DoutputDirectory=*) to=${a#*=};; esac; done
mkdir -p "$to"; while read -r sum name; do echo evil >"$to/$name"; done <internal/kafkatest/kafka.sum`)
	want("nothing was installed")
}

func TestNodeOutlivesKillAndStop(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{})
	listens := func() bool {
		c, err := net.DialTimeout("tcp", k.Brokers()[0], time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}
	if _, ok := k.Partition("nowhere", 0); ok {
		t.Error("a partition that nobody made")
	}
	k.Kill(1)
	if listens() {
		t.Error("it was killed and listens")
	}
	k.Start(1)
	if !listens() {
		t.Error("it was started and does not listen")
	}
	k.Stop()
	if listens() {
		t.Error("it was stopped and listens")
	}
}

// Whoever is killed takes its Kafka along.
func TestNoKafkaOutlivesItsTest(t *testing.T) {
	const hold = "KAFKATEST_HOLD"
	if os.Getenv(hold) != "" {
		k := kafkatest.Start(t, kafkatest.Options{})
		fmt.Println("holding", k.Brokers()[0])
		select {}
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a child with its parent")
	}
	if os.Getenv("VEDETTE_KAFKA") != "1" {
		t.Skip("needs a real Kafka: scripts/kafka.sh && VEDETTE_KAFKA=1 go test -run '^TestNoKafkaOutlivesItsTest$'")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), hold+"=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := ""
	for lines := bufio.NewScanner(out); addr == "" && lines.Scan(); {
		addr, _ = strings.CutPrefix(lines.Text(), "holding ")
		if !strings.HasPrefix(addr, "127.0.0.1:") {
			addr = ""
		}
	}
	if addr == "" {
		t.Error("the other test started no Kafka")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Fatal("its test was killed, and Kafka still listens")
		}
	}
}
