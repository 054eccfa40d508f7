#!/bin/sh
# Installs the Debian packages of programs that are missing, as root, or says what will be skipped without them:
# install-programs.sh WHAT-FOR PROGRAM/PACKAGE...
set -eu

for_what=$1
shift

missing=
for each in "$@"; do
    # Some are in /usr/sbin, which is not on everybody's PATH.
    PATH="$PATH:/usr/sbin:/sbin" command -v "${each%/*}" >/dev/null || missing="$missing ${each#*/}"
done

if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "What needs these will be skipped: sudo apt-get install --no-install-recommends$missing"
    exit 0
fi
echo "Installing for $for_what:$missing"
# apt-get can wait for another that installs, but not for one that updates the lists.
tries=0
until said=$(LC_ALL=C apt-get update -qq 2>&1); do
    tries=$((tries + 1))
    case $said in
        *"Could not get lock"*) [ $tries -le 60 ] && sleep 2 && continue ;;
    esac
    echo "$said" >&2
    exit 1
done
# shellcheck disable=SC2086 # one word for each package
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $missing >/dev/null

# A fresh knot from Debian starts a server of its own on port 53; the tests start theirs, so that one is stopped.
case $missing in
    *knot*) [ ! -d /run/systemd/system ] || systemctl disable --quiet --now knot.service ;;
esac
