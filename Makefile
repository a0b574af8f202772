# Vedette. `make run` starts everything, with a demo; `make test` runs the tests.
GO     ?= go
GOTEST ?= $(GO) test
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: build run test bench lint generate postgres tools

build:
	$(GO) build -ldflags '-X main.version=$(VERSION)' -o bin/vedette ./cmd/vedette

run: postgres build
	bin/vedette dev --demo

test: postgres
	$(GOTEST) ./...

# What decode, match, correlate, replay, a start and the whole path take; compare runs with bin/benchstat.
BENCH ?= .
COUNT ?= 5
bench: postgres
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./event ./detect/... ./bench ./replay ./cmd/vedette

# Installs Postgres where it is missing and may be installed, and says so.
postgres:
	@sh scripts/postgres.sh

lint: tools
	$(GO) vet ./...
	bin/staticcheck ./...
	@out=$$(bin/gofumpt -l .); if [ -n "$$out" ]; then echo "not formatted by gofumpt:"; echo "$$out"; exit 1; fi

# The queries in storage/queries, typed by sqlc.
generate:
	cd tools && CGO_ENABLED=0 $(GO) build -o ../bin/ github.com/sqlc-dev/sqlc/cmd/sqlc
	bin/sqlc generate -f storage/sqlc.yaml

tools:
	cd tools && CGO_ENABLED=0 $(GO) build -o ../bin/ honnef.co/go/tools/cmd/staticcheck mvdan.cc/gofumpt \
		gotest.tools/gotestsum golang.org/x/perf/cmd/benchstat golang.org/x/vuln/cmd/govulncheck
