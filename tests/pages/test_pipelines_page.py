"""docs/guide/pipelines.md: its file, commands and Python, run as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from isoflop.cli.main import invoke

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "pipelines.md"


def test_everything_on_the_page_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    output = {}
    for language, text in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.S):
        if language == "toml":
            Path("domains.toml").write_text(text)
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), {})
        else:
            for line in text.strip().splitlines():
                assert invoke(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
                output[line.partition("domains.toml ")[2]] = capsys.readouterr().out
    assert "sfa: 20 steps" in output["--dry-run"]
    assert "wise_ft: a merge" in output["--dry-run"]
    assert re.search(r"SFA forgets at most half .* (met|missed|open)", output[""])
    assert "result: runs/domains/pipeline.json" in output[""]
    more = json.loads(output["'seeds=[1,2,3,4]' --json"])
    assert len([row for row in more["rows"] if row["role"] == "evaluation"]) == 4 * 7
    assert len(capsys.readouterr().out.splitlines()) == 2
