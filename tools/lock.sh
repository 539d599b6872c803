#!/bin/sh
# lock.sh PYTHON: write requirements.lock from the bounds in pyproject.toml.
#
# One file for every platform and every Python from 3.11, with hashes. uv does it; where it
# is not installed it is put into build/lock for this one use.
set -eu

python=$1
if command -v uv >/dev/null 2>&1; then
    uv=uv
else
    printf '\n== install uv into build/lock\n'
    [ -x build/lock/bin/python ] || "$python" -m venv build/lock
    build/lock/bin/python -m pip install --quiet uv
    uv=build/lock/bin/uv
fi
printf '\n== write requirements.lock\n'
"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --extra dev \
    --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml
