"""`isoflop eval`: on the text that a run held out, whatever became of its folder, and on any other text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.train.restore import restore
from isoflop.train.run import train

Tiny = Callable[..., Path]


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert invoke(["eval", *arguments, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("tokenizer", ["bytes", '{name="bpe", vocab_size=280}'], ids=["bytes", "bpe"])
def test_a_folder_that_grew_or_went_is_evaluated_as_it_was(
    tiny: Tiny, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: str
) -> None:
    root = ("--root", str(tmp_path / "runs"))
    recipe = tiny(f'source.paths=["{copy}/*.txt"]', f"tokenizer={tokenizer}")
    assert invoke(["train", str(recipe), *root, "--name", "a"]) == 0
    before = measured(capsys, "a", *root)
    for file in sorted(copy.glob("*.txt")):
        file.write_text(file.read_text().upper())
    (copy / "more.txt").write_text("a document that was not there before, and says something else")
    assert measured(capsys, "a", *root) == before
    shutil.rmtree(copy)
    assert measured(capsys, "a", *root) == before
    shutil.rmtree(tmp_path / "runs" / "cache")
    assert invoke(["eval", "a", *root]) == 3


def test_another_text_is_measured_as_if_it_had_been_held_out(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(Recipe.load(tiny("averaging=ema", "train.length=64")), tmp_path / "runs", name="a")
    text = next(restore(run).parts.source.heldout_text())  # type: ignore[attr-defined]
    (tmp_path / "one.txt").write_text(text)
    (tmp_path / "two.txt").write_text("zzzz " * 40)
    root = ("--root", str(tmp_path / "runs"))
    files = [str(tmp_path / name) for name in ("one.txt", "two.txt")]
    found = measured(capsys, "a", *root, "--text", files[0], "--text", files[1])["bits_per_byte"]
    assert isinstance(found, dict)
    assert list(found["domains"]) == files
    assert found["domains"][files[0]]["n"] == len(text.encode())
    assert found["domains"][files[1]]["value"] > found["domains"][files[0]]["value"] > 0
    alone = measured(capsys, "a", *root, "--text", files[0])["bits_per_byte"]
    assert isinstance(alone, dict)
    assert alone["value"] == pytest.approx(found["domains"][files[0]]["value"], rel=1e-12)


def test_evaluating_one_held_out_document_gives_what_the_whole_of_it_gives(tiny: Tiny, tmp_path: Path) -> None:
    """The only difference between a run's own text and a given one is where it comes from."""
    from isoflop.data.loader import heldout_of
    from isoflop.train.restore import trained

    session = restore(run := train(Recipe.load(tiny("source.heldout_bytes=1")), tmp_path / "runs"))
    (text,) = session.parts.source.heldout_text()  # type: ignore[attr-defined]
    found = trained(run)
    assert found.tokenizer is not None
    (given,) = found.measure({"text": heldout_of(text, found.tokenizer)}).values()
    (own,) = session.measure().values()
    assert given.value == pytest.approx(own.value, rel=1e-12)


@pytest.mark.parametrize(("content", "complaint"), [(b"", "holds no text"), (b"\xff\xfe", "is not UTF-8"), (None, "")])
def test_what_is_no_text_is_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, complaint: str
) -> None:
    train(Recipe.load(tiny("budget.steps=1")), tmp_path / "runs", name="a")
    file = tmp_path / "given.txt"
    if content is not None:
        file.write_bytes(content)
    assert invoke(["eval", "a", "--root", str(tmp_path / "runs"), "--text", str(file)]) == 3
    said = capsys.readouterr().err
    assert str(file) in said
    assert complaint in said


def test_a_distilled_model_is_measured_with_its_teacher_at_hand(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Recipe.load(tiny("budget.steps=1")), tmp_path / "runs", name="t")
    arguments = (f"models.teacher={tmp_path / 'runs' / 't'}", "objective=distill")
    root = ("--root", str(tmp_path / "runs"))
    assert invoke(["train", str(tiny("budget.steps=2")), *arguments, *root, "--name", "a"]) == 0
    (tmp_path / "x.txt").write_text("some words")
    assert measured(capsys, "a", *root, "--text", str(tmp_path / "x.txt"))
