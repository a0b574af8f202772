package kafkatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errPortTaken says that somebody else listens where a node was to listen.
var errPortTaken = errors.New("kafkatest: a port was taken by somebody else")

const (
	formatWithin = 90 * time.Second
	stopWithin   = 60 * time.Second
)

// node is one broker and controller.
type node struct {
	id    int
	c     *Cluster
	ports map[Listener]int

	process *os.Process
	exited  chan struct{} // closed when the process has been waited for
	state   string        // how it ended; read after exited
}

func (n *node) addr(l Listener) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.ports[l]))
}

func (n *node) logFile() string { return filepath.Join(n.c.dir, fmt.Sprintf("node-%d.log", n.id)) }

// command is a main class of Kafka's in a small, quickly started Java: the
// second compiler costs more than a test's life earns back.
func (n *node) command(ctx context.Context, class string, args ...string) *exec.Cmd {
	heap := 384
	if len(n.c.nodes) > 1 {
		heap = 256
	}
	java := []string{
		fmt.Sprintf("-Xmx%dm", heap), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError",
		"-Djava.awt.headless=true", "-Djava.io.tmpdir=" + n.c.dir, "-Dlog4j2.configurationFile=" + n.c.logging,
	}
	if n.c.Credentials != nil {
		java = append(java, n.c.Credentials.javaOptions()...)
	}
	java = append(java, "-cp", filepath.Join(n.c.in.libs, "*"), class)
	cmd := exec.CommandContext(ctx, n.c.in.java, append(java, args...)...)
	cmd.Dir = n.c.dir
	cmd.Env = append(os.Environ(), "JAVA_TOOL_OPTIONS=")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	dieWithParent(cmd.SysProcAttr)
	return cmd
}

// format writes the node's configuration and prepares its directory.
func (n *node) format() error {
	config, err := n.c.write(fmt.Sprintf("node-%d.properties", n.id), n.properties())
	if err != nil {
		return err
	}
	args := []string{"format", "--cluster-id", n.c.id, "--config", config}
	if n.c.Credentials != nil {
		args = append(args, n.c.Credentials.formatOptions()...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), formatWithin)
	defer cancel()
	cmd := n.command(ctx, "kafka.tools.StorageTool", args...)
	// The kernel ends a child with the thread that made it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format node %d: %w:\n%s", n.id, err, lastLines(out, 20))
	}
	return nil
}

// start starts the node's process.
func (n *node) start() error {
	if n.running() {
		return fmt.Errorf("kafkatest: node %d runs already", n.id)
	}
	cmd := n.command(context.Background(), "kafka.Kafka", filepath.Join(n.c.dir, fmt.Sprintf("node-%d.properties", n.id)))
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start node %d: %w", n.id, err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	started := make(chan error, 1)
	exited := make(chan struct{})
	go func() {
		// The kernel ends a child with the thread that made it: this one stays
		// with it until it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // how it ended is in its state
		n.state = cmd.ProcessState.String()
		close(exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start node %d: %w", n.id, err)
	}
	n.process, n.exited = cmd.Process, exited
	return nil
}

func (n *node) running() bool {
	if n.exited == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// kill ends the node at once.
func (n *node) kill() {
	if n.exited == nil {
		return
	}
	_ = n.process.Kill() // an error means that it has ended
	<-n.exited
}

// stop ends the node in order.
func (n *node) stop() error {
	if !n.running() {
		return nil
	}
	if err := n.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop node %d: %w", n.id, err)
	}
	select {
	case <-n.exited:
		return nil
	case <-time.After(stopWithin):
		n.kill()
		return fmt.Errorf("node %d did not stop within %v and was killed", n.id, stopWithin)
	}
}

// ready waits until the node serves and sees so many brokers at least.
func (n *node) ready(brokers int) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	probe, err := newProbe(n.addr(Plaintext))
	if err != nil {
		return err
	}
	defer probe.close()
	for {
		err := probe.ready(ctx, int32(n.id), brokers)
		if err == nil {
			return nil
		}
		select {
		case <-n.exited:
			if bytes.Contains([]byte(n.tail(100)), []byte("Address already in use")) {
				return errPortTaken
			}
			return fmt.Errorf("node %d ended (%s) before it served; its log ends:\n%s", n.id, n.state, n.tail(60))
		case <-ctx.Done():
			return fmt.Errorf("node %d does not serve after %v (%w); its log ends:\n%s", n.id, readyWithin, err, n.tail(60))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tail returns the last lines of the node's log.
func (n *node) tail(lines int) string {
	b, err := os.ReadFile(n.logFile())
	if err != nil {
		return err.Error()
	}
	return lastLines(b, lines)
}

func lastLines(b []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
