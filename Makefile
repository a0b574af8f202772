# Vedette. `make run` starts everything with a demo; `make test` runs the tests.
GO ?= go

.PHONY: build run test bench lint generate postgres

build:
	$(GO) build -trimpath -o bin/vedette ./cmd/vedette

run: postgres build
	bin/vedette dev --demo

test: postgres
	$(GO) test ./...

postgres:
	@sh scripts/postgres.sh

lint:
	$(GO) vet ./...
	cd tools && $(GO) build -o ../bin/ honnef.co/go/tools/cmd/staticcheck mvdan.cc/gofumpt
	bin/staticcheck ./...
	@out=$$(bin/gofumpt -l . ); if [ -n "$$out" ]; then echo "gofumpt: $$out"; exit 1; fi

generate:
	cd tools && CGO_ENABLED=0 $(GO) build -o ../bin/ github.com/sqlc-dev/sqlc/cmd/sqlc
	bin/sqlc generate -f storage/sqlc.yaml
