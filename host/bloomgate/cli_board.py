"""The commands that are for a board: ``bloomgate load`` and ``bloomgate boardtest``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

from bloomgate.bitstream import PARTS
from bloomgate.boardtest import boardtest, report_text
from bloomgate.console import Progress
from bloomgate.load import DEFAULT_OVERLAY, WAYS, Loaded, load, look
from bloomgate.system import System
from bloomgate.urls import open_device

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


def _boardtest(arguments: argparse.Namespace) -> int:
    bar = Progress("boardtest")
    with open_device(arguments.device) as device:
        try:
            report = boardtest(
                device,
                duration=arguments.duration,
                seed=arguments.seed,
                system=System(arguments.root),
                progress=bar.update,
            )
        finally:
            bar.clear()
    document = json.dumps({"passed": report.passed, **dataclasses.asdict(report)}, indent=2)
    print(document if arguments.json else report_text(report), end="\n" if arguments.json else "")
    if arguments.output:
        for ending, text in ((".json", document + "\n"), (".txt", report_text(report))):
            Path(arguments.output).with_suffix(ending).write_text(text, encoding="utf-8")
    return 0 if report.passed else 1


def _seconds(text: str) -> float:
    """A type for argparse: seconds, or with m or h behind them minutes or hours."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a time like 30, 10m or 8h, not {text!r}")
    return float(match.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600}[match.group(2)]


def add_commands(commands: Any, device: argparse.ArgumentParser, as_json: argparse.ArgumentParser) -> None:
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

    test = commands.add_parser(
        "boardtest",
        parents=[device, as_json],
        help="test a board, or any device, and write a report to send back",
        description="Identification, registers, every verdict against the reference STM, interrupt, queue pairs,"
        " throughput, and a soak. Nobody else may use the device meanwhile. Exit status 1 when a section fails.",
    )
    test.add_argument(
        "--duration", type=_seconds, default=10.0, metavar="T", help="of the soak: 30, 10m, 8h (default: 10 seconds)"
    )
    test.add_argument("--seed", type=int, metavar="S", help="repeats the random requests (default: a new one)")
    test.add_argument("--output", metavar="FILE", help="write the report to FILE.json and FILE.txt too")
    test.add_argument("--root", default="", metavar="DIR", help="put before every path of the system, for tests")
    test.set_defaults(run=_boardtest)
