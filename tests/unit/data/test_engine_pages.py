"""The arrays of a batch are what a plain loop over each text finds."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isoflop.data.engine.minhash import MinHash
from isoflop.data.engine.pages import Pages, within
from isoflop.data.engine.repeats import Repeats, lines_of, paragraphs_of
from isoflop.data.hashing import ngrams

TEXT = st.text(st.sampled_from("ab \n.'3,-\u00fc\u4e2d\u2019_#"), max_size=40)
WORDS = st.lists(st.sampled_from(["a", "b", "cc", "d"]), max_size=40).map(" ".join)


@given(st.lists(TEXT, max_size=5))
def test_words_are_those_of_a_regular_expression(texts: list[str]) -> None:
    pages = Pages(texts)
    whole = "\n".join([*texts, ""])
    found: list[list[str]] = [[] for _ in texts]
    for start, stop, text in zip(pages.words.starts, pages.words.stops, pages.words.text, strict=True):
        found[text].append(whole[start:stop])
    assert found == [re.findall(r"\w+", text) for text in texts]
    assert pages.words.counts.tolist() == [len(words) for words in found]


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_tokens_leave_out_blanks_alone(texts: list[str]) -> None:
    pages = Pages(texts)
    whole = "\n".join([*texts, ""])
    pieces = [whole[a:b] for a, b in zip(pages.tokens.starts, pages.tokens.stops, strict=True)]
    assert "".join(pieces) == re.sub(r"\s+", "", whole)


def test_tokens_of_an_example() -> None:
    text = "It's 3.14, or 1,000 -- a.b ... well-known (yes)!"
    pages = Pages([text])
    pieces = [text[a:b] for a, b in zip(pages.tokens.starts, pages.tokens.stops, strict=True)]
    assert pieces == [
        "It", "'s", "3.14", ",", "or", "1,000", "--", "a.b", "...", "well", "-", "known", "(", "yes", ")", "!",
    ]  # fmt: skip


@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=4))
def test_hashes_are_equal_for_equal_words_alone(first: list[str], second: list[str]) -> None:
    texts = first + second
    pages = Pages(texts)
    whole = "\n".join([*texts, ""])
    words = [whole[a:b].lower() for a, b in zip(pages.words.starts, pages.words.stops, strict=True)]
    assert (
        len(set(words))
        == len(set(pages.word_hashes.tolist()))
        == len(set(zip(words, pages.word_hashes.tolist(), strict=True)))
    )


def test_a_long_word_is_hashed_whole() -> None:
    words = ["x" * n for n in (31, 32, 33, 34, 4000, 4001)]
    assert len(set(Pages([" ".join(words)]).word_hashes.tolist())) == len(words)
    assert len(set(Pages(["x" * 4000, "x" * 4000]).word_hashes.tolist())) == 1


@given(st.lists(WORDS, max_size=4), st.integers(1, 4))
def test_ngrams_lie_within_a_text(texts: list[str], n: int) -> None:
    pages = Pages(texts)
    found = ngrams(pages.word_hashes, n)[within(pages.words, n)]
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    assert len(found) == len(grams)
    assert len(set(zip(grams, found.tolist(), strict=True))) == len(set(grams)) == len(set(found.tolist()))


def greedily(words: list[str], n: int) -> int:
    seen, i, found = set[tuple[str, ...]](), 0, 0
    while i < len(words) - n + 1:
        gram = tuple(words[i : i + n])
        found, i = (found + len("".join(gram)), i + n) if gram in seen else (found, i + 1)
        seen.add(gram)
    return found


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_repeats_are_those_of_a_loop(texts: list[str]) -> None:
    repeats = Repeats(Pages(texts))
    for n in range(2, 7):
        for number, (top, covered) in enumerate(zip(repeats.top(n), repeats.covered(n), strict=True)):
            words = texts[number].split()
            grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
            first, count = Counter(grams).most_common(1)[0] if grams else ("", 0)
            assert top == len(first) * count
            assert repeats.greedy(number, n) == greedily(words, n) <= covered


@given(st.text("a\nb ", max_size=14))
def test_lines_and_paragraphs_are_those_of_a_regular_expression(text: str) -> None:
    assert paragraphs_of(text) == re.split(r"\n{2,}", text.strip())
    if text.strip("\n"):
        assert lines_of(text) == re.split(r"\n+", text)


@given(st.lists(st.one_of(WORDS, TEXT), min_size=1, max_size=6))
def test_a_signature_is_the_minima_of_its_own_shingles(texts: list[str]) -> None:
    near = MinHash(bands=3, rows=2, words=3)
    together = near.signatures(Pages(texts))
    for number, text in enumerate(texts):
        alone = near.signatures(Pages([text]))
        np.testing.assert_array_equal(alone[0], together[number])
    same = near.signatures(Pages(["One two THREE four", "one  two\nthree, four", "one two", "two one", ""]))
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[2] != same[3]).any()
    assert near.keys(same)[4].tolist() == [0, 0, 0]
