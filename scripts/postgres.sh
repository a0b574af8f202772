#!/bin/sh
# Makes sure that Postgres's server binaries are here: says so and installs them
# where it may (root on Debian or Ubuntu), says what to do where it may not.
set -eu
if command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "Postgres is not installed: installing it with apt-get install postgresql"
	DEBIAN_FRONTEND=noninteractive apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql
	exit 0
fi
echo "Postgres's server (initdb, postgres) was not found. Install it, for example:" >&2
echo "  sudo apt-get install postgresql     (Debian, Ubuntu)" >&2
echo "  brew install postgresql@17          (macOS)" >&2
exit 1
