"""docs/guide/planning.md: its code and commands, run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from isoflop.cli.main import invoke

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "planning.md"


def test_every_command_of_the_page_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = []
    for language, text in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.S):
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), {})
            continue
        for line in text.strip().splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "isoflop"
            assert invoke(arguments) == 0, (line, capsys.readouterr().err)
            ran.append(line)
    assert len(ran) >= 8
    said = capsys.readouterr().out
    for words in ("jointly", "under every law", "of the whole life", "R^2", "10 times above the fitted rows"):
        assert words in said, words
