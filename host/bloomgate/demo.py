"""The demonstration: every generated workload, decided by the gateware and compared with the exact oracle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from bloomgate.console import Progress, Table, number
from bloomgate.device import Device, DeviceInfo
from bloomgate.plot import PlotError, plot_replays, require_plot
from bloomgate.replay import ReplayReport, replay
from bloomgate.trace import TraceReader, write_trace
from bloomgate.workloads import WORKLOADS, generate

__all__ = ["CLIENTS", "TRANSACTIONS", "decider", "device_dict", "geometry", "replay_file", "replay_table", "run_demo"]

CLIENTS = 8
#: Transactions of each workload; all of them are about a minute of simulation.
TRANSACTIONS = 10_000


def decider(info: DeviceInfo) -> str:
    """What decides, in words that claim no more than what it is."""
    return {"sim": "the simulated gateware", "soft": "the C model", "model": "the Python model"}.get(
        info.backend, f"the {info.backend}: device"
    )


def geometry(info: DeviceInfo) -> str:
    """The parameters in one line."""
    p = info.parameters
    return (
        f"K = {p.K} tables of D = {p.D} entries, {p.timestamp_bits}-bit timestamps, {p.key_bits}-bit keys,"
        f" {p.slots} slots of {p.aperture_depth} keys"
    )


def device_dict(info: DeviceInfo, clock: bool) -> dict[str, Any]:
    """The device, for JSON."""
    p = info.parameters
    names = ("K", "D", "timestamp_bits", "key_bits", "slots", "aperture_depth", "hash_seed")
    return {
        "backend": info.backend,
        "version": ".".join(map(str, info.version)),
        "parameters": {name: getattr(p, name) for name in names},
        "max_request_keys": info.max_request_keys,
        "description": info.description,
        "clock": clock,
    }


def replay_file(
    device: Device, path: Union[str, os.PathLike[str]], *, name: str, clients: int, limit: Optional[int] = None
) -> ReplayReport:
    """Replay a trace file with a progress bar."""
    bar = Progress(f"replay {name}")
    with TraceReader(path) as reader:

        def show(commits: int) -> None:
            done = reader.fraction if limit is None else max(reader.fraction, commits / limit)
            bar.update(done, f"{commits:,} transactions")

        try:
            return replay(device, reader, name=name, clients=clients, limit=limit, progress=show)
        finally:
            bar.clear()


def replay_table(names: Sequence[str], clock: bool) -> tuple[Table, Callable[[ReplayReport], str]]:
    """A table of replays, and what makes the row of one."""
    columns = ["commits", "attempts", "true\naborts", "false\naborts", "other\naborts", "missed\nconflicts", "keys"]
    if clock:
        columns += ["clock cycles\nper key", "in service,\nper key", "clocks\nper second"]
    table = Table("trace", names, columns)

    def row(report: ReplayReport) -> str:
        counts = (
            report.commits,
            report.attempts,
            report.true_aborts,
            report.false_aborts,
            sum(report.other_aborts.values()),
            report.missed,
            report.keys,
        )
        cells = [number(count) for count in counts]
        if clock:
            rate = None if report.clock_cycles is None else report.clock_cycles / max(report.seconds, 1e-9)
            cells += [number(report.cycles_per_key, 2), number(report.busy_cycles_per_key, 2), number(rate)]
        return table.row(report.name, cells)

    return table, row


def run_demo(
    device: Device,
    output: Union[str, os.PathLike[str]],
    *,
    transactions: int = TRANSACTIONS,
    say: Callable[[str], None] = print,
) -> list[ReplayReport]:
    """Generate, replay, compare, and write the traces, ``demo.json`` and ``demo.png`` to the folder ``output``.

    ``say`` is called with each line of text. Errors as of :func:`~bloomgate.replay.replay`; OSError when a file cannot
    be written. Without matplotlib there is no plot, and a line says so.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    plot: Optional[Path] = folder / "demo.png"
    try:
        require_plot(folder / "demo.png")
    except PlotError as error:
        say(f"No plot will be written: {error}")
        plot = None
    info = device.info()
    clock = device.clock_cycles is not None
    say(f"{info.description}: {geometry(info)}")
    say(f"{CLIENTS} clients in flight, {transactions:,} transactions of each workload:")
    for workload in WORKLOADS.values():
        say(f"  {workload.name:9} {workload.summary}")
    say("")
    table, row = replay_table(list(WORKLOADS), clock)
    say(table.header())
    reports = []
    for name in WORKLOADS:
        trace = folder / f"{name}.trace.xz"
        write_trace(trace, generate(name, transactions=transactions))
        reports.append(replay_file(device, trace, name=name, clients=CLIENTS))
        say(row(reports[-1]))
    say("")

    document = {"device": device_dict(info, clock), "replays": [report.to_dict() for report in reports]}
    (folder / "demo.json").write_text(json.dumps(document, indent=2) + "\n")
    if plot is not None:
        who = decider(info)
        plot_replays(
            reports,
            plot,
            title=f"bloomgate: commits decided by {who}, compared with the exact oracle",
            subtitle=f"{info.description}; {geometry(info)}; {CLIENTS} clients in flight",
        )
    for report in reports:
        for fault in report.faults:
            say(f"{report.name}: {fault}")
    say(verdict_sentence(reports, decider(info)))
    say(f"Plot: {plot or 'none, see above'}   figures: {folder / 'demo.json'}   traces: {folder}{os.sep}*.trace.xz")
    return reports


def verdict_sentence(reports: Sequence[ReplayReport], who: str) -> str:
    """What the replays have shown."""
    agreeing, compared = sum(r.agreeing for r in reports), sum(r.compared for r in reports)
    false_aborts, missed = sum(r.false_aborts for r in reports), sum(r.missed for r in reports)
    other, wrong = sum(sum(r.other_aborts.values()) for r in reports), sum(r.wrong for r in reports)
    sentence = (
        f"{agreeing:,} of {compared:,} verdicts decided by {who} agree with the exact oracle;"
        f" {false_aborts:,} false aborts, {missed:,} missed conflicts."
    )
    if other:
        sentence += f" {other:,} more aborts had reasons that the oracle has no opinion on (rollover, ...)."
    if wrong:
        sentence += f" {wrong:,} VERDICTS WERE WRONG."
    if not all(r.complete for r in reports):
        sentence += " THE REPLAY WAS NOT COMPLETED."
    return sentence
