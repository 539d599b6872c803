#!/bin/sh
# patch-base.sh [--static] [--no-i2c0] IN.dtb OUT.dtb: a board's device tree for use with the bloomgate bitstream.
#
# * Reserves the queue memory (parallella-base.dtso).
# * Adds the symbols fpga_full and intc, which overlays refer to: most kernels' trees are built without any.
# * --static: adds the UIO nodes (bloomgate-static.dtso), for a kernel that takes no overlays while it runs. That is
#   every mainline kernel without the configfs patch.
# * Disables every node that lies in the fabric (M_AXI_GP0 and GP1, 0x40000000 to 0xBFFFFFFF) and is not bloomgate's:
#   stock trees have an elink at 0x80000000 and, with HDMI, more. The bitstream answers there with DECERR, so a driver
#   that probes gets a data abort.
# * Leaves i2c0 alone, because the Parallella's bitstreams bridge it to its pins. --no-i2c0 disables it, for a
#   bitstream that does not: else Linux waits for the power management chip until it times out.
#
# Needs dtc, fdtoverlay, fdtget and fdtput (apt install device-tree-compiler).
set -eu

i2c0=keep static=no
while :; do
    case ${1:-} in
    --no-i2c0) i2c0=disable ;;
    --static) static=yes ;;
    *) break ;;
    esac
    shift
done
[ $# = 2 ] || {
    echo "usage: patch-base.sh [--static] [--no-i2c0] IN.dtb OUT.dtb" >&2
    exit 2
}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# apply NAME: the overlay of that name, compiled (as the package has it) or source.
apply() {
    overlay=$here/$1.dtbo
    if [ ! -f "$overlay" ]; then
        overlay=$work/$1.dtbo
        dtc -q -@ -W no-avoid_unnecessary_addr_size -I dts -O dtb -o "$overlay" "$here/$1.dtso"
    fi
    fdtoverlay -i "$work/tree.dtb" -o "$work/next.dtb" "$overlay"
    mv "$work/next.dtb" "$work/tree.dtb"
}

# symbol NAME PATH: a name that overlays can use. The node needs a handle, which one that nobody refers to has not;
# the number is far from those that compilers count up.
symbol() {
    fdtput -p -t s "$work/tree.dtb" /__symbols__ "$1" "$2"
    handle=$(fdtget -t x -d none "$work/tree.dtb" "$2" phandle)
    [ "$handle" != none ] || fdtput -t x "$work/tree.dtb" "$2" phandle b100
}

disable() {
    fdtput -t s "$work/tree.dtb" "$1" status disabled
    echo "disabled $1"
}

# Linux stops the clocks of the fabric that nothing claims, and an access to a fabric without a clock is never answered.
keep_clock() {
    enabled=$(fdtget -t x -d 0 "$work/tree.dtb" "$1" fclk-enable)
    fdtput -t x "$work/tree.dtb" "$1" fclk-enable "$(printf %x $((0x$enabled | 1)))"
}

# walk PATH: every node below it. Unit addresses of old trees can begin with 0x.
walk() {
    fdtget -l "$work/tree.dtb" "$1" | while read -r name; do
        path=${1%/}/$name
        case $path in
        /reserved-memory/*) continue ;;
        esac
        case $(fdtget -d "" "$work/tree.dtb" "$path" compatible) in
        fpga-region) symbol fpga_full "$path" ;;
        *arm,cortex-a9-gic*) symbol intc "$path" ;;
        xlnx,ps7-clkc) keep_clock "$path" ;;
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
cp "$1" "$work/tree.dtb"
walk /
apply parallella-base
[ $static = no ] || apply bloomgate-static
cp "$work/tree.dtb" "$2"
