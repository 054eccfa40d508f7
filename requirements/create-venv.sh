#!/bin/sh
# Creates a virtual environment, or names the missing packages: create-venv.sh DIRECTORY
set -eu

directory=$1

if [ -x "$directory/bin/python" ] && [ -x "$directory/bin/pip" ]; then
    exit 0
fi

python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "no Python 3.11 or newer found (searched for ${PYTHON:-python3, python3.11 to python3.14}): install one, or run" >&2
    echo "make PYTHON=/path/to/python3 ... (python3 of Debian 12, Ubuntu 24.04, RHEL 10 and newer is new enough)" >&2
    exit 1
fi

# Debian and Ubuntu package venv and ensurepip separately from python3. Without ensurepip a venv would have no pip.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    case $python in
        python3.*) package=$python-venv ;;
        *) package=python3-venv ;;
    esac
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "Installing $package"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
    else
        echo "$python cannot create a virtual environment: install its venv module, then run make again:" >&2
        echo "    sudo apt-get install --no-install-recommends $package" >&2
        exit 1
    fi
fi

echo "Creating $directory with $("$python" --version)"
"$python" -m venv "$directory"
