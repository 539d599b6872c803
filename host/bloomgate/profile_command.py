"""``bloomgate profile``: run a script and report which variables its transactions conflicted on."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
import sys
import traceback
from typing import Any

__all__ = ["add_profile_command"]

_PAGE = "bloomgate-profile.html"


def add_profile_command(commands: Any) -> None:
    """Add it to the commands of an argparse parser."""
    parser = commands.add_parser(
        "profile",
        help="run a Python script and report the conflicts of its transactions",
        description="Run a Python script or module, and report the conflicts of its transactions: which variable, where"
        " it was read and written, and the time that was lost, the most first. As text on standard error, and as a page"
        " with plots. The exit status is the script's.",
    )
    parser.add_argument("--output", metavar="FILE", default=_PAGE, help=f"the page (default: {_PAGE})")
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is a module, as for python -m")
    parser.add_argument("script", metavar="SCRIPT", help="Python file, or module with -m")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script")
    parser.set_defaults(run=_profile)


def _profile(arguments: argparse.Namespace) -> int:
    # Other commands do not need the STM.
    from bloomgate.stm.report import profile, run_script

    script = _file_of(arguments.script) if arguments.module else arguments.script
    for path, mode in ((script, "rb"), (arguments.output, "ab")):
        # What cannot work is refused before a long run.
        open(path, mode).close()
    here = os.getpid()
    with profile() as recorder:
        try:
            run_script(arguments.script, arguments.arguments, module=arguments.module)
            status = 0
        except SystemExit as end:
            status = _exit_status(end)
        except Exception as error:
            # As Python shows it, without who runs the script.
            where = error.__traceback__
            while where is not None and where.tb_frame.f_code.co_filename != script:
                where = where.tb_next
            traceback.print_exception(type(error), error, where or error.__traceback__)
            status = 1
        finally:
            # Also when the script was interrupted.
            # A child that the script has forked comes here, too.
            if os.getpid() == here:
                report = recorder.report()
                with open(arguments.output, "w", encoding="utf-8") as file:
                    file.write(report.as_html())
                sys.stdout.flush()
                print(f"\n{report.as_text()}\npage: {os.path.abspath(arguments.output)}", file=sys.stderr)
    return status


def _file_of(module: str) -> str:
    """What ``python -m`` would run. Raises FileNotFoundError."""
    # As for python -m, however this command was started.
    sys.path[0] = os.getcwd()
    try:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.has_location or spec.origin is None:
        raise FileNotFoundError(errno.ENOENT, "No such module that can be run", module)
    return spec.origin


def _exit_status(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    print(end.code, file=sys.stderr)
    return 1
