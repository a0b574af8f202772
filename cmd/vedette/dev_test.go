package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/storage/localpg"
)

// binary builds the program once.
func binary(t testing.TB) string {
	t.Helper()
	if _, _, err := localpg.Find(t.Context()); err != nil {
		t.Skipf("vedette dev needs Postgres's binaries: %v", err)
	}
	bin := filepath.Join(t.TempDir(), "vedette")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// enterable makes a directory that the user Postgres runs as may enter.
func enterable(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vedette-dev-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data")
}

// dev is a running `vedette dev`.
type dev struct {
	t     testing.TB
	began time.Time // of what is pushed
	cmd   *exec.Cmd
	dir   string
	addr  string
	done  chan struct{}
}

func startDev(t testing.TB, bin, dir string, began time.Time, args ...string) *dev {
	t.Helper()
	d := &dev{t: t, began: began, dir: dir, done: make(chan struct{})}
	d.cmd = exec.Command(bin, append([]string{"dev", "--data", dir, "--listen", "127.0.0.1:0"}, args...)...)
	pipe, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	go func() {
		defer close(d.done)
		for s := bufio.NewScanner(pipe); s.Scan(); {
			if f := strings.Fields(s.Text()); len(f) == 4 && f[0] == "ready" {
				ready <- f[1]
			}
		}
		d.cmd.Wait()
	}()
	t.Cleanup(func() { d.cmd.Process.Kill(); <-d.done })
	select {
	case url := <-ready:
		d.addr = strings.TrimSuffix(url, "/")
	case <-d.done:
		t.Fatal("ended before it was ready")
	case <-time.After(60 * time.Second):
		t.Fatal("not ready after a minute")
	}
	return d
}

func (d *dev) request(method, path string, body []byte) (int, []byte, error) {
	token, err := os.ReadFile(filepath.Join(d.dir, "admin-token"))
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, d.addr+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

// push sends 30 refusals from an address, again until they are accepted.
func (d *dev) push(ip string) {
	d.t.Helper()
	var b bytes.Buffer
	from := d.began.Add(-10 * time.Minute)
	for i := range 30 {
		fmt.Fprintf(&b, `{"requestId":"r%d","extendedRequestId":"x-%s-%d=","accountId":"111122223333","apiId":"a1","stage":"prod","requestTimeEpoch":"%d","httpMethod":"POST","path":"/login","resourcePath":"/login","sourceIp":"%s","status":"401","errorType":"UNAUTHORIZED"}`+"\n",
			i, ip, i, from.Add(time.Duration(i)*time.Second).UnixMilli(), ip)
	}
	d.eventually("the push is accepted", func() bool {
		code, _, err := d.request("POST", "/v1/logs", b.Bytes())
		return err == nil && code == http.StatusAccepted
	})
}

// sees waits for the incident of an address.
func (d *dev) sees(ip string) {
	d.t.Helper()
	d.eventually("an incident of "+ip, func() bool {
		_, b, err := d.request("GET", "/v1/incidents?entity="+ip, nil)
		var list struct {
			Incidents []struct {
				Count int `json:"count"`
			} `json:"incidents"`
		}
		return err == nil && json.Unmarshal(b, &list) == nil && len(list.Incidents) == 1 && list.Incidents[0].Count == 30
	})
}

func (d *dev) eventually(what string, ok func() bool) {
	d.t.Helper()
	deadline := time.After(60 * time.Second)
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		if ok() {
			tick.Stop()
			return
		}
		select {
		case <-deadline:
			d.t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}

// postmaster is the process id of the managed Postgres.
func (d *dev) postmaster() int {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		d.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.SplitN(string(b), "\n", 2)[0])
	if err != nil {
		d.t.Fatal(err)
	}
	return pid
}

func TestDevComesBack(t *testing.T) {
	bin, dir, began := binary(t), enterable(t), time.Now()
	d := startDev(t, bin, dir, began)
	d.push("203.0.113.1")
	d.sees("203.0.113.1")

	if err := syscall.Kill(d.postmaster(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.push("203.0.113.2")
	d.sees("203.0.113.2")

	d.cmd.Process.Kill()
	<-d.done
	d = startDev(t, bin, dir, began)
	d.sees("203.0.113.1")
	d.push("203.0.113.1") // once more: nothing is counted twice
	d.push("203.0.113.3")
	d.sees("203.0.113.3")
	d.sees("203.0.113.1")

	stopping := time.Now()
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-d.done
	if took := time.Since(stopping); took > 5*time.Second {
		t.Errorf("Ctrl-C took %v to end it", took)
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d after Ctrl-C", code)
	}
	d = startDev(t, bin, dir, began)
	d.sees("203.0.113.2")
}

const sigmaRule = `title: %s
id: 6d3a0c2e-0f6b-4a0e-9a59-0000000000%02d
author: Somebody Else
references: [https://example.com/why]
logsource: {product: aws, service: cloudtrail}
detection:
  selection: {eventSource: test.amazonaws.com, eventName: %s}
  condition: selection
level: high
`

// SIGHUP reads the rules again: a set that is bad leaves the one in force alone.
func TestDevReloadsOnHangup(t *testing.T) {
	bin, dir, rules := binary(t), enterable(t), t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(rules, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("one.yml", fmt.Sprintf(sigmaRule, "First", 1, "First"))
	d := startDev(t, bin, dir, time.Now(), "--rules", rules)
	n := 0
	event := func(name string) { // a new one each time
		n++
		body := fmt.Sprintf(`{"eventVersion":"1.09","eventTime":%q,"eventSource":"test.amazonaws.com","eventName":%q,"awsRegion":"eu-west-1","sourceIPAddress":"203.0.113.%d","eventID":"e%d","userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/u%d"}}`,
			time.Now().UTC().Format(time.RFC3339), name, n, n, n)
		if code, b, err := d.request("POST", "/v1/logs", []byte(body)); err != nil || code != http.StatusAccepted {
			t.Fatalf("push: %d %s %v", code, b, err)
		}
	}
	found := func(title string) bool {
		_, b, err := d.request("GET", "/v1/incidents", nil)
		return err == nil && strings.Contains(string(b), title)
	}
	hangup := func() {
		t.Helper()
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	logged := func(what string) bool {
		b, err := os.ReadFile(filepath.Join(dir, "vedette.log"))
		return err == nil && strings.Contains(string(b), what)
	}
	event("First")
	d.eventually("the first rule's incident", func() bool { return found("First") })

	write("two.yml", "title: [broken")
	hangup()
	d.eventually("the bad set is refused", func() bool { return logged("reload refused") && logged("two.yml") })
	event("First")

	write("two.yml", fmt.Sprintf(sigmaRule, "Second", 2, "Second"))
	hangup()
	d.eventually("the second rule's incident", func() bool { event("Second"); return found("Second") })
	if _, b, err := d.request("GET", "/v1/incidents?rule=6d3a0c2e-0f6b-4a0e-9a59-000000000001", nil); err != nil || strings.Count(string(b), "First") == 0 {
		t.Errorf("the first rule stopped: %s %v", b, err)
	}
}

// What is wrong is said in a line, without a stack trace.
func TestDevSaysWhatIsWrong(t *testing.T) {
	bin := binary(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := enterable(t)
	if err := os.MkdirAll(filepath.Join(old, "postgres", "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, "postgres", "data", "PG_VERSION"), []byte("9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"port in use", []string{"--data", enterable(t), "--listen", taken.Addr().String()}, []string{taken.Addr().String(), "in use"}},
		{"unwritable", []string{"--data", filepath.Join(file, "data")}, []string{"data directory", "--data"}},
		{"wrong version", []string{"--data", old, "--listen", "127.0.0.1:0"}, []string{"Postgres 9"}},
		{"rules", []string{"--data", enterable(t), "--listen", "127.0.0.1:0", "--rules", "nowhere"}, []string{"nowhere"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := exec.Command(bin, append([]string{"dev"}, tt.args...)...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("ended with %v, want exit status 1", err)
			}
			for _, w := range tt.want {
				if !strings.Contains(string(out), w) {
					t.Errorf("says %q, want it to say %q", out, w)
				}
			}
			if strings.Contains(string(out), "goroutine ") || strings.Count(string(out), "\n") > 4 {
				t.Errorf("says too much:\n%s", out)
			}
		})
	}
	t.Run("in use", func(t *testing.T) {
		dir := enterable(t)
		startDev(t, bin, dir, time.Now())
		out, err := exec.Command(bin, "dev", "--data", dir, "--listen", "127.0.0.1:0").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "in use") {
			t.Errorf("a second one over the same data: %v, says %q", err, out)
		}
	})
}
