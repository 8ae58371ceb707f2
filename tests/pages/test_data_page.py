"""docs/guide/data.md: its example, command by command, and its Python."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from isoflop.cli.main import invoke

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "data.md"
PIECES = re.findall(r"(?:`([\w.]+)`:\n\n)?```(\w*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_everything_on_the_page_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = {}
    for file, language, text in PIECES:
        if language == "python":
            exec(compile(text, file or str(PAGE), "exec"), {"__name__": "__main__"})
        elif not language:
            for words in map(shlex.split, text.strip().splitlines()):
                if words[0] == "isoflop":
                    assert invoke(words[1:]) == 0, (words, capsys.readouterr().err)
                    said.setdefault(" ".join(words[1:3]), capsys.readouterr().out)
    assert "220 documents" in said["data stats"]
    assert "kept" in said["data dedup"]
    page = Path("told/report.html").read_text(encoding="utf-8")
    for dropped in ("url: hard word", "repeats an earlier document", "gopher repetition"):
        assert f"Examples of \u201c{dropped}" in page
    assert json.loads(Path("unique/summary.json").read_text())["counts"]["dropped"] > 20
    (broken,) = Path("stats/broken").iterdir()
    assert json.loads(broken.read_text())["quote"].startswith('{"text": "torn')


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["clean", "missing.jsonl", "--out", "o"], 3, "does not exist"),
        (["clean", "a.jsonl", "--out", "o", "--chain", "dclmm"], 2, "did you mean dclm"),
        (["clean", "a.jsonl", "--out", "o", "--filter", "gofer"], 2, "legal: c4"),
        (["clean", "a.jsonl", "--out", "o", "--format", "csv"], 2, "legal: jsonl"),
        (["clean", "a.jsonl", "--out", "o", "--broken", "0"], 3, "a.jsonl:2: is not JSON"),
        (["dedup", "a.jsonl", "--out", "o", "--method", "simhash"], 2, "legal: bloom"),
        (["score", "a.jsonl", "--out", "o", "--scorer", "dsir"], 2, "--text target=FILE"),
        (["score", "a.jsonl", "--out", "o", "--scorer", "color_filter"], 2, "--model prior=RUN"),
        (["score", "a.jsonl", "--out", "o", "--scorer", "dsir", "--text", "target"], 2, "not of the form"),
        (["select", "a.jsonl", "--out", "o", "--scores", "s", "--keep", "ratio=2"], 2, "no finished scores"),
        (["select", "a.jsonl", "--out", "o", "--scores", "s", "--keep", "tau=2"], 2, "no setting is named 'tau'"),
        (["select", "a.jsonl", "--out", "o", "--scores", "s", "--keep", "ratio=x"], 2, "ratio is 'x'"),
        (["mix", "a.jsonl", "--out", "o", "--bytes", "5"], 2, "PATH=SHARE"),
        (["mix", "a.jsonl=1", "--out", "o", "--bytes", "5000"], 3, "and its share is"),
        (["decontaminate", "a.jsonl", "--out", "o", "--tests", "a.jsonl"], 3, "a test must not be missed"),
        (["build", "a.jsonl", "--out", "o", "--heldout", "2"], 2, "no share"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said(
    arguments: list[str],
    code: int,
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "one"}\n{"text": torn\n{"text": "two"}\n')
    assert invoke(["data", *arguments, "--workers", "1"]) == code
    assert what in " ".join(capsys.readouterr().err.split())


def test_a_run_is_measured_on_local_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text("".join(json.dumps({"text": f"text number {i} of some"}) + "\n" for i in range(40)))
    source, model = '{name="jsonl", paths="texts.jsonl"}', '{name="transformer", d_model=16, layers=1}'
    settings = ["tokenizer=bytes", "budget.steps=1", "train.batch=2", "train.length=32", "model.mixer.heads=1"]
    assert invoke(["train", "small", f"source={source}", f"model={model}", *settings, "--name", "tiny"]) == 0
    Path("choice.jsonl").write_text((json.dumps({"query": "a", "choices": ["b", "cc"], "gold": 1}) + "\n") * 2)
    Path("sums.jsonl").write_text(json.dumps({"question": "1 + 1 =", "answer": "2"}))
    capsys.readouterr()
    assert invoke(["eval", "tiny", "--task", "choice.jsonl", "--task", "sums.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "choice (2): sum " in said
    assert "character" in said
    assert "ECE" in said
    assert "sums (1): exact 0.0000" in said
    assert invoke(["eval", "tiny", "--task", "choice.jsonl", "--json"]) == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert task["sum"]["right"] in ([0, 0], [1, 1])
    Path("other.json").write_text(json.dumps({"model": "other", "tasks": [{**task, "sum": {"right": [0, 1]}}]}))
    assert invoke(["eval", "tiny", "--task", "choice.jsonl", "--against", "other.json"]) == 0
    assert "sum beside other: " in capsys.readouterr().out
    assert invoke(["eval", "tiny", "--against", "other.json"]) == 2
    assert invoke(["eval", "tiny", "--task", "choice.jsonl", "--text", "texts.jsonl"]) == 2
