#!/bin/sh
# pip-install.sh VENV ARGUMENT...: `pip install` into VENV, by uv where there is one.
set -eu

venv=$1
shift
# A VENV that uv made has no pip.
if command -v uv >/dev/null 2>&1; then
    exec uv pip install --quiet --python "$venv/bin/python" "$@"
fi
exec "$venv/bin/python" -m pip install --quiet "$@"
