#!/usr/bin/env bash
# Installs the Debian packages that some tests need. It never fails: without a package, its tests are
# skipped and say so.
cd "$(dirname "$0")/.."
packages=$(grep -vE '^(#|$)' deploy/test_packages.txt)
missing=""
for package in $packages; do
    dpkg --status "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not installed, and this needs root and apt-get:$missing. Their tests will be skipped." >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
for package in $missing; do
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
        echo "$package could not be installed. Its tests will be skipped." >&2
done
exit 0
