#!/usr/bin/env bash
# Installs the Debian packages that some tests need, and Azurite where npm is. It never fails: without
# one of them, its tests are skipped and say so.
cd "$(dirname "$0")/.."
azurite=azurite@3.37.0
folder=.venv/$azurite
if [ ! -x "$folder/node_modules/.bin/azurite-blob" ]; then
    if command -v npm >/dev/null; then
        mkdir -p "$folder"
        # Without its registry, npm tries for a quarter of an hour.
        timeout 120 npm install --prefix "$folder" --fetch-retries=1 --fetch-timeout=20000 \
            --no-audit --no-fund --silent "$azurite" >/dev/null ||
            echo "$azurite could not be installed. Its tests will be skipped." >&2
    else
        echo "npm is not installed. Tests with Azurite will be skipped." >&2
    fi
fi
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
