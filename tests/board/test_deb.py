"""The Debian package: what is in it, what its scripts do, and that what is installed works under emulation."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bloomgate import __version__
from bloomgate.backends.uio import CONTROL_NODE, slot_node
from bloomgate.libbloomgate import FLAGS
from bloomgate.parameters import Parameters

from tests.board.emulation import ARM, ARM_GCC, ROOT, STRICT, needs

PYTHON = "usr/lib/python3/dist-packages"
TRIPLET = "arm-linux-gnueabihf"
GROUPS = [CONTROL_NODE, *map(slot_node, range(Parameters().slots))]


def run(*command, **options):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120, check=True, **options
    ).stdout


def build(folder):
    return Path(run(sys.executable, ROOT / "packaging" / "build_deb.py", "--output", folder).splitlines()[-1])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    needs("dpkg-deb", "dtc", ARM_GCC)
    return build(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def unpacked(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    run("dpkg-deb", "--raw-extract", package, folder)
    return folder


def fields(package):
    return dict(line.split(": ", 1) for line in run("dpkg-deb", "--field", package).splitlines() if line[0] != " ")


def test_control(package):
    control = fields(package)
    assert (control["Package"], control["Version"], control["Architecture"]) == ("bloomgate", __version__, "armhf")
    assert "python3-cffi" in control["Depends"]
    assert 100 < int(control["Installed-Size"]) < 5000
    assert len(control["Description"]) < 80


def test_the_same_sources_give_the_same_bytes(package, tmp_path):
    assert build(tmp_path).read_bytes() == package.read_bytes()


def test_contents(unpacked):
    """Every Python and C source of the host, no leftovers, owners and modes as Debian wants them."""
    source = ROOT / "host" / "bloomgate"
    for path in source.rglob("*"):
        if path.suffix in (".py", ".c", ".h") and "__pycache__" not in path.parts:
            assert (unpacked / PYTHON / "bloomgate" / path.relative_to(source)).read_bytes() == path.read_bytes()
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*")}
    assert names >= {
        "usr/bin/bloomgate",
        "usr/include/bloomgate.h",
        "usr/include/bloomgate_registers.h",
        "usr/lib/udev/rules.d/60-bloomgate.rules",
        "usr/lib/systemd/system/bloomgate.service",
        "usr/lib/modprobe.d/bloomgate.conf",
        "usr/lib/modules-load.d/bloomgate.conf",
        "usr/share/bloomgate/bloomgate.dtbo",
        "usr/share/bloomgate/bloomgate-static.dtbo",
        "usr/share/bloomgate/parallella-base.dtbo",
        "usr/share/bloomgate/patch-base.sh",
        "usr/share/doc/bloomgate/board.md",
        "usr/share/doc/bloomgate/copyright",
        "usr/share/doc/bloomgate/changelog.gz",
        "usr/share/man/man1/bloomgate.1.gz",
    }
    assert not [name for name in names if "__pycache__" in name or "_soft_core" in name]
    executables = {"usr/bin/bloomgate", "usr/share/bloomgate/patch-base.sh", *map("DEBIAN/{}".format, SCRIPTS)}
    for path in unpacked.rglob("*"):
        mode = path.lstat().st_mode & 0o7777
        if path.is_dir():
            assert mode == 0o755, path
        elif not path.is_symlink():
            assert mode == (0o755 if str(path.relative_to(unpacked)) in executables else 0o644), path


def test_lintian(package):
    """Debian's own judgement, where it is installed."""
    if shutil.which("lintian") is None:
        pytest.skip("no lintian: apt-get install lintian")
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", str(package)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_everything_belongs_to_root(package):
    assert {line.split()[1] for line in run("dpkg-deb", "--contents", package).splitlines()} == {"root/root"}


def test_checksums(unpacked):
    listed = dict(reversed(line.split("  ")) for line in (unpacked / "DEBIAN/md5sums").read_text().splitlines())
    files = [path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink()]
    files = [path for path in files if "DEBIAN" not in path.parts]
    assert listed == {str(path.relative_to(unpacked)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


SCRIPTS = ("postinst", "prerm", "postrm")


@pytest.mark.parametrize("name", [*SCRIPTS, "../usr/share/bloomgate/patch-base.sh"])
def test_scripts_parse(unpacked, name):
    run("sh", "-n", unpacked / "DEBIAN" / name)


def test_udev_rule_gives_a_node_to_the_group_of_its_name():
    rules = (ROOT / "packaging" / "60-bloomgate.rules").read_text()
    (rule,) = [line for line in rules.splitlines() if line.startswith('SUBSYSTEM=="uio"')]
    assert 'ATTR{name}=="bloomgate-*"' in rule
    assert 'GROUP="$attr{name}"' in rule
    assert 'MODE="0660"' in rule


def test_unit(unpacked):
    """Its programs are in the package; systemd itself takes it where it is at hand."""
    unit = unpacked / "usr/lib/systemd/system/bloomgate.service"
    text = unit.read_text()
    assert "exec /usr/bin/bloomgate load $design" in text
    assert "RuntimeDirectory=bloomgate\n" in text
    if shutil.which("systemd-analyze"):
        result = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Unknown" not in result.stderr


def test_installation(package, tmp_path):
    """By dpkg, into another root; its script makes the groups there. Then it is removed without a trace but these."""
    if os.getuid() != 0 or shutil.which("groupadd") is None:
        pytest.skip("dpkg installs as root only, with groupadd: run the tests as root, apt-get install passwd")
    root = tmp_path / "root"
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log", "etc"):
        (root / folder).mkdir(parents=True)
    for name in ("var/lib/dpkg/status", "var/lib/dpkg/available", "etc/group", "etc/gshadow", "etc/passwd"):
        (root / name).touch()
    options = ["--root", root, "--force-architecture", "--force-depends", "--force-script-chrootless"]
    run("dpkg", *options, "--install", package)
    groups = [line.split(":")[0] for line in (root / "etc/group").read_text().splitlines()]
    assert sorted(groups) == sorted(GROUPS)
    assert (root / "usr/bin/bloomgate").exists()
    # Again, as an upgrade does.
    run("dpkg", *options, "--install", package)
    run("dpkg", *options, "--purge", "bloomgate")
    assert not (root / "usr/bin/bloomgate").exists()
    assert not list(root.glob("usr/**/*bloomgate*"))


def test_the_library_is_for_the_board(unpacked):
    """32-bit ARM with hardware floating point, and nothing newer of the C library than the package says."""
    library = unpacked / "usr" / "lib" / TRIPLET / "libbloomgate.so.0"
    header = run(f"{TRIPLET}-readelf", "-h", "-A", library)
    assert "Machine:                           ARM" in header
    assert "Tag_ABI_VFP_args: VFP registers" in header
    assert "libbloomgate.so.0" in run(f"{TRIPLET}-readelf", "-d", library)
    wanted = re.findall(r"GLIBC_([0-9.]+)", run(f"{TRIPLET}-readelf", "-V", library))
    promised = re.search(r"libc6 \(>= ([0-9.]+)\)", (unpacked / "DEBIAN/control").read_text()).group(1)
    assert max(tuple(map(int, version.split("."))) for version in wanted) <= tuple(map(int, promised.split(".")))


def test_a_program_against_the_installed_library(unpacked, tmp_path, board):
    """Headers and library of the package, and nothing of the source tree; run against the gateware."""
    ARM.require()
    program = tmp_path / "commit"
    source = unpacked / "usr/share/doc/bloomgate/examples/commit.c"
    flags = [flag for flag in FLAGS if flag not in ("-fPIC", "-shared")]
    library = unpacked / "usr" / "lib" / TRIPLET
    command = [ARM_GCC, *flags, *STRICT, f"-I{unpacked}/usr/include", str(source), f"-L{library}", "-lbloomgate"]
    run(*command, "-o", program)
    shim = ARM.shim(tmp_path / "shim.so")
    result = board.run(*ARM.command(shim, "-E", f"LD_LIBRARY_PATH={library}", str(program), "2", str(board.root)))
    assert result.returncode == 0, result
    assert "stale: abort, reason 1, key 10" in result.stdout


def test_the_module_of_the_package_builds(unpacked, tmp_path):
    """As DKMS does it, with Debian's headers; every warning is an error."""
    trees = sorted(Path("/usr/src").glob("linux-headers-*-a*64"))
    if not trees or shutil.which("make") is None:
        pytest.skip("no kernel headers: apt-get install linux-headers-amd64 make")
    folder = tmp_path / "source"
    shutil.copytree(unpacked / "usr" / "src" / f"bloomgate-{__version__}", folder)
    configuration = (folder / "dkms.conf").read_text()
    assert f'PACKAGE_VERSION="{__version__}"' in configuration
    command = re.search(r'MAKE\[0\]="(.*)"', configuration).group(1).replace("$kernel_source_dir", str(trees[-1]))
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    run(*command.split(), cwd=folder, env=environment)
    assert (folder / "bloomgate.ko").exists()


def test_the_python_package_of_the_deb_runs(unpacked, tmp_path):
    """With this machine's library in the place of the board's."""
    site = tmp_path / "site"
    shutil.copytree(unpacked / PYTHON, site, symlinks=True)
    (site / "bloomgate/libbloomgate/libbloomgate.so").unlink()
    environment = dict(os.environ, PYTHONPATH=str(site))
    command = [sys.executable, str(unpacked / "usr/bin/bloomgate")]
    assert run(*command, "--version", env=environment).strip() == f"bloomgate {__version__}"
    result = subprocess.run(
        [*command, "info", "--device", f"uio:root={tmp_path}"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "there is no node for that page" in result.stderr
