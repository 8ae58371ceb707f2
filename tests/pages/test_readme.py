"""The README is true: its commands and its example run as they stand."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from isoflop.cli.main import invoke

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(after: str) -> str:
    found = re.search(rf"{re.escape(after)}.*?```[a-z]*\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def run(arguments: list[str], folder: Path) -> str:
    """What a process of its own prints."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=200, env={**os.environ})
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def typed(arguments: list[str]) -> str:
    """What ``isoflop`` prints, in this process, which has loaded torch already."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = invoke(arguments)
    assert code == 0, f"{arguments}: {err.getvalue()}"
    return out.getvalue()


def test_the_shell_commands_run_in_order(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("ISOFLOP_ROOT", raising=False)
    for number, line in enumerate(block("## From the shell").splitlines()):
        words = shlex.split(line, comments=True)
        assert words[0] == "isoflop"
        words, _, target = (words, "", "") if ">" not in words else (words[:-2], ">", words[-1])
        output = typed(words[1:]) if number else run([sys.executable, "-m", *words], elsewhere)
        assert output.strip(), line
        if target:
            (elsewhere / target).write_text(output)
    assert (elsewhere / "runs" / "a" / "report.html").exists()


def test_the_python_example_runs(elsewhere: Path) -> None:
    output = run([sys.executable, "-c", block("## From Python")], elsewhere)
    assert "bits per byte" in output
    assert "of them Muon's own" in output


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (Path(__file__).parents[2] / target).exists(), target
