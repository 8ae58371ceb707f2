"""Decontaminate, mix, stats, build and Bloom deduplication: what each keeps, and that a kill changes nothing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core import files
from isoflop.core.errors import DataError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.data.engine.bloom import BloomDedup, BloomFilter, BloomSettings, bloom
from isoflop.data.engine.building import build
from isoflop.data.engine.contamination import TestGrams, decontaminate
from isoflop.data.engine.inputs import Unit, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.mixing import mix
from isoflop.data.engine.pages import Pages
from isoflop.data.engine.scoring import Selection, score, select
from isoflop.data.engine.statistics import histogram, statistics
from isoflop.data.scorers.length import LengthPart
from isoflop.data.tokenizers.bytes import BytesPart
from isoflop.train.run import train

_WORDS = ["some", "words", "that", "no", "other", "text", "has", "said", "in", "quite", "this", "order", "so", "far"]
SAID = [" ".join(f"{word}{i}" for word in _WORDS) for i in range(60)]
SMALL = BloomSettings(words=5, fewest=5, expected=5000)


@pytest.fixture
def units(tmp_path: Path) -> list[Unit]:
    for number in range(3):
        lines = [json.dumps({"id": i, "text": SAID[20 * number + i], "domain": "ab"[i % 2]}) for i in range(20)]
        lines.append(json.dumps({"text": f"{SAID[number]}\nmore of it"}))
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    return units_of([str(tmp_path / "?.jsonl")])


def kept(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / "documents").iterdir()):
        with gzip.open(path) as file:
            found += [json.loads(line) for line in file]
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def by_tokens(units: list[Unit], settings: JobSettings) -> dict[str, Any]:
    """A selection by tokens of scores beside its folder."""
    scores = settings.out.with_name("scores")
    score(units, LengthPart(), JobSettings(scores), {}, {})
    return select(units, scores, Selection(tokens=1500), settings, BytesPart())


TESTS = {"query": SAID[7].upper(), "choices": ["no", SAID[41][:60]], "gold": 0}
RUNS: dict[str, Callable[[list[Unit], JobSettings], dict[str, Any]]] = {
    "bloom": lambda units, settings: bloom(units, SMALL, settings),
    "mix": lambda units, settings: mix({"x": units[:2], "y": units[2:]}, {"x": 2.0, "y": 1.0}, 2000, settings),
    "stats": statistics,
    "build": lambda units, settings: build(units, BytesPart(), settings, share=0.2),
    "select": by_tokens,
}


@pytest.mark.parametrize("verb", RUNS)
def test_killed_anywhere_it_leaves_the_same_bytes(
    verb: str, units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RUNS[verb](units, JobSettings(tmp_path / "whole"))
    real, count, killed = files.fsync_directory, 0, 0

    def fails(path: Path) -> None:
        nonlocal count
        real(path)
        count += 1
        if count % (3 + killed // 4) == 0:  # ever rarer, so that the longest step is done in the end
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "fsync_directory", fails)
    for _ in range(60):
        try:
            RUNS[verb](units, JobSettings(tmp_path / "cut"))
            break
        except KeyboardInterrupt:
            killed += 1
    assert killed > 2
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_what_a_test_holds_is_dropped(units: list[Unit], tmp_path: Path) -> None:
    tests = tmp_path / "tests.jsonl"
    tests.write_text(json.dumps(TESTS))
    found = decontaminate(units, units_of([str(tests)]), JobSettings(tmp_path / "out"))
    assert found["counts"]["contaminated"] == 2  # one of 13 words or more, one that is shorter, as a whole
    assert found["items_too_short"] == 1
    assert not {SAID[7], SAID[41]} & {row["text"] for row in kept(tmp_path / "out")}
    tests.write_text('{"query": "torn')
    with pytest.raises(DataError, match=r"a test must not be missed"):
        decontaminate(units, units_of([str(tests)]), JobSettings(tmp_path / "two"))
    tests.write_text('{"query": "too short"}')
    with pytest.raises(DataError, match="no item of 8 words"):
        decontaminate(units, units_of([str(tests)]), JobSettings(tmp_path / "three"))


def test_runs_do_not_reach_over_the_border_of_texts() -> None:
    grams = TestGrams.of([SAID[0]])
    words = SAID[0].split()
    assert grams.hits(Pages([" ".join(words[:7]), " ".join(words[7:])])).tolist() == [0, 0]
    assert grams.hits(Pages([f"x {SAID[0]} y", ""])).tolist() == [len(words), 0]


def test_a_mixture_has_its_shares(units: list[Unit], tmp_path: Path) -> None:
    found = mix({"x": units[:1], "y": units[1:]}, {"x": 1.0, "y": 3.0}, 2400, JobSettings(tmp_path / "out"))
    assert 500 <= found["counts"]["bytes.x"] <= 600
    assert 1700 <= found["counts"]["bytes.y"] <= 1800
    texts = [row["text"] for row in kept(tmp_path / "out")]
    assert len(set(texts)) == len(texts)
    assert {row["domain"] for row in kept(tmp_path / "out")} >= {"a", "b"}
    with pytest.raises(DataError, match="and its share is"):
        mix({"x": units[:1], "y": units[1:]}, {"x": 3.0, "y": 1.0}, 8000, JobSettings(tmp_path / "more"))


def test_statistics_count_what_repeats(units: list[Unit], tmp_path: Path) -> None:
    counts = statistics(units, JobSettings(tmp_path / "out"))["counts"]
    assert counts["documents"] == 63
    assert counts["domain.a"] == counts["domain.b"] == 30
    assert counts["equal_ids"] == 40
    assert counts["equal_texts"] == 0
    assert sum(int(line.split()[-1]) for line in histogram(counts)) == 63


def test_a_built_corpus_is_the_documents_and_trains(units: list[Unit], tmp_path: Path) -> None:
    found = build(units, BytesPart(), JobSettings(tmp_path / "out"), share=0.2)
    tokens = [np.fromfile(tmp_path / "out" / "corpus" / name, "<u2") for name in ("train.bin", "heldout-0.bin")]
    texts: list[str] = []
    for side in tokens:
        texts += bytes(np.where(side == 256, 0, side).astype(np.uint8)).decode().strip("\0").split("\0")
    assert sorted(texts) == sorted([*SAID, *(f"{SAID[i]}\nmore of it" for i in range(3))])
    assert found["counts"]["train.tokens"] == len(tokens[0]) - 1
    tree = {
        "name": "built",
        "source": {"name": "built", "path": str(tmp_path / "out")},
        "tokenizer": "bytes",
        "model": {"name": "transformer", "d_model": 16, "layers": 1, "mixer": {"name": "attention", "heads": 1}},
        "budget": {"steps": 2},
        "train": {"batch": 2, "length": 16},
    }
    assert train(Recipe.from_json(tree), tmp_path / "runs").finished
    with pytest.raises(DataError, match=r"was built with the tokenizer bytes, and the recipe's is bpe"):
        train(Recipe.from_json(tree | {"tokenizer": {"name": "bpe", "vocab_size": 300}}), tmp_path / "runs")


def test_a_filter_knows_what_it_was_given() -> None:
    draw = np.random.default_rng(1)
    known = BloomFilter(BloomSettings(expected=20_000))
    given = draw.integers(0, 2**63, 20_000, dtype=np.uint64)
    known.add(given)
    assert known.has(given).all()
    assert known.has(draw.integers(0, 2**63, 20_000, dtype=np.uint64)).mean() < 0.02


def test_paragraphs_that_were_seen_go_and_documents_of_them(units: list[Unit], tmp_path: Path) -> None:
    found = bloom(units, SMALL, JobSettings(tmp_path / "out"))
    assert (found["counts"]["dropped"], found["counts"]["edited"]) == (3, 0)
    work = BloomDedup(SMALL)
    assert work.kept("short\n" + SAID[0]) == "short\n" + SAID[0]
    assert work.kept("short\n" + SAID[0]) is None  # all of what is looked at
    assert work.kept(SAID[1] + "\n" + SAID[0]) == SAID[1]
    with pytest.raises(UsageError):
        bloom(units, BloomSettings(error=2.0), JobSettings(tmp_path / "bad"))
