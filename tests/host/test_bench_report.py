"""What ``python -m bench`` prints, writes and returns."""

import json
import sys
import types

import pytest

import bench.__main__
from bench.report import Figure, as_json, as_text, at_least, at_most

FIGURES = [
    Figure("a.speed", 12_345_678.9, "keys/s", at_least(10e6), {"K": 4}, {"gcc": "12"}),
    Figure("a.ratio", 3.5, "1", at_most(3)),
    Figure("a.other", 0.123456, "ns"),
]


def test_claims() -> None:
    assert [figure.met for figure in FIGURES] == [True, False, True]
    assert Figure("x", 3, "1", at_most(3)).met
    assert Figure("x", 3, "1", at_least(3)).met
    assert not Figure("x", 2.99, "1", at_least(3)).met


def test_text() -> None:
    head, speed, ratio, other, versions = as_text(FIGURES).splitlines()
    assert head.split() == ["figure", "value", "unit", "claim", "measured", "with"]
    assert speed.split() == ["a.speed", "12,345,679", "keys/s", "at", "least", "10,000,000", "met", "K=4,", "gcc=12"]
    assert ratio.split() == ["a.ratio", "3.5", "1", "at", "most", "3", "MISSED"]
    assert other.split() == ["a.other", "0.123", "ns"]
    assert versions.startswith("on CPython 3.")


def test_json() -> None:
    document = json.loads(as_json(FIGURES))
    assert document["figures"][0] == {
        "name": "a.speed",
        "value": 12_345_678.9,
        "unit": "keys/s",
        "claim": {"bound": 10e6, "relation": "at least"},
        "parameters": {"K": 4},
        "tools": {"gcc": "12"},
        "met": True,
    }
    assert document["figures"][2]["claim"] is None
    assert "processor" in document["versions"]


def test_there_are_benchmarks() -> None:
    assert "soft" in bench.__main__.names()
    assert not {"report", "__main__"} & set(bench.__main__.names())


def test_plots(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    drawn = []
    monkeypatch.setattr(bench.__main__, "names", lambda: ["with", "without"])
    for name in ("with", "without"):
        module = types.ModuleType(f"bench.{name}")
        module.run = lambda: FIGURES[:1]
        monkeypatch.setitem(sys.modules, f"bench.{name}", module)
    sys.modules["bench.with"].plot = lambda figures, path: drawn.append((figures, path))
    folder = tmp_path / "plots"
    assert bench.__main__.main(["--plot", str(folder)]) == 0
    assert drawn == [(FIGURES[:1], folder / "with.png")]
    assert folder.is_dir()


def test_a_missed_claim_fails(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(bench.__main__, "names", lambda: ["good", "bad"])
    for name, figures in (("good", FIGURES[:1]), ("bad", FIGURES[1:])):
        module = types.ModuleType(f"bench.{name}")
        module.run = lambda figures=figures: figures
        monkeypatch.setitem(sys.modules, f"bench.{name}", module)
    assert bench.__main__.main(["good"]) == 0
    assert "a.ratio" not in capsys.readouterr().out
    file = tmp_path / "deep" / "figures.json"
    assert bench.__main__.main(["--json", str(file)]) == 1
    out, err = capsys.readouterr()
    assert "a.speed" in out
    assert "a.ratio" in out
    assert err.splitlines()[-1] == "bench: claims missed: a.ratio"
    assert [figure["name"] for figure in json.loads(file.read_text())["figures"]] == ["a.speed", "a.ratio", "a.other"]


def test_an_unknown_benchmark(capsys) -> None:
    with pytest.raises(SystemExit):
        bench.__main__.main(["nonsense"])
    assert "a benchmark must be one of" in capsys.readouterr().err
