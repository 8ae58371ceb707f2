"""Near duplicates against exact Jaccard similarities of perturbed copies."""

from __future__ import annotations

import gzip
import json
from itertools import combinations
from pathlib import Path

from isoflop.core.rng import Rng
from isoflop.data.dedup import Shingler, distinct, jaccard


def check(texts: list[str], pairs: dict[tuple[int, int], float], least: float = 0.7) -> tuple[int, int]:
    """Clear near duplicates of which both stayed, and all of them; asserts that nothing below ``least`` was dropped."""
    kept = set(distinct(texts).kept)
    twins: dict[int, float] = {}
    for (a, b), similarity in pairs.items():
        twins[max(a, b)] = max(twins.get(max(a, b), 0.0), similarity)
    exact = {index for index, text in enumerate(texts) if text in texts[:index]}
    assert all(twins.get(index, 0.0) >= least for index in set(range(len(texts))) - kept - exact)
    clear = [pair for pair, similarity in pairs.items() if similarity >= 0.8]
    return sum(a in kept and b in kept for a, b in clear), len(clear)


def test_against_exact_similarities_of_real_text(shared: Path) -> None:
    folder = shared / "data" / "data" / "ref"
    with gzip.open(folder / "neardup_docs.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    truth = json.loads((folder / "neardup_truth.json").read_text())["pairs_jaccard_ge_0p2"]
    shingler = Shingler()
    for a, b, similarity in truth[::7]:  # theirs are sets of words in small letters, without symbols
        sets = shingler(texts[a]), shingler(texts[b])
        if all(map(len, sets)):
            assert abs(jaccard(*sets) - similarity) < 0.2
    missed, clear = check(texts, {(a, b): similarity for a, b, similarity in truth}, least=0.6)
    assert clear > 200
    assert missed <= 0.02 * clear


def test_against_exact_similarities_of_drawn_text() -> None:
    generator = Rng(9)("near duplicates").at()
    texts: list[str] = []
    for number in range(60):
        words = [f"w{i}" for i in generator.integers(0, 5000, 200)]
        texts.append(" ".join(words))
        for place in generator.integers(0, 200, number % 12):
            words[place] = "other"
        texts.append(" ".join(words) + " end")
    shingles = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in map(str.split, texts)]
    pairs = {
        (a, b): len(shingles[a] & shingles[b]) / len(shingles[a] | shingles[b])
        for a, b in combinations(range(len(texts)), 2)
        if shingles[a] & shingles[b]
    }
    missed, clear = check(texts, pairs)
    assert clear >= 20
    assert missed <= 0.04 * clear
