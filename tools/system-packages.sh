#!/bin/sh
# system-packages.sh demo|test [python]: make sure that what pip cannot install is there.
#
# Looks for capabilities, not for package names, so it says nothing on a machine that has
# them from elsewhere. As root on Debian or a relative it installs what is missing; else it
# names the one command to run and fails. `demo` is the short list, `test` adds simulators.
set -eu

purpose=${1:?demo or test}
python=${2:-python3}

has() { command -v "$1" >/dev/null 2>&1; }

if ! has "$python"; then
    echo "bloomgate: $python is not there; install Python 3.11 or newer, or say make PYTHON3=..." >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "bloomgate: $("$python" --version) is too old to develop with (the board side needs 3.9, the tools 3.11); say make PYTHON3=..." >&2
    exit 1
fi

missing() {
    list=
    # cffi and CXXRTL are compiled; g++ brings gcc and the C library's headers
    { has c++ || has g++; } && { has cc || has gcc; } || list="$list g++"
    # `venv` is in Debian's python3, the ensurepip that it calls is not
    "$python" -c 'import venv, ensurepip' 2>/dev/null || list="$list python3-venv"
    # the headers for cffi, and with them the shared libpython that cocotb loads
    "$python" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        list="$list libpython3-dev"
    if [ "$purpose" = test ]; then
        { has iverilog && has vvp; } || list="$list iverilog"
    fi
    echo "$list"
}

# Tests skip, loudly, without these.
wanted() {
    list=
    if [ "$purpose" = test ]; then
        has pypy3 || list="$list pypy3"
        # cffi's C code for PyPy includes pyconfig.h, which pypy3 itself does not bring
        pypy3 -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("platinclude"), "pyconfig.h")))' 2>/dev/null ||
            list="$list pypy3-dev"
        # programs for the board's processor, and what runs them here
        has arm-linux-gnueabihf-gcc || list="$list gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"
        has qemu-arm || list="$list qemu-user"
        has qemu-system-arm || list="$list qemu-system-arm"
        # device-tree sources
        { has dtc && has fdtoverlay; } || list="$list device-tree-compiler"
    fi
    echo "$list"
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null
}

required=$(missing)
optional=$(wanted)
[ -n "$required$optional" ] || exit 0

if [ "$(id -u)" != 0 ] || ! has apt-get; then
    if [ -n "$required" ]; then
        echo "bloomgate: this needs a command as root first: apt-get install -y --no-install-recommends$required" >&2
        exit 1
    fi
    echo "bloomgate: optional, some checks are skipped without it: apt-get install -y --no-install-recommends$optional"
    exit 0
fi

printf '\n== system packages:%s\n' "$required$optional"
# One package source out of several may be away; what counts is the install below.
apt update || echo "bloomgate: apt-get update complained; going on"
if [ -n "$required" ]; then
    # shellcheck disable=SC2086  # a list of words
    apt install -y --no-install-recommends $required >/dev/null || {
        echo "bloomgate: apt-get install$required failed, see above" >&2
        exit 1
    }
fi
if [ -n "$optional" ]; then
    # shellcheck disable=SC2086  # a list of words
    apt install -y --no-install-recommends $optional >/dev/null ||
        echo "bloomgate: no$optional to be had; the checks that want it are skipped"
fi

required=$(missing)
if [ -n "$required" ]; then
    echo "bloomgate: $python still finds no$required after the installation; is it another Python than Debian's? say make PYTHON3=/usr/bin/python3" >&2
    exit 1
fi
