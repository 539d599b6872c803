"""The counters, and the report of conflicts."""

import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bloomgate import stm
from bloomgate.stm import TDict, TVar, atomic, profile, profile_script
from bloomgate.stm.context import here

from tests.stm.core_cases import during_a_transaction, together


def lose_an_update(variable) -> None:
    def first(interlude) -> None:
        @atomic
        def reader() -> None:
            value = variable.value
            interlude()
            variable.value = value + 1

        reader()

    @atomic
    def writer() -> None:
        variable.value += 10

    during_a_transaction(first, writer)


def test_counters(soft) -> None:
    before = stm.stats()
    x = TVar(0)
    lose_an_update(x)
    atomic(lambda: x.value)()
    with pytest.raises(KeyError):
        atomic(lambda: {}[1])()
    after = stm.stats()
    counted = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert counted == {"commits": 2, "read_only": 1, "conflicts": 1, "exceptions": 1}


def test_a_conflict_is_named(soft) -> None:
    x = TVar(0, "balance")
    with profile() as recorder:
        lose_an_update(x)
    report = recorder.report()
    (conflict,) = report.conflicts
    assert conflict.variable == "balance"
    assert re.match(r"test_report.py:\d+ in reader", conflict.read_at)
    assert re.match(r"test_report.py:\d+ in writer", conflict.written_at)
    assert conflict.count == 1
    assert 0 < conflict.seconds < report.seconds
    assert report.commits == 2
    assert sum(report.history) == 1
    text = report.as_text()
    assert "balance" in text
    assert "in reader" in text
    assert "in writer" in text
    # Nothing is recorded any more.
    lose_an_update(x)
    assert recorder.report().conflicts == report.conflicts


def test_conflicts_are_sorted_by_the_time_they_cost(soft) -> None:
    short, long = TVar(0, "short"), TDict.named("long", {"k": 0})

    def first(interlude) -> None:
        @atomic
        def slow() -> None:
            value = long["k"]
            interlude()
            # As if it had taken a minute.
            here.tx.trace.began -= 60
            long["k"] = value + 1

        slow()

    with profile() as recorder:
        lose_an_update(short)
        during_a_transaction(first, lambda: long.update(k=5))
    names = [conflict.variable for conflict in recorder.report().conflicts]
    assert names == ["long['k']", "short"]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        self.foreign += [value for name, value in attributes if name in ("src", "href")]


SCRIPT = """
import sys, threading
from bloomgate.stm import TVar, atomic
assert __name__ == "__main__" and sys.argv[1:] == ["--rounds"], sys.argv
hot = TVar(0, "<hot>")
there, done = threading.Event(), threading.Event()
@atomic
def first():
    value = hot.value
    if not done.is_set():
        there.set()
        assert done.wait(30)
    hot.value = value + 1
thread = threading.Thread(target=first)
thread.start()
assert there.wait(30)
hot.value = 5
done.set()
thread.join(30)
sys.exit(0)
"""


def test_a_script_is_profiled(soft, tmp_path) -> None:
    script, page = tmp_path / "script.py", tmp_path / "page.html"
    script.write_text(SCRIPT)
    arguments = list(sys.argv)
    report = profile_script(script, ["--rounds"], page=page)
    assert sys.argv == arguments
    assert [conflict.variable for conflict in report.conflicts] == ["<hot>"]
    text = page.read_text()
    parser = Page()
    parser.feed(text)
    assert parser.tags.count("svg") == 2
    assert parser.foreign == []
    assert "&lt;hot&gt;" in text
    assert "<hot>" not in text


def test_a_failing_script_is_profiled_too(soft, tmp_path) -> None:
    script, page = tmp_path / "script.py", tmp_path / "page.html"
    script.write_text("raise KeyError('mine')")
    with pytest.raises(KeyError, match="mine"):
        profile_script(script, page=page)
    assert "No conflicts" in page.read_text()


def test_profiling_changes_no_result(soft) -> None:
    x = TVar(0)

    def work() -> None:
        for _ in range(50):
            atomic(lambda: setattr(x, "value", x.value + 1))()

    with profile():
        together(work, work)
    assert x.value == 100


def test_threads_that_ended_are_counted(soft) -> None:
    before = stm.stats()["commits"]
    x = TVar(0)
    for _ in range(5):
        thread = threading.Thread(target=lambda: setattr(x, "value", x.value + 1))
        thread.start()
        thread.join(30)
    assert stm.stats()["commits"] - before == 5


def test_nothing_is_said_at_the_end_of_the_interpreter() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from bloomgate.stm import TVar; x = TVar(0); x.value += 1"],
        env={**os.environ, "PYTHONPATH": str(Path(stm.__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
