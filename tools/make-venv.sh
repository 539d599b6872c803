#!/bin/sh
# make-venv.sh PYTHON VENV LOCK: a virtual environment with exactly the locked packages.
set -eu

python=$1 venv=$2 lock=$3
here=$(dirname "$0")

printf '\n== create %s (%s)\n' "$venv" "$("$python" --version)"
if [ ! -x "$venv/bin/python" ]; then
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --python "$(command -v "$python")" "$venv"
    else
        "$python" -m venv "$venv"
    fi
fi
printf '\n== install %s packages from %s (half a gigabyte on disk)\n' \
    "$(grep -c '^[a-z].*==' "$lock")" "$lock"
sh "$here/pip-install.sh" "$venv" --require-hashes --requirement "$lock"
