package kafkatest

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options say what Kafka to run.
type Options struct {
	Nodes      int               // each is broker and controller; 1 if zero
	Secure     bool              // also listen with TLS, client certificates and SASL
	Properties map[string]string // of server.properties, over ours
}

// Listener is one way to connect to a broker.
type Listener string

// The listeners. All but Plaintext need Options.Secure.
const (
	Plaintext Listener = "PLAINTEXT"
	TLS       Listener = "TLS"
	MutualTLS Listener = "MTLS" // asks for a client certificate
	SASL      Listener = "SASL" // TLS, with PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER

	controller Listener = "CONTROLLER"
)

// readyWithin is how long a node may take from its start until it serves. On an
// idle machine it takes three seconds.
const readyWithin = 120 * time.Second

// Cluster is a running Kafka. Its methods fail the test they were started for,
// and are for one goroutine at a time.
type Cluster struct {
	// Credentials are set if the cluster is secure.
	Credentials *Credentials

	t       testing.TB
	o       Options
	in      installation
	dir     string
	logging string // file that configures the nodes' logs
	id      string
	nodes   []*node
}

// Start runs Kafka until the test ends, and returns when it serves.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	c := &Cluster{t: t, o: o, in: need(t), dir: t.TempDir()}
	var err error
	if c.logging, err = c.write("log4j2.properties", logging); err != nil {
		t.Fatal(err)
	}
	if o.Secure {
		if c.Credentials, err = newCredentials(c.dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.kill()
			if t.Failed() {
				t.Logf("the end of node %d's log:\n%s", n.id, n.tail(60))
			}
		}
	})
	for try := 1; ; try++ {
		err := c.boot()
		if err == nil {
			return c
		}
		// Between our choice of a port and Kafka's use of it another may take it.
		if !errors.Is(err, errPortTaken) || try == 3 {
			t.Fatal(err)
		}
	}
}

// boot formats and starts all nodes on ports of its own choice.
func (c *Cluster) boot() error {
	listeners := []Listener{Plaintext, controller}
	if c.o.Secure {
		listeners = append(listeners, TLS, MutualTLS, SASL)
	}
	ports, err := freePorts(c.o.Nodes * len(listeners))
	if err != nil {
		return err
	}
	c.id, c.nodes = clusterID(), nil
	for i := range c.o.Nodes {
		n := &node{id: i + 1, c: c, ports: make(map[Listener]int)}
		for _, l := range listeners {
			n.ports[l], ports = ports[0], ports[1:]
		}
		c.nodes = append(c.nodes, n)
	}
	return c.each(func(n *node) error {
		if err := n.format(); err != nil {
			return err
		}
		return n.start()
	}, func(n *node) error { return n.ready(c.o.Nodes) })
}

// each does the steps with all nodes at once, one step after the other.
func (c *Cluster) each(steps ...func(*node) error) error {
	for _, step := range steps {
		errs := make([]error, len(c.nodes))
		var wg sync.WaitGroup
		for i, n := range c.nodes {
			wg.Go(func() { errs[i] = step(n) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// Nodes returns the nodes' ids, running or not.
func (c *Cluster) Nodes() []int {
	var ids []int
	for _, n := range c.nodes {
		ids = append(ids, n.id)
	}
	return ids
}

// Brokers returns the addresses of all nodes, running or not, that take
// anybody's word for who they are.
func (c *Cluster) Brokers() []string { return c.BrokersOn(Plaintext) }

// BrokersOn returns the addresses of all nodes' listeners of one kind.
func (c *Cluster) BrokersOn(l Listener) []string {
	c.t.Helper()
	var addrs []string
	for _, n := range c.nodes {
		if n.ports[l] == 0 {
			c.t.Fatalf("kafkatest: no %s listener without Options.Secure", l)
		}
		addrs = append(addrs, n.addr(l))
	}
	return addrs
}

// Kill ends a node at once, as a power cut ends it, and waits until it has gone.
func (c *Cluster) Kill(node int) { c.node(node).kill() }

// Pause stops a node in its tracks: its connections stay, and say nothing.
func (c *Cluster) Pause(node int) { c.signal(node, syscall.SIGSTOP) }

// Resume has a paused node go on.
func (c *Cluster) Resume(node int) { c.signal(node, syscall.SIGCONT) }

func (c *Cluster) signal(node int, sig syscall.Signal) {
	c.t.Helper()
	if err := c.node(node).process.Signal(sig); err != nil {
		c.t.Fatalf("signal node %d: %v", node, err)
	}
}

// Wait waits until a node has ended by itself.
func (c *Cluster) Wait(node int) {
	c.t.Helper()
	n := c.node(node)
	select {
	case <-n.exited:
	case <-time.After(readyWithin):
		c.t.Fatalf("node %d does not end; its log ends:\n%s", node, n.tail(60))
	}
}

// Shutdown ends a node in order: it hands its partitions over first.
func (c *Cluster) Shutdown(node int) {
	c.t.Helper()
	if err := c.node(node).stop(); err != nil {
		c.t.Fatal(err)
	}
}

// Start starts a node that was ended, on its old data and ports, and returns
// when it serves.
func (c *Cluster) Start(node int) {
	c.t.Helper()
	n := c.node(node)
	if err := n.start(); err != nil {
		c.t.Fatal(err)
	}
	if err := n.ready(1); err != nil {
		c.t.Fatal(err)
	}
}

// Restart ends a node in order and starts it again.
func (c *Cluster) Restart(node int) {
	c.t.Helper()
	c.Shutdown(node)
	c.Start(node)
}

// Stop ends all nodes in order, all at once.
func (c *Cluster) Stop() {
	c.t.Helper()
	if err := c.each((*node).stop); err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) node(id int) *node {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.id == id {
			return n
		}
	}
	c.t.Fatalf("kafkatest: there is no node %d", id)
	return nil
}

// write puts a file into the cluster's directory and returns its path.
func (c *Cluster) write(name, content string) (string, error) {
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return "", fmt.Errorf("write Kafka's configuration: %w", err)
	}
	return path, nil
}

// clusterID returns 16 random bytes as Kafka writes them. They begin with a
// letter: Kafka's command line takes a leading dash for an option.
func clusterID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] >>= 2 // the first character is one of A to P
	return base64.RawURLEncoding.EncodeToString(b)
}

// freePorts returns n ports of loopback that nobody listens on. They lie below
// those that systems give to outgoing connections, so that a node which is down
// for a while finds its own free again.
func freePorts(n int) ([]int, error) {
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries > 100*n {
			return nil, errors.New("kafkatest: no free ports between 20000 and 32000")
		}
		p := 20000 + mrand.IntN(12000)
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err != nil {
			continue
		}
		defer l.Close() // all are held until all are chosen
		ports = append(ports, p)
	}
	return ports, nil
}
