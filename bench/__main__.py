"""``python -m bench [NAME ...] [--json FILE]``: run benchmarks, print their figures, fail if a claim is missed."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

import bench
from bench.report import Figure, as_json, as_text

NOT_BENCHMARKS = ("__main__", "report")


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(bench.__path__)
        if module.name not in NOT_BENCHMARKS and not module.name.startswith("_")
    )


def main(arguments: list[str] | None = None) -> int:
    known = names()
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run benchmarks.")
    parser.add_argument("name", nargs="*", help=f"which ones (default: all of {', '.join(known)})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="also draw the figures of those that can be drawn")
    options = parser.parse_args(arguments)
    for name in options.name:
        if name not in known:
            parser.error(f"a benchmark must be one of {', '.join(known)}, not {name!r}")

    figures: list[Figure] = []
    for name in options.name or known:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        benchmark = importlib.import_module(f"bench.{name}")
        its_figures = benchmark.run()
        figures += its_figures
        if options.plot is not None and hasattr(benchmark, "plot"):
            options.plot.mkdir(parents=True, exist_ok=True)
            benchmark.plot(its_figures, options.plot / f"{name}.png")
    print(as_text(figures))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(as_json(figures) + "\n")
    missed = [figure.name for figure in figures if not figure.met]
    if missed:
        print(f"bench: claims missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
