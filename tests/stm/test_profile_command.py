"""``python -m bloomgate profile``, with real scripts in real processes."""

import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

from tests.stm.test_report import Page

ROOT = Path(__file__).resolve().parents[2]

# Threads that the script leaves behind lose updates to each other, as often as it says.
SCRIPT = """
import os, sys, threading
from bloomgate import TVar, atomic
from helper import name
assert __name__ == "__main__" and sys.argv[0] == os.environ["SCRIPT"], sys.argv
def lose(variable, times):
    @atomic
    def reader():
        value = variable.value
        if attempts and attempts.pop():
            writer = threading.Thread(target=lambda: setattr(variable, "value", value + 1))
            writer.start()
            writer.join(20)
        variable.value = value + 1
    attempts = [True] * times
    reader()
threading.Thread(target=lose, args=(TVar(0, name), int(sys.argv[1]))).start()
lose(TVar(0, "rarely"), 1)
print("output")
sys.exit(sys.argv[2] if len(sys.argv) > 3 else int(sys.argv[2]))
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    (folder / "helper.py").write_text("name = '<often & long " + "x" * 60 + ">'")
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "bloomgate", "profile", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT / "host"), "SCRIPT": str(script)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_script_is_profiled(tmp_path) -> None:
    result = run(tmp_path, str(tmp_path / "script.py"), "5", "3")
    assert result.stdout == "output\n"
    assert result.returncode == 3
    text = result.stderr
    # One for each of 6 conflicts, and one for each reader in the end.
    assert re.search(r"\n8 transactions committed in .* s; 6 attempts were run again", text), text
    (often,) = re.findall(r"(\S+) ms +5 x  <often & long", text)
    (rarely,) = re.findall(r"(\S+) ms +1 x  rarely", text)
    assert (float(often) >= float(rarely)) == (text.index("<often") < text.index("rarely"))
    assert re.search(r"read at +script.py:9 in reader < script.py:16 in lose", text)
    assert re.search(r"written at +script.py:11 in <lambda>", text)

    written = tmp_path / "bloomgate-profile.html"
    assert f"page: {written}\n" in text
    html = written.read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert page.foreign == []
    assert "script" not in page.tags
    plots = [xml.etree.ElementTree.fromstring(plot) for plot in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    assert len(plots) == 2
    names = [text.text for text in plots[0].iter("text") if text.get("text-anchor") == "end"]
    assert sorted(name[:8] for name in names) == ["<often &", "rarely"]
    assert "&lt;often &amp; long" in html
    assert "<often" not in html
    assert "reader<br><span>called at" in html


def test_the_page_can_be_elsewhere_and_options_are_the_scripts(tmp_path) -> None:
    page = tmp_path / "elsewhere.html"
    result = run(tmp_path, "--output", str(page), str(tmp_path / "script.py"), "0", "a message", "--output")
    assert (result.returncode, result.stdout) == (1, "output\n")
    assert result.stderr.startswith("a message\n")
    assert page.exists()
    assert "1 attempts were run again" in result.stderr


def test_a_failing_script(tmp_path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(
        "from bloomgate import TVar, TransactionError\nx = TVar(0)\nx.value = 1\nraise TransactionError('x')"
    )
    result = run(tmp_path, str(script))
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert "profile_command.py" not in result.stderr
    assert 'failing.py", line 4' in result.stderr
    assert "1 transactions committed" in result.stderr
    assert "No conflicts" in (tmp_path / "bloomgate-profile.html").read_text(encoding="utf-8")


def test_what_cannot_work_is_refused_before_the_run(tmp_path) -> None:
    missing = run(tmp_path, str(tmp_path / "missing.py"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == f"bloomgate: error: {tmp_path}/missing.py: No such file or directory\n"
    nowhere = run(tmp_path, "--output", str(tmp_path / "no" / "page.html"), str(tmp_path / "script.py"), "0", "0")
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert "No such file or directory" in nowhere.stderr


def test_a_module(tmp_path) -> None:
    """With the rest of its package, and from where the command is started."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("name = 'of the package'")
    (package / "__main__.py").write_text("from .program import *")
    (package / "program.py").write_text(
        "import sys\nfrom bloomgate import TVar\nfrom . import name\nTVar(0).value = 1\n"
        "print(__name__, __package__, sys.argv[0], sys.argv[1:], name)\n"
        "if 'fail' in sys.argv:\n    raise KeyError"
    )
    result = run(tmp_path, "-m", "package.program", "-m", "fail")
    assert result.returncode == 1
    assert result.stdout == f"__main__ package {package / 'program.py'} ['-m', 'fail'] of the package\n"
    assert "profile_command.py" not in result.stderr
    assert 'program.py", line 7' in result.stderr
    assert "1 transactions committed" in result.stderr
    result = run(tmp_path, "-m", "package")
    assert (result.returncode, result.stdout) == (
        0,
        f"package.program package {package / '__main__.py'} [] of the package\n",
    )
    for missing in ("missing", "missing.module", "sys"):
        result = run(tmp_path, "-m", missing)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == f"bloomgate: error: {missing}: No such module that can be run\n"


def test_a_forked_child_reports_nothing(tmp_path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(
        "import os, sys\nfrom bloomgate import TVar\nx = TVar(0)\nx.value = 1\nchild = os.fork()\n"
        "if not child:\n    x.value = 2\n    sys.exit(0)\nos.waitpid(child, 0)"
    )
    result = run(tmp_path, str(script))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("transactions committed") == 1
    assert "1 transactions committed" in result.stderr
