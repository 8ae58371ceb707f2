"""Filters and near duplicates beside recorded decisions of published tools."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core.registry import get
from isoflop.data.engine.minhash import PRESETS
from isoflop.data.engine.pages import Pages

RECORDED: dict[str, tuple[str, dict[str, Any]]] = {
    "gopher_quality": ("gopher_quality", {}),
    "gopher_repetition": ("gopher_repetition", {}),
    "c4": ("c4", {}),
    "c4_no_punct": ("c4", {"terminal": False}),
    "fineweb": ("fineweb", {}),
}
"""Name in the record -> our filter."""


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def recorded(shared: Path) -> tuple[list[dict[str, Any]], Pages]:
    data = shared / "data" / "data"
    rows = json.loads((data / "ref" / "datatrove_filters.json").read_text())["rows"]
    wanted = {row["id"].rpartition("-")[0] for row in rows}
    texts = {each["id"]: each["text"] for name in wanted for each in lines(data / "text" / f"{name}.jsonl.gz")}
    return rows, Pages([texts[row["id"]] for row in rows])


@pytest.mark.parametrize("name", RECORDED)
def test_decisions_agree_with_datatrove(name: str, recorded: tuple[list[dict[str, Any]], Pages]) -> None:
    """On more than 95 % of documents: words are cut differently. What C4 leaves of a page is the same to the letter."""
    rows, pages = recorded
    part, fields = RECORDED[name]
    found = get("filter", part)(**fields).judge(pages)  # type: ignore[attr-defined]
    agree = [row[name][0] == (not reason) for row, reason in zip(rows, found.reasons, strict=True)]
    assert np.mean(agree) > 0.95
    if name == "c4":
        for number, row in enumerate(rows):
            if row["c4"][0] and not found.reasons[number]:
                assert len(found.edited.get(number, pages.texts[number])) == row["c4_kept_chars"]


@pytest.mark.parametrize(("preset", "least", "error"), [("datatrove", 0.98, 0.045), ("recall", 0.995, 0.04)])
def test_near_duplicates_are_found(preset: str, least: float, error: float, shared: Path) -> None:
    """Of the pairs with an exact Jaccard similarity of .8 or more; and signatures estimate similarities."""
    folder = shared / "data" / "data" / "ref"
    pages = Pages([each["text"] for each in lines(folder / "neardup_docs.jsonl.gz")])
    truth = json.loads((folder / "neardup_truth.json").read_text())["pairs_jaccard_ge_0p2"]
    near = PRESETS[preset]
    signatures = near.signatures(pages)
    keys = near.keys(signatures)
    alike = {(i, j): float((signatures[i] == signatures[j]).mean()) for i, j, _ in truth}
    found = [
        bool((keys[i] == keys[j]).any()) and alike[i, j] >= near.verify
        for i, j, similarity in truth
        if similarity >= 0.8
    ]
    assert np.mean(found) >= least
    assert np.sqrt(np.mean([(alike[i, j] - similarity) ** 2 for i, j, similarity in truth])) < error
