// Vedette watches serverless APIs through the logs that the clouds already
// write. See `vedette --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/simulate"
)

// version is set by the linker.
var version = "dev"

// CLI is the command line.
type CLI struct {
	Dev        DevCmd        `cmd:"" help:"Run everything in one process: broker, Postgres, all roles. To try Vedette and to develop it."`
	Run        RunCmd        `cmd:"" help:"Run the service with a configuration file."`
	Replay     ReplayCmd     `cmd:"" help:"Run the detections over log files, without any server."`
	Simulate   SimulateCmd   `cmd:"" help:"Write the logs of a simulated serverless API, with attacks in them."`
	Token      TokenCmd      `cmd:"" help:"Create, list and revoke API tokens."`
	DeadLetter DeadLetterCmd `cmd:"" name:"deadletter" help:"List, show and retry records that could not be decoded."`
	Doctor     DoctorCmd     `cmd:"" help:"Check everything that Vedette depends on, and say what to do."`
	Reshard    ReshardCmd    `cmd:"" help:"Move a stopped service to another number of partitions of observations."`
	Repair     RepairCmd     `cmd:"" help:"Show which topics were replaced or truncated, and go on behind it."`
	Bench      BenchCmd      `cmd:"" help:"Measure throughput, latency and memory with generated traffic, on this machine or against a given Kafka."`
	Version    VersionCmd    `cmd:"" help:"Print the version."`
}

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// ExitError ends the program with a code of its own.
type ExitError struct {
	Code int
	Err  error // nil: nothing more to say
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// VersionCmd prints the version.
type VersionCmd struct{}

// Run prints it.
func (VersionCmd) Run(s *Streams) error {
	_, err := fmt.Fprintf(s.Out, "vedette %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// Main runs the program with args and returns its exit status.
func Main(ctx context.Context, args []string, s *Streams) int {
	var cli CLI
	code := -1
	parser, err := kong.New(&cli,
		kong.Name("vedette"),
		kong.Description("A sentry for serverless APIs: cloud logs in, incidents and alerts out."),
		kong.Vars{"rate": fmt.Sprint(simulate.DefaultRate), "episodes": strings.Join(simulate.EpisodeNames(), ", "), "types": strings.Join(config.LogTypes(), ", ")},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(s.Out, s.Err),
		kong.Exit(func(c int) { code = c }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s),
	)
	if err != nil {
		fmt.Fprintln(s.Err, "vedette:", err)
		return 2
	}
	kctx, err := parser.Parse(args)
	if code >= 0 { // --help
		return code
	}
	if err != nil {
		fmt.Fprintf(s.Err, "vedette: %v\nTry vedette --help.\n", err)
		return 2
	}
	err = kctx.Run()
	var e *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		if e.Err != nil {
			fmt.Fprintln(s.Err, "vedette:", e.Err)
		}
		return e.Code
	default:
		fmt.Fprintln(s.Err, "vedette:", err)
		return 1
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends the program at once
	code := Main(ctx, os.Args[1:], &Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
