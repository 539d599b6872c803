"""The commands that are for a board: ``bloomgate load``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from bloomgate.bitstream import PARTS
from bloomgate.load import DEFAULT_OVERLAY, WAYS, Loaded, load, look
from bloomgate.system import System

__all__ = ["add_commands"]


def _load(arguments: argparse.Namespace) -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    system = System(arguments.root)
    if arguments.file is None:
        version, parameters = look(system=system, say=say)
        loaded = Loaded("look", arguments.part or "", version, parameters)
    else:
        loaded = load(
            Path(arguments.file),
            system=system,
            part=arguments.part,
            overlay=Path(arguments.overlay) if arguments.overlay else None,
            way=arguments.way,
            say=say,
        )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(loaded), indent=2))
    elif loaded.version is not None:
        print(f"version {'.'.join(map(str, loaded.version))} of the register interface, {loaded.parameters}")
    return 0


def add_commands(commands: Any, as_json: argparse.ArgumentParser) -> None:
    """Add the commands to the command line's parser."""
    command = commands.add_parser(
        "load",
        parents=[as_json],
        help="load a bitstream into the fabric of this board",
        description="Load a .bit or .bit.bin file: by a device-tree overlay, fpga_manager, /dev/xdevcfg, or the boot"
        " partition of the SD card, whichever this system has. The file and the part are checked before the hardware"
        " is touched; a co-processor that runs is brought to rest; its version is checked afterwards. Needs root."
        " Without a file it only looks at the design that is there, and says so to the owners of single slots.",
    )
    command.add_argument("file", metavar="FILE", nargs="?", help="bitstream file")
    command.add_argument("--part", choices=sorted(PARTS.values()), help="where the system does not say what it is")
    command.add_argument("--way", choices=WAYS, help="(default: the first that this system has)")
    command.add_argument(
        "--overlay", metavar="DTBO", help=f"compiled device-tree overlay (default: /{DEFAULT_OVERLAY})"
    )
    command.add_argument("--root", default="", metavar="DIR", help="put before every path of the system, for tests")
    command.set_defaults(run=_load)
