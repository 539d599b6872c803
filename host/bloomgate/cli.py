"""The command line ``bloomgate``.

Exit status: 0 when everything went well; 1 when a device was found wanting (a missed conflict, a wrong verdict, a
failed self-test); 2 when the command could not be carried out, with one line on standard error that says why; 130 on
Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Optional

from bloomgate import __version__
from bloomgate.bitstream import BitstreamError, read_bitstream
from bloomgate.cli_board import add_commands as add_board_commands
from bloomgate.console import Progress, Table, number
from bloomgate.demo import (
    CLIENTS,
    TRANSACTIONS,
    decider,
    device_dict,
    geometry,
    replay_file,
    replay_table,
    run_demo,
    verdict_sentence,
)
from bloomgate.errors import BloomgateError
from bloomgate.plot import plot_replays, require_plot
from bloomgate.profile_command import add_profile_command
from bloomgate.replay import MAX_CLIENTS
from bloomgate.selftest import SelftestFailure, selftest
from bloomgate.trace import TraceReader, summarise, write_trace
from bloomgate.urls import DEFAULT_URL, ENVIRONMENT, open_device, schemes
from bloomgate.workloads import DEFAULT_TRANSACTIONS, WORKLOADS, generate

__all__ = ["main"]

EXIT_OK, EXIT_WRONG, EXIT_FAULT, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run a command; ``arguments`` without the program's name, by default those of the process. The exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of a pipe has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAULT
    except SelftestFailure as error:
        return _fail(str(error), EXIT_WRONG)
    except BloomgateError as error:
        return _fail(str(error), EXIT_FAULT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", EXIT_FAULT)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)


def _fail(message: str, status: int) -> int:
    print(f"bloomgate: error: {' '.join(message.split())}", file=sys.stderr)
    return status


# The commands.


def _info(arguments: argparse.Namespace) -> int:
    with open_device(arguments.device) as device:
        info, clock = device.info(), device.clock_cycles is not None
    if arguments.json:
        _print_json(device_dict(info, clock))
        return EXIT_OK
    rows = {
        "backend": f"{info.backend}:",
        "description": info.description,
        "interface": "version " + ".".join(map(str, info.version)),
        "host": f"version {__version__}",
        "clock": "yes" if clock else "none",
        "largest request": f"{info.max_request_keys} keys, all sets together",
    }
    rows.update((name, str(value)) for name, value in dataclasses.asdict(info.parameters).items())
    rows["hash_seed"] = f"{info.parameters.hash_seed:#010x}"
    for name, value in rows.items():
        print(f"{name:16} {value}")
    return EXIT_OK


def _selftest(arguments: argparse.Namespace) -> int:
    bar = Progress("selftest")
    with open_device(arguments.device) as device:
        try:
            report = selftest(
                device,
                seed=arguments.seed,
                rounds=arguments.rounds,
                progress=lambda done, rounds: bar.update(done / rounds),
            )
        finally:
            bar.clear()
        info, clock = device.info(), device.clock_cycles is not None
    if arguments.json:
        _print_json({"device": device_dict(info, clock), "passed": True, **dataclasses.asdict(report)})
        return EXIT_OK
    print(
        f"passed: {number(report.requests)} requests with {number(report.keys)} keys were decided by {decider(info)}"
        f" ({info.description}) exactly as by the model (seed {report.seed})"
    )
    for title, counts in (("verdicts", report.verdicts), ("other operations", report.operations)):
        print(f"{title}: " + ", ".join(f"{name} {number(count)}" for name, count in counts.items()))
    print(f"false aborts: {number(report.false_aborts)}, epochs ended: {number(report.epoch_steps)}")
    return EXIT_OK


def _replay(arguments: argparse.Namespace) -> int:
    if arguments.plot:
        require_plot(arguments.plot)
    names = _short_names(arguments.file)
    for path in arguments.file:
        if os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path):  # a pipe can be read only once
            TraceReader(path).close()  # fails before a simulator is compiled for nothing
    reports = []
    with open_device(arguments.device) as device:
        info, clock = device.info(), device.clock_cycles is not None
        table, row = replay_table(names, clock)
        if not arguments.json:
            print(f"{info.description}: {geometry(info)}")
            print(f"{arguments.clients} clients in flight\n\n{table.header()}", flush=True)
        for path, name in zip(arguments.file, names):
            report = replay_file(device, path, name=name, clients=arguments.clients, limit=arguments.limit)
            reports.append(report)
            if not arguments.json:
                print(row(report), flush=True)
    if arguments.json:
        _print_json({"device": device_dict(info, clock), "replays": [report.to_dict() for report in reports]})
    else:
        print("\n" + verdict_sentence(reports, decider(info)))
    if arguments.plot:
        plot_replays(
            reports,
            arguments.plot,
            title=f"bloomgate: commits decided by {decider(info)}, compared with the exact oracle",
            subtitle=f"{info.description}; {geometry(info)}; {arguments.clients} clients in flight",
        )
    for report in reports:
        for fault in report.faults:
            print(f"{report.name}: {fault}", file=sys.stderr)
    return EXIT_OK if all(report.ok for report in reports) else EXIT_WRONG


def _short_names(paths: Sequence[str]) -> list[str]:
    """File names without folder and endings, where that leaves them different."""
    names = []
    for path in paths:
        name = os.path.basename(path)
        for ending in (".xz", ".trace"):
            if name.endswith(ending) and name != ending:
                name = name[: -len(ending)]
        names.append(name)
    return names if len(set(names)) == len(names) else list(paths)


def _trace_generate(arguments: argparse.Namespace) -> int:
    read_mix = arguments.read_mix
    if arguments.write_mix is not None:
        read_mix = 1 - arguments.write_mix
    records = generate(
        arguments.workload,
        transactions=arguments.transactions,
        size=arguments.size,
        contention=arguments.contention,
        read_mix=read_mix,
        seed=arguments.seed,
    )
    bar = Progress(f"generate {arguments.workload}")

    def watched() -> Any:
        for done, record in enumerate(records, 1):
            yield record
            bar.update(done / arguments.transactions)

    try:
        count = write_trace(arguments.output, watched())
    except OSError as error:
        # Its file name may be that of a temporary file.
        raise BloomgateError(f"{arguments.output}: cannot be written: {error.strerror or error}") from error
    finally:
        bar.clear()
    print(f"{arguments.output}: {count:,} transactions of {arguments.workload}, seed {arguments.seed}")
    return EXIT_OK


def _trace_info(arguments: argparse.Namespace) -> int:
    names = _short_names(arguments.file)
    columns = [
        "transactions",
        "reads\nmean",
        "reads\np99",
        "writes\nmean",
        "writes\np99",
        "largest",
        "words",
        "distinct",
    ]
    table = Table("trace", names, columns)
    summaries: list[dict[str, Any]] = []
    for path, name in zip(arguments.file, names):
        bar = Progress(f"read {name}")
        with TraceReader(path) as reader:

            def watched(reader: TraceReader = reader, bar: Progress = bar) -> Any:
                for record in reader:
                    yield record
                    bar.update(reader.fraction)

            try:
                summary = summarise(watched())
            finally:
                bar.clear()
        if not arguments.json:
            if not summaries:
                print(table.header())
            cells = [
                number(summary.transactions),
                number(summary.reads_mean, 1),
                number(summary.reads_p99),
                number(summary.writes_mean, 1),
                number(summary.writes_p99),
                number(summary.largest),
                number(summary.words),
                number(summary.distinct),
            ]
            print(table.row(name, cells))
        summaries.append({"name": name, "path": path, **dataclasses.asdict(summary)})
    if arguments.json:
        _print_json({"traces": summaries})
    return EXIT_OK


def _bitstream_info(arguments: argparse.Namespace) -> int:
    with open(arguments.file, "rb") as file:
        data = file.read()
    try:
        info = read_bitstream(data)
    except BitstreamError as error:
        raise BitstreamError(f"{arguments.file}: {error}") from error
    if arguments.json:
        _print_json({**dataclasses.asdict(info), "idcode": f"{info.idcode:#010x}"})
        return EXIT_OK
    rows = {"file": f".{info.container}, {number(info.data_bytes)} bytes of configuration data"}
    if info.header is not None:
        rows["design"] = info.header.design
        rows["part"] = info.header.part
        rows["date"] = f"{info.header.date} {info.header.time}"
    rows["IDCODE"] = f"{info.idcode:#010x}, {info.part}"
    rows["sync word"] = f"at byte {info.sync_offset} of the data"
    rows["frames"] = number(info.frames)
    rows["CRC"] = "none: the device loads the data unchecked" if info.crc == "none" else info.crc
    for name, value in rows.items():
        print(f"{name:16} {value}")
    return EXIT_OK


def _demo(arguments: argparse.Namespace) -> int:
    with open_device(arguments.device) as device:
        reports = run_demo(device, arguments.output, transactions=arguments.transactions, say=_say)
    return EXIT_OK if all(report.ok for report in reports) else EXIT_WRONG


def _serve(arguments: argparse.Namespace) -> int:
    from bloomgate.serve import serve

    url = arguments.device or os.environ.get(ENVIRONMENT) or DEFAULT_URL
    if arguments.slots is not None:
        url += f"{'&' if '?' in url else '?'}slots={arguments.slots}"
    with open_device(url) as device:
        serve(device, arguments.name)
    return EXIT_OK


def _say(line: str) -> None:
    print(line, flush=True)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


# The arguments.


def _integer(low: int, high: Optional[int] = None) -> Any:
    """A type for argparse: an integer in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be an integer, not {text!r}") from None
        if value < low or (high is not None and value > high):
            allowed = f"at least {low}" if high is None else f"between {low} and {high}"
            raise argparse.ArgumentTypeError(f"must be {allowed}, not {value}")
        return value

    return parse


def _share(text: str) -> float:
    """A type for argparse: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bloomgate",
        description="Commit validation of software transactional memory, on an FPGA or a model of one.",
        epilog="Exit status: 0 success, 1 a device was found wanting, 2 the command could not be carried out.",
    )
    parser.add_argument("--version", action="version", version=f"bloomgate {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    device = argparse.ArgumentParser(add_help=False)
    device.add_argument(
        "--device",
        metavar="URL",
        help=f"one of {', '.join(scheme + ':' for scheme in schemes())} with parameters like ?K=2&D=256"
        f" (default: ${ENVIRONMENT}, else {DEFAULT_URL})",
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON instead of text")

    info = commands.add_parser("info", parents=[device, as_json], help="what a device is")
    info.set_defaults(run=_info)

    test = commands.add_parser(
        "selftest",
        parents=[device, as_json],
        help="compare a device with the model",
        description="Random requests and faults on a device and on the model; every answer must be the same.",
    )
    test.add_argument("--rounds", type=_integer(1), default=2000, metavar="N", help="operations (default: 2000)")
    test.add_argument("--seed", type=_integer(0), metavar="S", help="repeats a self-test (default: a new one)")
    test.set_defaults(run=_selftest)

    again = commands.add_parser(
        "replay",
        parents=[device, as_json],
        help="replay traces and compare every verdict with the exact oracle",
        description="Replay transaction traces, plain or .xz, with several clients in flight, and compare every verdict"
        " with the exact oracle. Exit status 1 when the device missed a conflict or gave a wrong verdict.",
    )
    again.add_argument("file", nargs="+", metavar="FILE", help="trace file")
    again.add_argument(
        "--clients",
        type=_integer(1, MAX_CLIENTS),
        default=CLIENTS,
        metavar="N",
        help=f"transactions in flight (default: {CLIENTS})",
    )
    again.add_argument("--limit", type=_integer(1), metavar="N", help="only the first N transactions of each file")
    again.add_argument("--plot", metavar="FILE", help="also draw the result (.png, .svg or .pdf; needs matplotlib)")
    again.set_defaults(run=_replay)

    trace = commands.add_parser("trace", help="make and look at trace files")
    traces = trace.add_subparsers(metavar="COMMAND", required=True)
    make = traces.add_parser(
        "generate",
        help="make a trace of an own workload",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make a trace. The same parameters give the same trace. Workloads:\n\n"
        + "\n".join(
            f"  {w.name:9} {w.summary}\n"
            f"            size: {w.size_of}, {w.smallest} to {w.largest} (default: {w.size});"
            f" contention {w.contention}, read mix {w.read_mix}"
            for w in WORKLOADS.values()
        ),
    )
    make.add_argument("workload", choices=list(WORKLOADS), metavar="WORKLOAD", help=", ".join(WORKLOADS))
    make.add_argument("--output", required=True, metavar="FILE", help="a name that ends in .xz compresses it")
    make.add_argument(
        "--transactions",
        type=_integer(1),
        default=DEFAULT_TRANSACTIONS,
        metavar="N",
        help=f"(default: {DEFAULT_TRANSACTIONS})",
    )
    make.add_argument("--size", type=_integer(1), metavar="N", help="of the data structure")
    make.add_argument(
        "--contention", type=_share, metavar="X", help="0 to 1: probability of choosing among the hottest hundredth"
    )
    mix = make.add_mutually_exclusive_group()
    mix.add_argument("--read-mix", type=_share, metavar="X", help="0 to 1: share of transactions that only read")
    mix.add_argument("--write-mix", type=_share, metavar="X", help="the same as --read-mix with 1 - X")
    make.add_argument("--seed", type=_integer(0), default=1, metavar="S", help="of the random numbers (default: 1)")
    make.set_defaults(run=_trace_generate)
    look = traces.add_parser("info", parents=[as_json], help="the size of traces")
    look.add_argument("file", nargs="+", metavar="FILE", help="trace file")
    look.set_defaults(run=_trace_info)

    bitstream = commands.add_parser("bitstream", help="look at bitstream files")
    bitstreams = bitstream.add_subparsers(metavar="COMMAND", required=True)
    inspect = bitstreams.add_parser(
        "info",
        parents=[as_json],
        help="part, date and size of a bitstream",
        description="Describe a .bit or .bit.bin file of a Zynq-7010 or Zynq-7020. Exit status 2 when the file is"
        " damaged, cut short, or for another part.",
    )
    inspect.add_argument("file", metavar="FILE", help="bitstream file")
    inspect.set_defaults(run=_bitstream_info)

    add_board_commands(commands, device, as_json)

    serving = commands.add_parser(
        "serve",
        parents=[device],
        help="decide for other processes, which open shm:NAME",
        description="Serve a device to other processes of this machine over shared memory. They open shm:NAME."
        " Runs until SIGINT or SIGTERM. After a crash start it again: the clients wait.",
    )
    serving.add_argument("--name", required=True, metavar="NAME", help="of the segment")
    serving.add_argument("--slots", type=_integer(1, 32), metavar="N", help="clients at a time (default: the device's)")
    serving.set_defaults(run=_serve)

    add_profile_command(commands)

    demo = commands.add_parser(
        "demo",
        help="replay every workload on the simulated gateware: a table and a plot",
        description="Generate a trace of every workload, replay them all and compare with the exact oracle.",
    )
    demo.add_argument("--device", default="sim:", metavar="URL", help="(default: sim:)")
    demo.add_argument(
        "--output", default=os.path.join("build", "demo"), metavar="DIR", help="folder for files (default: build/demo)"
    )
    demo.add_argument(
        "--transactions",
        type=_integer(1),
        default=TRANSACTIONS,
        metavar="N",
        help=f"of each workload (default: {TRANSACTIONS})",
    )
    demo.set_defaults(run=_demo)
    return parser
