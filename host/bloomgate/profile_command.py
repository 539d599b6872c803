"""``bloomgate profile``: run a script and report which variables its transactions conflicted on."""

from __future__ import annotations

import argparse
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
        description="Run a Python script, and report the conflicts of its transactions: which variable, where it was"
        " read and written, and the time that was lost, the most first. As text on standard error, and as a page with"
        " plots. The exit status is the script's.",
    )
    parser.add_argument("--output", metavar="FILE", default=_PAGE, help=f"the page (default: {_PAGE})")
    parser.add_argument("script", metavar="SCRIPT", help="Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script")
    parser.set_defaults(run=_profile)


def _profile(arguments: argparse.Namespace) -> int:
    # Other commands do not need the STM.
    from bloomgate.stm.report import profile, run_script

    for path, mode in ((arguments.script, "rb"), (arguments.output, "ab")):
        # What cannot work is refused before a long run.
        open(path, mode).close()
    here = os.getpid()
    with profile() as recorder:
        try:
            run_script(arguments.script, arguments.arguments)
            status = 0
        except SystemExit as end:
            status = _exit_status(end)
        except Exception as error:
            # As Python shows it, without who runs the script.
            where = error.__traceback__
            while where is not None and where.tb_frame.f_code.co_filename != arguments.script:
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


def _exit_status(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    print(end.code, file=sys.stderr)
    return 1
