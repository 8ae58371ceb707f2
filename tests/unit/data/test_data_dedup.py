"""Duplicates, exact and near."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.core.rng import Rng
from isoflop.data import dedup
from isoflop.data.dedup import Shingler, distinct, jaccard, normalised_hash, signatures

GENERATOR = Rng(5)("dedup test")
WORDS = [f"word{i}" for i in range(3000)]


def text(number: int, words: int = 300) -> list[str]:
    return [WORDS[i] for i in GENERATOR.at(number).integers(0, len(WORDS), words)]


def changed(words: list[str], number: int, changes: int) -> list[str]:
    """A copy with single words replaced: each change touches at most five 5-grams."""
    copy = list(words)
    for place in GENERATOR.at(number, 1).choice(len(words), changes, replace=False):
        copy[place] = f"changed{number}"
    return copy


def exact_jaccard(a: list[str], b: list[str]) -> float:
    sets = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_white_space_does_not_make_a_difference() -> None:
    assert normalised_hash(" a\n\tb  c\n") == normalised_hash("a b c")
    assert normalised_hash("a b c") != normalised_hash("ab c")
    assert distinct(["a b", "c", "a\nb", "c "]) == dedup.Distinct((0, 1), exact=2, near=0)


def test_hashed_shingles_have_the_jaccard_similarity_of_word_5_grams() -> None:
    shingler = Shingler()
    for number, changes in enumerate((0, 1, 5, 20, 100)):
        a = text(number)
        b = changed(a, number, changes)
        assert jaccard(shingler(" ".join(a)), shingler(", ".join(b))) == pytest.approx(exact_jaccard(a, b), abs=1e-12)
    assert jaccard(shingler("too few words"), shingler("too few words")) == 0.0
    assert len(shingler("one two three four five")) == 1


def test_shares_of_equal_minima_estimate_the_similarity() -> None:
    shingler = Shingler()
    pairs = [(a := text(number), changed(a, number, number)) for number in range(0, 40, 2)]
    estimated, true = [], []
    for a, b in pairs:
        both = signatures([shingler(" ".join(a)), shingler(" ".join(b))])
        estimated.append(float((both[0] == both[1]).mean()))
        true.append(exact_jaccard(a, b))
    assert np.abs(np.array(estimated) - true).max() < 0.2  # 4 sd of 112 draws
    assert abs(np.mean(np.array(estimated) - true)) < 0.03


def test_every_clear_near_duplicate_goes_and_no_other_text_does() -> None:
    originals = [text(number) for number in range(60)]
    copies = [changed(originals[number], number, 3) for number in range(60)]  # J about 0.9
    far = [changed(originals[number], number, 60) for number in range(0, 60, 10)]  # J about 0.2
    assert all(exact_jaccard(a, b) > 0.88 for a, b in zip(originals, copies, strict=True))
    assert all(exact_jaccard(originals[10 * i], b) < 0.4 for i, b in enumerate(far))
    found = distinct([" ".join(words) for words in (*originals, *copies, *far)])
    assert found == dedup.Distinct((*range(60), *range(120, 126)), exact=0, near=60)


def test_the_earliest_of_several_stays() -> None:
    first = text(1)
    texts = [" ".join(words) for words in (changed(first, 1, 2), text(2), first, changed(first, 2, 2))]
    assert distinct(texts).kept == (0, 1)


def test_the_result_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(changed(text(n % 20), n, 1)) for n in range(50)] + ["short", "", "short one"]
    whole = distinct(texts)
    assert whole.near == 30
    monkeypatch.setattr(dedup, "_BLOCK", 1)
    assert distinct(texts) == whole


def test_short_texts_are_compared_exactly_only() -> None:
    assert distinct(["a + b", "a - b", "", "."]).kept == (0, 1, 2, 3)
    assert distinct([]) == dedup.Distinct((), 0, 0)
