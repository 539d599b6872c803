"""The programs and data that make a bitstream, and where to get them."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DATABASES", "MissingTools", "Toolchain", "find_toolchain"]

#: Family folder of prjxray's database for each device. The xc7z020 is missing: nobody here has tried its data.
DATABASES = {"xc7z010": "zynq7"}

_ORIGIN = {
    "NEXTPNR_XILINX": "nextpnr-xilinx, https://github.com/openXC7/nextpnr-xilinx (tried: commit e22bcf69)",
    "NEXTPNR_CHIPDB": "the chip database {device}.bin, which nextpnr-xilinx makes from prjxray's database",
    "FASM2FRAMES": "fasm2frames, https://github.com/openXC7/prjxray (utils/fasm2frames.py)",
    "XC7FRAMES2BIT": "xc7frames2bit, https://github.com/openXC7/prjxray",
    "PRJXRAY_DB": "the folder {database} of https://github.com/openXC7/prjxray-db",
}


class MissingTools(Exception):
    """Something that the rest of the build needs is not there; the message names it and where to get it."""


@dataclass(frozen=True)
class Toolchain:
    """Everything after synthesis. Commands are lists, since one may start with an interpreter."""

    nextpnr: list[str]
    chipdb: Path
    fasm2frames: list[str]
    frames2bit: list[str]
    #: Family folder of prjxray's database.
    database: Path

    def versions(self) -> dict[str, str]:
        """For the report: what nextpnr says, and checksums of what has no version."""
        told = subprocess.run([*self.nextpnr, "--version"], capture_output=True, text=True, check=False)
        return {
            "nextpnr-xilinx": (told.stdout + told.stderr).strip().splitlines()[0],
            "chip database sha256": _checksum(self.chipdb),
            "fasm2frames sha256": _checksum(Path(self.fasm2frames[-1])),
            "xc7frames2bit sha256": _checksum(Path(self.frames2bit[-1])),
        }


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_toolchain(device: str, part: str, environment: Mapping[str, str] = os.environ) -> Toolchain:
    """The tools, from the variables that docs/bitstream.md lists, else from PATH.

    Raises MissingTools with a line for everything that is not there.
    """
    if device not in DATABASES:
        raise MissingTools(f"there is no data of the {device} to place and route with: only of {', '.join(DATABASES)}")
    missing = []

    def lack(variable: str, why: str) -> None:
        what = _ORIGIN[variable].format(device=device, database=DATABASES[device])
        missing.append(f"{why}: {what}")

    def program(variable: str, *names: str) -> list[str]:
        given = environment.get(variable)
        if given:
            command = shlex.split(given)
            found = shutil.which(command[0], path=environment.get("PATH"))
            if found and Path(command[-1] if len(command) > 1 else found).is_file():
                return [found, *command[1:]]
            lack(variable, f"{variable} is {given!r}, which is no program")
            return []
        for name in names:
            if found := shutil.which(name, path=environment.get("PATH")):
                return [found]
        lack(variable, f"{names[0]} is not on PATH, and {variable} is not set")
        return []

    def data(variable: str, proof: str) -> Path:
        given = environment.get(variable)
        path = Path(given or "").absolute()
        if not given:
            lack(variable, f"{variable} is not set")
        elif not (path / proof).is_file():
            lack(variable, f"{variable} is {given!r}, where there is no {proof or 'such file'}")
        return path

    toolchain = Toolchain(
        nextpnr=program("NEXTPNR_XILINX", "nextpnr-xilinx"),
        chipdb=data("NEXTPNR_CHIPDB", ""),
        fasm2frames=program("FASM2FRAMES", "fasm2frames", "fasm2frames.py"),
        frames2bit=program("XC7FRAMES2BIT", "xc7frames2bit"),
        database=data("PRJXRAY_DB", f"{part}/part.yaml"),
    )
    if missing:
        raise MissingTools("\n".join(missing))
    return toolchain
