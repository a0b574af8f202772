#!/bin/sh
# Puts a real Apache Kafka where the tests look for it: its jars from Maven
# Central, each held to the SHA-256 in internal/kafkatest/kafka.sum. Kafka runs
# from these alone, on Java 17 or newer; its distribution is not needed.
#
#   scripts/kafka.sh          fetch, unless what is there is whole
#   scripts/kafka.sh --list   print the sums of a fresh fetch, to review and
#                             commit as kafka.sum after raising a version below
#
# VEDETTE_KAFKA_DIR says where, else $XDG_CACHE_HOME or ~/.cache.
set -eu
cd "$(dirname "$0")/.."

kafka=4.1.2
log4j=2.25.5
plugin=3.8.1
sums=$PWD/internal/kafkatest/kafka.sum

fail() {
	echo "scripts/kafka.sh: $*" >&2
	exit 1
}

# need COMMAND PACKAGE: installs the package where it may, says what to do where it may not.
need() {
	command -v "$1" >/dev/null 2>&1 && return
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo "$1 is not installed: installing it (apt-get install $2)"
		export DEBIAN_FRONTEND=noninteractive
		apt-get update -q
		apt-get install -y -q --no-install-recommends "$2"
		return
	fi
	fail "$1 was not found. Install it (Debian, Ubuntu: sudo apt-get install $2; macOS: brew install ${3:-$1})."
}

# whole DIR: holds every jar of the list, unchanged, and nothing else.
whole() {
	[ -d "$1" ] && [ "$(ls "$1" | wc -l)" -eq "$(wc -l <"$sums")" ] && (cd "$1" && check)
}

check() {
	if command -v sha256sum >/dev/null 2>&1; then
		sha256sum --quiet --strict -c "$sums"
	else
		shasum -a 256 -q -s -c "$sums"
	fi
}

need java openjdk-17-jre-headless openjdk@17
java=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
[ "${java:-0}" -ge 17 ] || fail "Java is ${java:-of an unknown version}; Kafka $kafka needs 17 or newer."

dir=${VEDETTE_KAFKA_DIR:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set VEDETTE_KAFKA_DIR}/.cache}/vedette/kafka-$kafka}
if [ "${1:-}" != --list ] && whole "$dir/libs" 2>/dev/null; then
	echo "Kafka $kafka is in $dir"
	exit 0
fi

need mvn maven
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$tmp/pom.xml" <<END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>vedette</groupId>
  <artifactId>kafka</artifactId>
  <version>$kafka</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>$kafka</version>
    </dependency>
    <!-- Kafka $kafka logs through slf4j 1.7, which the slf4j2 binding does not serve. -->
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>$log4j</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-core</artifactId>
      <version>$log4j</version>
    </dependency>
  </dependencies>
</project>
END

echo "fetching Kafka $kafka from Maven Central into $dir" >&2
for try in 1 2 3; do
	mvn -B -q -ntp -C -Dstyle.color=never -f "$tmp/pom.xml" "org.apache.maven.plugins:maven-dependency-plugin:$plugin:copy-dependencies" \
		-DincludeScope=runtime "-DoutputDirectory=$tmp/libs" >&2 && break
	[ "$try" -lt 3 ] || fail "Maven could not fetch Kafka $kafka; its own words are above."
	echo "trying again" >&2
	sleep $((try * 5))
done

if [ "${1:-}" = --list ]; then
	cd "$tmp/libs"
	sha256sum -- *.jar
	exit 0
fi
whole "$tmp/libs" || fail "what was fetched is not what internal/kafkatest/kafka.sum lists: nothing was installed."
if ! whole "$dir/libs" >/dev/null 2>&1; then # unless another run was faster
	rm -rf "$dir/libs"
	mv "$tmp/libs" "$dir/libs"
fi
echo "Kafka $kafka is in $dir"
