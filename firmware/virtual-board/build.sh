#!/bin/sh
# build.sh [FOLDER]: what the virtual Parallella needs, once: a kernel, its modules' build tree, and a root file system
# with Debian's armhf Python. Into FOLDER, by default ~/.cache/bloomgate/virtual-board. `make virtual-board` runs it.
#
# The kernel takes some minutes, 12 on two cores, and 2 GB. What is there already is not built again.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/bloomgate/virtual-board}
jobs=$(nproc)
mkdir -p "$cache"
cd "$cache"

say() {
    echo "build.sh: $*" >&2
}

# Passes over the lines of a build, and says how far it is; $1: about how many there are.
progress() {
    awk -v all="$1" '
        BEGIN { due = 0 }
        int(100 * ++lines / all) >= due { print "build.sh: kernel", (due < 100 ? due : 99) " %"; fflush(); due += 5 }
    ' >&2
}

source=/usr/src/linux-source-6.1.tar.xz
lacking=
for tool in arm-linux-gnueabihf-gcc=gcc-arm-linux-gnueabihf qemu-system-arm dtc=device-tree-compiler flex bison bc \
    cpio make xz=xz-utils apt-get=apt; do
    command -v "${tool%=*}" >/dev/null || lacking="$lacking ${tool#*=}"
done
[ -f $source ] || [ -f kernel/done ] || lacking="$lacking linux-source-6.1"
[ -z "$lacking" ] || {
    say "some things are not there: apt install$lacking"
    exit 1
}

# The kernel. Debian's own for armhf has no Zynq, so it is built from Debian's source.
if [ ! -f kernel/done ] || ! cmp -s "$here/kernel.config" kernel/config; then
    [ -d linux-source-6.1 ] || {
        say "unpacking $source"
        rm -rf unpacked
        mkdir unpacked
        nice tar xf $source -C unpacked
        mv unpacked/linux-source-6.1 .
        rmdir unpacked
    }
    rm -rf kernel
    mkdir kernel
    say "compiling the kernel in $cache, once"
    export ARCH=arm CROSS_COMPILE=arm-linux-gnueabihf-
    nice make -s -C linux-source-6.1 KCONFIG_ALLCONFIG="$here/kernel.config" tinyconfig >/dev/null
    # A line for each file; complaints go past the counting. The status of a pipe is that of its end.
    { nice make -C linux-source-6.1 -j "$jobs" zImage dtbs modules || touch kernel/failed; } | progress 1100
    [ ! -e kernel/failed ] || {
        say "the kernel does not compile"
        exit 1
    }
    cp linux-source-6.1/arch/arm/boot/zImage linux-source-6.1/arch/arm/boot/dts/zynq-parallella.dtb \
        linux-source-6.1/System.map kernel/
    cp "$here/kernel.config" kernel/config
    touch kernel/done
fi

# The root file system: Debian's armhf packages, unpacked and not installed.
packages="busybox-static python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3-cffi
    python3-cffi-backend python3-pycparser python3-ply libc6 libffi8 zlib1g libexpat1 libgcc-s1"
if [ ! -f root/done ]; then
    rm -rf root apt
    mkdir -p root apt/lists/partial apt/archives/partial apt/etc
    touch apt/status
    set -- -o APT::Architecture=armhf -o APT::Architectures=armhf -o Dir::State="$cache/apt" \
        -o Dir::State::status="$cache/apt/status" -o Dir::State::lists="$cache/apt/lists" \
        -o Dir::Cache="$cache/apt" -o APT::Sandbox::User=root -o Debug::NoLocking=1 -qq
    say "downloading Python for armhf from Debian"
    # One package source out of several may be away; what counts is the download below.
    apt-get "$@" update || say "apt-get update complained; going on"
    # shellcheck disable=SC2086  # a list of words
    (cd apt/archives && apt-get "$@" download $packages)
    for package in apt/archives/*.deb; do
        dpkg-deb -x "$package" root
    done
    rm -rf root/usr/share/doc root/usr/share/man root/usr/share/locale apt
    # Byte code, which is that of any Python 3.11: without it a program needs half a minute to begin.
    if python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
        python3 -m compileall -q -s root root/usr/lib/python3.11 root/usr/lib/python3 || true
    fi
    touch root/done
fi
echo "$cache"
