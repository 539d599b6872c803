#!/bin/sh
# patch-base.sh [--no-i2c0] IN.dtb OUT.dtb: a board's device tree for use with the bloomgate bitstream.
#
# * Reserves the queue memory (parallella-base.dtso).
# * Disables every node that lies in the fabric (M_AXI_GP0 and GP1, 0x40000000 to 0xBFFFFFFF) and is not bloomgate's:
#   stock trees have an elink at 0x80000000 and, with HDMI, more. The bitstream answers there with DECERR, so a driver
#   that probes gets a data abort.
# * Leaves i2c0 alone, because the Parallella's bitstreams bridge it to its pins. --no-i2c0 disables it, for a
#   bitstream that does not: else Linux waits for the power management chip until it times out.
#
# Needs dtc, fdtoverlay, fdtget and fdtput (apt install device-tree-compiler).
set -eu

i2c0=keep
if [ "${1:-}" = --no-i2c0 ]; then
    i2c0=disable
    shift
fi
[ $# = 2 ] || {
    echo "usage: patch-base.sh [--no-i2c0] IN.dtb OUT.dtb" >&2
    exit 2
}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -f "$here/parallella-base.dtbo" ]; then
    overlay=$here/parallella-base.dtbo
else
    overlay=$work/base.dtbo
    dtc -q -@ -I dts -O dtb -o "$overlay" "$here/parallella-base.dtso"
fi
fdtoverlay -i "$1" -o "$work/out.dtb" "$overlay"

disable() {
    fdtput -t s "$work/out.dtb" "$1" status disabled
    echo "disabled $1"
}

# walk PATH: every node below it. Unit addresses of old trees can begin with 0x.
walk() {
    fdtget -l "$work/out.dtb" "$1" | while read -r name; do
        path=${1%/}/$name
        case $path in
        /reserved-memory/*) continue ;;
        esac
        case $name in
        *@*)
            address=${name##*@}
            address=${address#0x}
            address=${address%%,*}
            # 8 digits, the first of them 4 to b; bloomgate's own names are left alone
            case $address in
            [4-9a-bA-B]???????) case $name in bloomgate*) ;; *) disable "$path" ;; esac ;;
            e0004000) [ $i2c0 = keep ] || disable "$path" ;;
            esac
            ;;
        esac
        walk "$path"
    done
}
walk /
cp "$work/out.dtb" "$2"
