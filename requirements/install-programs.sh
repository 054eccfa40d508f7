#!/bin/sh
# Installs the Debian packages of missing programs as root, or lists them: install-programs.sh PURPOSE PROGRAM/PACKAGE...
set -eu

purpose=$1
shift

missing=
for each in "$@"; do
    # Some are in /usr/sbin, which may be missing from PATH.
    PATH="$PATH:/usr/sbin:/sbin" command -v "${each%/*}" >/dev/null || missing="$missing ${each#*/}"
done

if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing programs for $purpose, parts are skipped: run sudo apt-get install --no-install-recommends$missing"
    exit 0
fi
echo "Installing for $purpose:$missing"
# apt-get can wait for another apt-get that installs packages, but not for one that updates the lists.
tries=0
until output=$(LC_ALL=C apt-get update -qq 2>&1); do
    tries=$((tries + 1))
    case $output in
        *"Could not get lock"*) [ $tries -le 60 ] && sleep 2 && continue ;;
    esac
    echo "$output" >&2
    exit 1
done
# shellcheck disable=SC2086 # one word for each package
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $missing >/dev/null

# Debian's knot package starts a server on port 53. The tests start their own, so stop it.
case $missing in
    *knot*) [ ! -d /run/systemd/system ] || systemctl disable --quiet --now knot.service ;;
esac
