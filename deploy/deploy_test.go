// Package deploy_test keeps what is in this directory true: each file parses, and
// names only flags, keys and files that exist.
package deploy_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/vedette-sec/vedette/config"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// variables lists the ${NAME} of a text.
func variables(s string) []string {
	var names []string
	for _, m := range regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)`).FindAllStringSubmatch(s, -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// cli builds the program and returns a check that it takes a command line: with
// --help it prints help and does nothing, unless a flag or command is unknown.
func cli(t *testing.T) (accepts func(t *testing.T, args ...string)) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "vedette")
	if out, err := exec.Command("go", "build", "-o", bin, "../cmd/vedette").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), bin, "run", "--no-such-flag", "--help").CombinedOutput(); err == nil {
		t.Fatalf("an unknown flag was taken, so this test would prove nothing:\n%s", out)
	}
	return func(t *testing.T, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), bin, append(args, "--help")...).CombinedOutput(); err != nil {
			t.Errorf("vedette %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func TestCommandsExist(t *testing.T) {
	accepts := cli(t)
	line := regexp.MustCompile(`(?m)(?:^|[\s/])vedette ((?:run|dev|replay|simulate|token|version)\b[^\n]*)$`)
	for name, want := range map[string]int{"vedette.service": 1, "compose.yaml": 1} {
		found := line.FindAllStringSubmatch(read(t, name), -1)
		if len(found) < want {
			t.Errorf("%s: found %d command lines, want %d or more", name, len(found), want)
		}
		for _, m := range found {
			accepts(t, strings.Fields(m[1])...)
		}
	}
	image := parseContainerfile(t)
	accepts(t, image.command...)
	for _, s := range parseCompose(t).Services {
		if s.Build != nil {
			accepts(t, s.Command...)
		}
	}
}

func TestConfigurationsLoad(t *testing.T) {
	for _, name := range []string{"vedette.yaml", "compose.vedette.yaml"} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(name)
			if len(variables(read(t, name))) > 0 && err == nil {
				t.Error("it loads without the secrets it names: are they still asked for?")
			}
			for _, v := range variables(read(t, name)) {
				t.Setenv(v, "s3cret")
			}
			c, err := config.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			if !c.Rules.Shipped {
				t.Error("the shipped rules are off")
			}
		})
	}
}

// containerfile is what of the file matters here.
type containerfile struct {
	stages     []string // names, in order
	bases      []string
	user       string
	entrypoint []string
	command    []string
	last       []string // instructions of the last stage
}

func parseContainerfile(t *testing.T) containerfile {
	t.Helper()
	var f containerfile
	text := regexp.MustCompile(`\\\n`).ReplaceAllString(read(t, "Containerfile"), " ")
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		f.last = append(f.last, line)
		switch word {
		case "FROM":
			fields := strings.Fields(rest)
			name := ""
			if len(fields) == 3 && strings.EqualFold(fields[1], "AS") {
				name = fields[2]
			} else if len(fields) != 1 {
				t.Errorf("FROM %s: want an image and perhaps a name", rest)
			}
			f.bases, f.stages, f.last = append(f.bases, fields[0]), append(f.stages, name), nil
		case "COPY":
			f.checkCopy(t, rest)
		case "USER":
			f.user = rest
		case "ENTRYPOINT", "CMD", "VOLUME":
			var list []string
			if err := json.Unmarshal([]byte(rest), &list); err != nil {
				t.Errorf("%s %s: want a JSON list, as there is no shell in the image: %v", word, rest, err)
			}
			switch word {
			case "ENTRYPOINT":
				f.entrypoint = list
			case "CMD":
				f.command = list
			}
		case "RUN", "WORKDIR", "ARG", "ENV", "EXPOSE", "LABEL":
		default:
			t.Errorf("unknown instruction %q", line)
		}
	}
	return f
}

func (f *containerfile) checkCopy(t *testing.T, rest string) {
	t.Helper()
	var args []string
	from := ""
	for _, a := range strings.Fields(rest) {
		if v, ok := strings.CutPrefix(a, "--from="); ok {
			from = v
		} else if !strings.HasPrefix(a, "--") {
			args = append(args, a)
		}
	}
	if len(args) < 2 {
		t.Errorf("COPY %s: want sources and a destination", rest)
		return
	}
	if from != "" {
		if !slices.Contains(f.stages[:len(f.stages)-1], from) {
			t.Errorf("COPY %s: there is no stage %s before", rest, from)
		}
		return
	}
	for _, src := range args[:len(args)-1] {
		if _, err := os.Stat(filepath.Join("..", src)); err != nil {
			t.Errorf("COPY %s: %v", rest, err)
		}
	}
}

func TestContainerfile(t *testing.T) {
	f := parseContainerfile(t)
	if len(f.bases) < 2 || f.bases[len(f.bases)-1] != "scratch" {
		t.Errorf("stages are of %v: the last should hold the program alone", f.bases)
	}
	gomod := read(t, "../go.mod")
	want := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(gomod)
	if want == nil || f.bases[0] != "golang:"+want[1] {
		t.Errorf("built with %s, go.mod says %v", f.bases[0], want)
	}
	if !regexp.MustCompile(`^[1-9]\d*(:[1-9]\d*)?$`).MatchString(f.user) {
		t.Errorf("USER %q: want a number that is not root's, as scratch has no names", f.user)
	}
	if len(f.entrypoint) != 1 || filepath.Base(f.entrypoint[0]) != "vedette" {
		t.Errorf("ENTRYPOINT is %v", f.entrypoint)
	}
	last := strings.Join(f.last, "\n")
	for _, need := range []string{"ca-certificates.crt", f.entrypoint[0], config.Default().DataDir} {
		if !strings.Contains(last, need) {
			t.Errorf("the image lacks %s", need)
		}
	}
	if strings.Contains(last, "\nRUN ") {
		t.Error("RUN in a stage without a shell")
	}
	if main := read(t, "../cmd/vedette/main.go"); strings.Contains(read(t, "Containerfile"), "main.version") && !strings.Contains(main, "var version = ") {
		t.Error("the linker sets main.version, which does not exist")
	}
}

type service struct {
	Image       string
	Build       *struct{ Context, Dockerfile string }
	Command     []string
	Environment map[string]string
	Volumes     []string
	Ports       []string
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	HealthCheck *struct {
		Test              []string
		Interval, Timeout string
		Retries           int
	} `yaml:"healthcheck"`
	Restart         string
	ReadOnly        bool     `yaml:"read_only"`
	CapDrop         []string `yaml:"cap_drop"`
	SecurityOpt     []string `yaml:"security_opt"`
	StopGracePeriod string   `yaml:"stop_grace_period"`
}

type compose struct {
	Name     string
	Services map[string]service
	Volumes  map[string]struct{}
}

func parseCompose(t *testing.T) compose {
	t.Helper()
	var c compose
	d, err := yaml.NewLoader(strings.NewReader(read(t, "compose.yaml")), yaml.WithKnownFields())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCompose(t *testing.T) {
	c := parseCompose(t)
	for name, s := range c.Services {
		if (s.Image == "") == (s.Build == nil) {
			t.Errorf("%s: want an image or a build", name)
		}
		if s.Image != "" && (!strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest")) {
			t.Errorf("%s: %s is not pinned", name, s.Image)
		}
		for other, dep := range s.DependsOn {
			on, ok := c.Services[other]
			if !ok {
				t.Errorf("%s depends on %s, which does not exist", name, other)
			}
			if dep.Condition == "service_healthy" && on.HealthCheck == nil {
				t.Errorf("%s waits for the health of %s, which has no check", name, other)
			}
		}
		for _, v := range s.Volumes {
			src, _, _ := strings.Cut(v, ":")
			if _, named := c.Volumes[src]; named {
				continue
			}
			if !strings.HasPrefix(src, "./") {
				t.Errorf("%s: volume %s is not declared", name, src)
			} else if filepath.Ext(src) != "" {
				if _, err := os.Stat(src); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to everybody", name, p)
			}
		}
	}

	v := c.Services["vedette"]
	if v.Build == nil {
		t.Fatal("there is no service vedette that is built")
	}
	if _, err := os.Stat(filepath.Join(v.Build.Context, v.Build.Dockerfile)); err != nil {
		t.Error(err)
	}
	if i := slices.Index(v.Command, "--config"); i < 0 || !slices.ContainsFunc(v.Volumes, func(m string) bool {
		return strings.HasPrefix(m, "./compose.vedette.yaml:"+v.Command[i+1]+":")
	}) {
		t.Errorf("the configuration that %v names is not mounted", v.Command)
	}
	for _, name := range variables(read(t, "compose.vedette.yaml")) {
		if _, ok := v.Environment[name]; !ok {
			t.Errorf("compose.vedette.yaml needs %s, which compose.yaml does not pass on", name)
		}
		t.Setenv(name, "x")
	}
	cfg, err := config.Load("compose.vedette.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range cfg.Kafka.Brokers {
		if !strings.Contains(c.Services["kafka"].Environment["KAFKA_ADVERTISED_LISTENERS"], "://"+b) {
			t.Errorf("broker %s is not what kafka advertises", b)
		}
	}
	if cfg.Kafka.Replication != 1 {
		t.Errorf("replication %d with one broker", cfg.Kafka.Replication)
	}
}

// directives of systemd.unit(5), systemd.service(5), systemd.exec(5) that the unit
// may use, by section.
var directives = map[string][]string{
	"Unit": {"Description", "Documentation", "Wants", "After", "StartLimitIntervalSec"},
	"Service": {
		"Type", "ExecStart", "ExecReload", "EnvironmentFile", "Restart", "RestartSec", "TimeoutStopSec", "LimitNOFILE",
		"DynamicUser", "StateDirectory", "StateDirectoryMode", "UMask", "NoNewPrivileges", "CapabilityBoundingSet",
		"AmbientCapabilities", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateUsers", "ProtectProc",
		"ProtectClock", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
		"ProtectControlGroups", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID",
		"LockPersonality", "MemoryDenyWriteExecute", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber",
	},
	"Install": {"WantedBy"},
}

func TestUnit(t *testing.T) {
	text := read(t, "vedette.service")
	set := map[string]string{}
	section := ""
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !slices.Contains(directives[section], key) {
			t.Errorf("[%s] %s: not a directive that this test knows", section, line)
		}
		set[key] += value + "\n"
	}
	for key, want := range map[string]string{
		"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": "", "MemoryDenyWriteExecute": "yes",
	} {
		if got := strings.TrimSpace(set[key]); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	if dir := "/var/lib/" + strings.TrimSpace(set["StateDirectory"]); dir != config.Default().DataDir {
		t.Errorf("StateDirectory is %s, the data_dir is %s", dir, config.Default().DataDir)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("no systemd-analyze here: the unit was checked by this test's own list alone")
		return
	}
	// Verify wants the program to exist; any will do.
	stand := filepath.Join(t.TempDir(), "vedette.service")
	unit := strings.ReplaceAll(text, "/usr/local/bin/vedette", "/bin/true")
	if err := os.WriteFile(stand, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", stand).CombinedOutput()
	for line := range strings.SplitSeq(string(out), "\n") {
		if strings.Contains(line, "vedette.service") { // others' units are not our business
			t.Error(line)
		}
	}
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Error(err)
	}
}
