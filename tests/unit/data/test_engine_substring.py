"""Exact substrings: whatever is long enough and was there before is cut out, and nothing else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.core.errors import UsageError
from isoflop.data.engine import substring
from isoflop.data.engine.inputs import units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.substring import K, rolled, substrings, winnowed

DRAW = np.random.default_rng(4)


def text(length: int) -> str:
    return "".join(DRAW.choice(list("abcdefgh \u00fc\u4e2d"), length))


def test_hashes_are_those_of_the_bytes_alone() -> None:
    data = DRAW.integers(0, 4, 300).astype(np.uint8)
    hashes = rolled(np.concatenate([data, data[20:220]]))
    np.testing.assert_array_equal(hashes[20 : 220 - K + 1], hashes[300 : 500 - K + 1])
    assert len(set(hashes.tolist())) == 300 + 1 + (500 - K + 1 - 300 - (200 - K + 1)) - 1
    assert len(rolled(data[: K - 1])) == 0
    assert len(rolled(data[:K])) == 1


def test_equal_stretches_share_a_fingerprint() -> None:
    """Of 100 bytes, wherever they lie in two texts."""
    for _ in range(300):
        same = DRAW.integers(0, 200, 100)
        texts = [
            np.concatenate([DRAW.integers(0, 200, n), same, DRAW.integers(0, 200, 60)]) for n in DRAW.integers(0, 90, 2)
        ]
        hashes = [rolled(each.astype(np.uint8)) for each in texts]
        prints = [set(each[winnowed(each, 51)].tolist()) for each in hashes]
        assert prints[0] & prints[1]
    chosen = winnowed(rolled(DRAW.integers(0, 200, 20_000).astype(np.uint8)), 51)
    assert np.diff(chosen).max() <= 51
    assert len(chosen) < 20_000 / 20


@pytest.mark.parametrize("at_once", [1 << 23, 40])
def test_what_was_there_before_is_cut(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(substring, "AT_ONCE", at_once)
    long, short = text(150), "x" * 20 + "short but told twice" * 2 + "y" * 20
    rows = [
        text(80) + long + text(80),
        short + text(30),
        "A\u00fc" + long + "\u4e2dB",
        long,
        short,
        long[:60] + text(99),
    ]
    own = text(130)
    rows.append(own + " and again " + own)
    for number in range(2):
        part = rows[:3] if number == 0 else rows[3:]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(json.dumps({"text": each}) for each in part))
    found = substrings(units_of([str(tmp_path / "?.jsonl")]), JobSettings(tmp_path / "out"), least=100)
    kept = []
    for path in sorted((tmp_path / "out" / "documents").iterdir()):
        with gzip.open(path) as file:
            kept += [json.loads(line)["text"] for line in file]
    assert kept == [rows[0], rows[1], "A\u00fc\u4e2dB", rows[4], rows[5], own + " and again "]
    assert found["counts"]["dropped"] == 1
    with pytest.raises(UsageError):
        substrings(units_of([str(tmp_path / "?.jsonl")]), JobSettings(tmp_path / "b"), least=20)
