"""Builds the Debian package of the host side for armhf: ``make deb``.

Needs dpkg-deb, dtc and arm-linux-gnueabihf-gcc (apt install dpkg device-tree-compiler gcc-arm-linux-gnueabihf
libc6-dev-armhf-cross). The same sources give the same bytes: dates are SOURCE_DATE_EPOCH, by default 1980-01-01.
"""

from __future__ import annotations

import argparse
import datetime
import email.utils
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "host"))

from bloomgate import __version__  # noqa: E402
from bloomgate.backends.uio import CONTROL_NODE, slot_node  # noqa: E402
from bloomgate.libbloomgate import FLAGS, INCLUDE, SOURCES  # noqa: E402
from bloomgate.parameters import Parameters  # noqa: E402

PACKAGING = ROOT / "packaging"
TRIPLET = "arm-linux-gnueabihf"
PYTHON = "usr/lib/python3/dist-packages"
#: 1980-01-01, as in the bitstream build.
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))
SECONDS = 300

COMMAND = """#!/usr/bin/python3
import sys

from bloomgate.cli import main

sys.exit(main())
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=SECONDS)


def put(stage: Path, name: str, data: bytes, mode: int = 0o644) -> None:
    """A file of the package."""
    path = stage / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def compressed(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def changelog() -> bytes:
    """In Debian's format, which leads to the project's own."""
    maintainer = re.search("^Maintainer: (.*)$", (PACKAGING / "debian" / "control").read_text(encoding="utf-8"), re.M)
    assert maintainer is not None
    date = email.utils.format_datetime(datetime.datetime.fromtimestamp(EPOCH, datetime.UTC))
    lines = [f"bloomgate ({__version__}) unstable; urgency=medium", "", "  * See CHANGELOG.md.", ""]
    return "\n".join([*lines, f" -- {maintainer.group(1)}  {date}", ""]).encode()


def put_python(stage: Path) -> None:
    source = ROOT / "host" / "bloomgate"
    for path in sorted(source.rglob("*")):
        if path.suffix in (".py", ".c", ".h", ".typed") and "__pycache__" not in path.parts:
            put(stage, f"{PYTHON}/bloomgate/{path.relative_to(source)}", path.read_bytes())
    put(stage, "usr/bin/bloomgate", COMMAND.encode(), 0o755)


def put_library(stage: Path) -> None:
    """The library, its links, and its headers."""
    folder = stage / "usr" / "lib" / TRIPLET
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"libbloomgate.so.{__version__}"
    linking = ("-Wl,-soname,libbloomgate.so.0", "-Wl,-z,relro,-z,now", "-s", f"-ffile-prefix-map={ROOT}=.")
    run(f"{TRIPLET}-gcc", *FLAGS, *linking, f"-I{INCLUDE}", *map(str, SOURCES), "-o", str(library))
    library.chmod(0o644)
    (folder / "libbloomgate.so.0").symlink_to(library.name)
    (folder / "libbloomgate.so").symlink_to("libbloomgate.so.0")
    beside = stage / PYTHON / "bloomgate" / "libbloomgate" / "libbloomgate.so"
    beside.symlink_to(os.path.relpath(folder / "libbloomgate.so.0", beside.parent))
    put(stage, "usr/include/bloomgate.h", (SOURCES[0].parent / "bloomgate.h").read_bytes())
    for name in ("bloomgate_queues.h", "bloomgate_registers.h", "bloomgate_uapi.h"):
        put(stage, f"usr/include/{name}", (INCLUDE / name).read_bytes())


def put_system(stage: Path) -> None:
    """Device tree, udev, systemd, modules."""
    trees = ROOT / "firmware" / "devicetree"
    for source in sorted(trees.glob("*.dtso")):
        target = stage / "usr" / "share" / "bloomgate" / f"{source.stem}.dtbo"
        target.parent.mkdir(parents=True, exist_ok=True)
        run("dtc", "-q", "-@", "-I", "dts", "-O", "dtb", "-o", str(target), str(source))
        target.chmod(0o644)
    put(stage, "usr/share/bloomgate/patch-base.sh", (trees / "patch-base.sh").read_bytes(), 0o755)
    for name, target in {
        "60-bloomgate.rules": "usr/lib/udev/rules.d/60-bloomgate.rules",
        "bloomgate.service": "usr/lib/systemd/system/bloomgate.service",
        "modprobe.conf": "usr/lib/modprobe.d/bloomgate.conf",
        "modules-load.conf": "usr/lib/modules-load.d/bloomgate.conf",
    }.items():
        put(stage, target, (PACKAGING / name).read_bytes())


def put_module(stage: Path) -> None:
    """The kernel module's source, for DKMS."""
    folder = f"usr/src/bloomgate-{__version__}"
    source = ROOT / "firmware" / "linux"
    for name in ("bloomgate.c", "fabric.h", "Makefile", "compat/stdint.h"):
        put(stage, f"{folder}/{name}", (source / name).read_bytes())
    for name in ("bloomgate_queues.h", "bloomgate_registers.h", "bloomgate_uapi.h"):
        put(stage, f"{folder}/{name}", (INCLUDE / name).read_bytes())
    put(stage, f"{folder}/dkms.conf", (source / "dkms.conf").read_bytes().replace(b"@VERSION@", __version__.encode()))


def put_documents(stage: Path) -> None:
    folder = "usr/share/doc/bloomgate"
    put(stage, f"{folder}/copyright", (ROOT / "LICENSE").read_bytes())
    put(stage, f"{folder}/changelog.gz", compressed(changelog()))
    put(stage, f"{folder}/CHANGELOG.md", (ROOT / "CHANGELOG.md").read_bytes())
    put(stage, "usr/share/lintian/overrides/bloomgate", (PACKAGING / "debian" / "lintian-overrides").read_bytes())
    for page in sorted((ROOT / "docs").glob("*.md")):
        put(stage, f"{folder}/{page.name}", page.read_bytes())
    for source in sorted((ROOT / "firmware" / "examples").glob("*.c")):
        put(stage, f"{folder}/examples/{source.name}", source.read_bytes())
    put(stage, "usr/share/man/man1/bloomgate.1.gz", compressed((PACKAGING / "bloomgate.1").read_bytes()))


def put_control(stage: Path) -> None:
    """What dpkg reads."""
    files = sorted(path for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(-(-path.stat().st_size // 1024) for path in files)
    groups = " ".join([CONTROL_NODE, *map(slot_node, range(Parameters().slots))])
    for name in ("control", "postinst", "prerm", "postrm"):
        text = (PACKAGING / "debian" / name).read_text(encoding="utf-8")
        for word, value in {"VERSION": __version__, "SIZE": str(size), "GROUPS": groups}.items():
            text = text.replace(f"@{word}@", value)
        assert not re.search("@[A-Z]+@", text), name
        put(stage, f"DEBIAN/{name}", text.encode(), 0o644 if name == "control" else 0o755)
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(stage)}\n" for path in files)
    put(stage, "DEBIAN/md5sums", sums.encode())
    put(stage, "DEBIAN/triggers", b"activate-noawait ldconfig\n")
    put(stage, "DEBIAN/shlibs", b"libbloomgate 0 bloomgate\n")


def build(output: Path) -> Path:
    """The package, in the folder ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"bloomgate_{__version__}_armhf.deb"
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder, "stage")
        stage.mkdir(mode=0o755)
        for step in (put_python, put_library, put_system, put_module, put_documents, put_control):
            step(stage)
        for path in (stage, *stage.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
        environment = dict(os.environ, SOURCE_DATE_EPOCH=str(EPOCH))
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(stage), str(target)]
        subprocess.run(command, check=True, timeout=SECONDS, env=environment, stdout=subprocess.DEVNULL)
    return target


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Build the Debian package of the host side for armhf.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "deb", help="folder (default: build/deb)")
    output = parser.parse_args(arguments).output
    for tool, package in {
        "dpkg-deb": "dpkg",
        "dtc": "device-tree-compiler",
        f"{TRIPLET}-gcc": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    }.items():
        if shutil.which(tool) is None:
            print(f"make deb: {tool} is not there: apt-get install {package}", file=sys.stderr)
            return 1
    print(build(output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
