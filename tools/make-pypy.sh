#!/bin/sh
# make-pypy.sh VENV FOLDER LOCK: an environment of PyPy in FOLDER with the locked packages, by the installer of VENV.
# Without a pypy3 it does nothing; the tests that need one say so when they skip.
set -eu

venv=$1 folder=$2 lock=$3

command -v pypy3 >/dev/null 2>&1 || exit 0
printf '\n== create %s (%s)\n' "$folder" "$(pypy3 -c 'import platform; print("PyPy", platform.python_version())')"
pypy3 -m venv --clear --without-pip "$folder"
# Debian's PyPy has no ensurepip.
if command -v uv >/dev/null 2>&1; then
    exec uv pip install --quiet --python "$folder/bin/python" --require-hashes --requirement "$lock"
fi
exec "$venv/bin/python" -m pip --python "$folder/bin/python" install --quiet --require-hashes --requirement "$lock"
