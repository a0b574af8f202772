#!/bin/sh
# Makes sure that Postgres's server binaries are here: says so and installs them
# where it may (root on Debian or Ubuntu), says what to do where it may not.
set -eu

# The places that storage/localpg looks in.
for bin in $(echo "$PATH" | tr : ' ') /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/lib/postgresql*/bin \
	/usr/libexec/postgresql* /usr/local/pgsql/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
	/Applications/Postgres.app/Contents/Versions/*/bin; do
	if [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ]; then
		exit 0
	fi
done

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "Postgres is not installed: installing it (apt-get install postgresql)"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	apt-get install -y -q --no-install-recommends postgresql-common
	# Vedette runs a private server; the package need not make and start one too.
	conf=/etc/postgresql-common/createcluster.conf
	if [ -f "$conf" ]; then
		sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' "$conf"
	fi
	apt-get install -y -q --no-install-recommends postgresql
	exit 0
fi

cat >&2 <<'END'
Postgres's server (initdb and postgres) was not found. Install it:
  Debian, Ubuntu:  sudo apt-get install postgresql
  Fedora:          sudo dnf install postgresql-server
  macOS:           brew install postgresql@17
END
exit 1
