"""isoflop generate with models that fill in: on a small run of puzzles, made once for the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke

RECIPE = """
name = "sums"
objective = "masked"
tokenizer = { name = "symbols", symbols = "0123456789+=" }
source = { name = "task", task = { name = "addition", digits = 2 }, examples = 64, heldout = 4 }
model = { name = "transformer", d_model = 16, layers = 1, mixer = { name = "attention", heads = 2 } }
metrics = [{ name = "solved", decoder = "margin" }]
budget = { steps = 2 }
train = { batch = 4, length = 9 }
"""
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filling")
    (folder / "sums.toml").write_text(RECIPE)
    changes = {
        "fills": [],
        "writes": ["objective=next_token", "metrics.0.decoder=sample"],
        "grows": ['objective={name="flexmdm", times=2}', "metrics.0.decoder={name='insertion', steps=4}"],
    }
    for name, change in changes.items():
        command = ["train", str(folder / "sums.toml"), *change, "--root", str(folder), "--name", name, "--json"]
        assert invoke(command) == 0
    return folder


def said(root: Path, capsys: Captured, *arguments: str, run: str = "fills", code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert invoke(["generate", run, "--root", str(root), *arguments]) == code
    found = capsys.readouterr()
    return found.out, found.err


def test_both_kinds_of_models_write_by_the_same_verb(root: Path, capsys: Captured) -> None:
    for run in ("fills", "writes"):
        found: dict[str, Any] = json.loads(
            said(root, capsys, "--prompt", "12+34=", "--tokens", "3", "--ignore-eos", "--json", run=run)[0]
        )
        assert found["tokens"] == 3
        assert ("flops" in found) == (run == "fills")


def test_gaps_are_filled_in_and_what_is_around_them_stays(root: Path, capsys: Captured) -> None:
    prompt = ("--infill", "--prompt", "1<gap:2>3<gap>4", "--tokens", "1", "--json")
    found = json.loads(said(root, capsys, *prompt)[0])
    first, second = found["gaps"]
    assert found["text"] == f"1{first}3{second}4"
    assert (found["tokens"], found["calls"]) == (3, 3)
    fast = json.loads(said(root, capsys, *prompt, "--decoder", "margin", "--per-call", "3")[0])
    assert fast["calls"] == 1


def test_a_model_that_inserts_writes_and_fills_gaps_without_being_told_how(root: Path, capsys: Captured) -> None:
    """Gaps take as many tokens as it wants, at most as many as are said; of gaps that touch, the first has them all."""
    found = json.loads(
        said(root, capsys, "--prompt", "12+34=", "--tokens", "3", "--steps", "8", "--json", run="grows")[0]
    )
    assert found["tokens"] <= 3
    assert found["calls"] == 8
    prompt = ("--infill", "--prompt", "1<gap:2>3<gap><gap:5>4", "--tokens", "4", "--temperature", "1", "--samples", "4")
    for each in json.loads(said(root, capsys, *prompt, "--json", run="grows")[0]):
        first, second, third = each["gaps"]
        assert (each["text"], third) == (f"1{first}3{second}4", "")
        assert len(first) <= 2
        assert len(second) <= 9
    assert "1" in said(root, capsys, *prompt[:3], run="grows")[0]


def test_a_file_of_prompts_with_gaps_is_gone_on_with(root: Path, capsys: Captured, tmp_path: Path) -> None:
    lines = [{"prompt": f"{i}+<gap:2>=" + "<gap:1>" * (i % 3)} for i in range(5)]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = ("--infill", "--prompts", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), "--temperature", "1")
    said(root, capsys, *command)
    whole = (tmp_path / "out.jsonl").read_text()
    (tmp_path / "out.jsonl").write_text("".join(whole.splitlines(keepends=True)[:2]))
    said(root, capsys, *command)
    assert (tmp_path / "out.jsonl").read_text() == whole


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("fills", ("--decoder", "sample"), "the decoder sample writes from left to right"),
        ("grows", ("--decoder", "margin"), "the decoder margin cannot insert tokens"),
        ("fills", ("--decoder", "insertion"), "the decoder insertion inserts tokens"),
        ("writes", ("--decoder", "margin"), "the decoder margin fills in what is hidden"),
        ("writes", ("--infill", "--prompt", "1<gap>"), "cannot fill in gaps"),
        ("fills", ("--infill", "--prompt", "12"), "has no gap to fill in"),
        ("fills", ("--infill", "--prompt", "1<gap:0>2<gap>"), "'<gap:0>' is no gap"),
        ("fills", ("--infill", "--prompt", "1<gap:2>+<gap:x>"), "'<gap:x>' is no gap"),
        ("fills", ("--infill", "--prompt", "1<gap>", "--stop", "2"), "gaps are filled in whole"),
        ("fills", ("--decoder", "margins"), "no decoder is named"),
        ("fills", ("--prompt", "1", "--tokens", "2", "--per-call", "3"), "smaller than one call"),
    ],
)
def test_what_cannot_be_is_said(root: Path, capsys: Captured, run: str, arguments: Any, message: str) -> None:
    assert message in said(root, capsys, *arguments, run=run, code=2)[1].replace("\n", " ")


def test_a_sample_beyond_what_was_trained_on_is_warned_of(root: Path, capsys: Captured) -> None:
    assert "trained on 9 at a time" in said(root, capsys, "--prompt", "12+34=", "--tokens", "40", "--json")[1]
