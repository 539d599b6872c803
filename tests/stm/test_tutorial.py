"""Every example of the tutorial does what it says."""

import doctest
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "stm.md"


@pytest.mark.timeout(60)
def test_tutorial(soft) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, TUTORIAL.name, str(TUTORIAL), 0)
    assert len(test.examples) > 50
    # Nothing that looks like an example is left out.
    assert text.count(">>> ") == len(test.examples)
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    result = runner.run(test, out=report.append)
    assert result.failed == 0, "".join(report)
