"""Rephrasing: real and rephrased stay pairs, whatever stops the job, and nothing is asked for twice."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.core import files
from isoflop.core.cost import Cost
from isoflop.core.errors import DataError, UsageError
from isoflop.data.engine.building import build
from isoflop.data.engine.inputs import Unit, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.pages import Pages
from isoflop.data.engine.rephrasing import Rephrasing, copied_share, pieces_of, rephrase
from isoflop.data.engine.templates import TemplateRephraser
from isoflop.data.sources.jsonl import JsonlPart
from isoflop.data.split import point
from isoflop.data.tokenizers.bytes import BytesPart


class Shouts:
    """Writes in capitals, counts what it is asked for, and says something else each time it is asked again."""

    identity, bill, concurrent = "shouts", {"flops": 5}, False

    def __init__(self) -> None:
        self.cost, self.asked, self.stop = Cost(), list[str](), 10**9

    def rewrite(self, pieces: Sequence[tuple[str, str]], draw: str) -> list[str]:
        if len(self.asked) + len(pieces) > self.stop:
            raise DataError("does not answer")
        self.asked += [text for text, _ in pieces]
        self.cost = self.cost + Cost(flops=len(pieces))
        return [f"{text.upper()} {style}" for text, style in pieces]


@pytest.fixture
def units(tmp_path: Path) -> list[Unit]:
    for number in range(3):
        rows = [
            {"id": i, "text": f"Story {number} of {i} is told here. It has an end.", "domain": "d"} for i in range(40)
        ]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"text": " "}])))
    return units_of([str(tmp_path / "?.jsonl")])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_in(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / "documents").iterdir()):
        with gzip.open(path) as file:
            found += [json.loads(line) for line in file]
    return found


def test_every_document_and_its_rephrasing_are_a_pair(units: list[Unit], tmp_path: Path) -> None:
    live = Shouts()
    found = rephrase(units, live, Rephrasing(("easy", "qa")), JobSettings(tmp_path / "out"))
    rows = rows_in(tmp_path / "out")
    real, made = ([row for row in rows if row["kind"] == kind] for kind in ("real", "rephrased"))
    assert (len(real), len(made)) == (123, 120)  # what is empty is not rephrased
    by_pair = {row["pair"]: row for row in real}
    for row in made:
        assert row["text"] == f"{by_pair[row['pair']]['text'].upper()} {row['style']}"
        assert row["domain"] == "d"
        assert row["id"] == f"{by_pair[row['pair']]['id']}#{row['style']}"
    assert {row["style"] for row in made} == {"easy", "qa"}
    assert found["counts"]["real_bytes"] + found["counts"]["rephrased_bytes"] == sum(len(r["text"]) for r in rows)
    assert found["scoring"]["flops"] == len(live.asked) == 120
    assert found["models"] == {"generator": {"flops": 5}}
    assert found["copied"] > 0.5


def test_a_share_is_drawn_by_the_text_alone(units: list[Unit], tmp_path: Path) -> None:
    found = rephrase(units, Shouts(), Rephrasing(share=0.5), JobSettings(tmp_path / "out"))
    assert 40 < found["counts"]["rephrased.kept"] < 80
    made = {row["pair"] for row in rows_in(tmp_path / "out") if row["kind"] == "rephrased"}
    rephrase(units[::-1][:1], Shouts(), Rephrasing(share=0.5), JobSettings(tmp_path / "last"))
    assert {row["pair"] for row in rows_in(tmp_path / "last") if row["kind"] == "rephrased"} <= made


def test_killed_anywhere_it_asks_for_nothing_twice_and_leaves_the_same_bytes(
    units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, whole = Rephrasing(("qa", "hard")), Shouts()
    rephrase(units, whole, how, JobSettings(tmp_path / "whole"))
    asked, killed = list[str](), 0
    real, count = files.fsync_directory, 0

    def fails(path: Path) -> None:
        nonlocal count
        real(path)
        count += 1
        if count % 4 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "fsync_directory", fails)
    for turn in range(60):
        live = Shouts()
        live.stop = 40 if turn % 2 else 10**9  # a generator that falls silent, too
        try:
            rephrase(units, live, how, JobSettings(tmp_path / "cut"))
            asked += live.asked
            break
        except (KeyboardInterrupt, DataError):
            asked += live.asked
            killed += 1
            for journal in (tmp_path / "cut").glob("answers/*"):
                if not (tmp_path / "cut" / "done" / f"{journal.stem[5:]}.json").exists():
                    journal.write_bytes(journal.read_bytes() + b'{"texts": ["torn')
    assert killed > 2
    assert sorted(asked) == sorted(whole.asked)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_what_is_no_use_is_left_out_and_counted(tmp_path: Path) -> None:
    told = " ".join(f"word{i}" for i in range(30))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"{name} {told}."}) for name in "abcdef"))
    (tmp_path / "t.jsonl").write_text(json.dumps({"query": " ".join(f"test{i}" for i in range(15))}))
    answers = [
        "",
        told[:20],
        f"{told} " * 9,
        " ".join(f"Test{i}" for i in range(15)),
        "Fine " + told,
    ]

    class Says(Shouts):
        def rewrite(self, pieces: Sequence[tuple[str, str]], draw: str) -> list[str]:
            return ["a " + told + "." if text[0] == "a" else answers["bcdef".index(text[0])] for text, _ in pieces]

    tests = units_of([str(tmp_path / "t.jsonl")])
    found = rephrase(units_of([str(tmp_path / "a.jsonl")]), Says(), Rephrasing(), JobSettings(tmp_path / "o"), tests)
    counts = {name[10:]: n for name, n in found["counts"].items() if name.startswith("rephrased.")}
    assert counts == {"unchanged": 1, "empty": 1, "too_short": 1, "too_long": 1, "kept": 1, "leaked": 1}
    assert found["counts"]["real_in_tests"] == 0
    assert sum(row["kind"] == "real" for row in rows_in(tmp_path / "o")) == 6
    for wrong in ({"styles": ("rhyme",)}, {"share": 0.0}, {"styles": ()}, {"shortest": 5.0}):
        with pytest.raises(UsageError):
            Rephrasing(**wrong)  # type: ignore[arg-type]


def test_a_pair_lies_on_one_side_of_the_split(units: list[Unit], tmp_path: Path) -> None:
    """In what is built, and in what a recipe reads: else a model is tested on what it saw in other words."""
    rephrase(units, TemplateRephraser(), Rephrasing(("qa",)), JobSettings(tmp_path / "out", format="jsonl"))
    files_of = sorted((tmp_path / "out" / "documents").iterdir())
    grouped, apart = (
        build(units_of(list(map(str, files_of))), BytesPart(), JobSettings(tmp_path / name), share=0.3, group=key)
        for name, key in (("g", "pair"), ("a", None))
    )
    assert grouped["counts"]["heldout.documents"] % 2 == 0
    assert grouped["counts"] != apart["counts"]
    source = JsonlPart(paths=tuple(map(str, files_of)), group_key="pair")
    rows = [json.loads(line) for path in files_of for line in path.read_text().splitlines()]
    sides: dict[str, set[bool]] = {}
    texts = [row for row in rows if row["text"].strip()]
    for row, document in zip(texts, source.documents(), strict=True):
        sides.setdefault(row["pair"], set()).add(point(document.group) < 0.3)
    assert all(len(side) == 1 for side in sides.values())
    assert len(set().union(*sides.values())) == 2


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["one", "two.", "three!", "\n\n", "\n"]), max_size=60), st.integers(1, 7))
def test_pieces_hold_every_word_once(words: list[str], most: int) -> None:
    text = " ".join(words)
    found = pieces_of(text, most)
    assert " ".join(found).split() == text.split()
    assert all(0 < len(piece.split()) <= most for piece in found)


def test_what_is_taken_over_is_the_share_of_runs() -> None:
    texts, sources = ["a b c d e f g", "a b", "", "a b c d e f g h"], ["x a b c d e f", "a b", "y", "a b c d e"]
    assert copied_share(Pages(texts), Pages(sources)) == [2 / 3, 0.0, 0.0, 1 / 4]


def test_templates_say_it_in_each_style() -> None:
    text = "When the sun sets, the river doesn't shine. Boats are in use (rarely); people get very many fish."
    said = dict(
        zip(
            ["easy", "medium", "hard", "qa"],
            TemplateRephraser().rewrite([(text, style) for style in ("easy", "medium", "hard", "qa")], ""),
            strict=True,
        )
    )
    assert said["medium"].startswith("The river does not shine when the sun sets.")
    assert "(rarely)" not in said["easy"]
    assert "use. People" in said["easy"]
    assert "manifold fish" in said["hard"]
    assert said["qa"].count("Question:") == said["qa"].count("Answer:") == 2
    assert TemplateRephraser().rewrite([("", "qa")], "") == [""]
