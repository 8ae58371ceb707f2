"""Entropies in closed form against the enumeration of every document of small laws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from isoflop.core.rng import Rng
from isoflop.data.sources.hmm import ALPHABET, HmmPart, Machine
from isoflop.data.sources.pcfg import Grammar, PcfgPart, Rules

GRAMMARS: dict[str, Rules] = {
    "one text": {"S": {"a": 1.0}},
    "geometric": {"S": {"aS": 0.2, "b": 0.8}},
    "brackets": {"S": {"(S)": 0.1, "[SS]": 0.04, "x": 0.56, "y": 0.3}},
    "two levels": {"S": {"aTb": 0.5, "cTT": 0.5}, "T": {"+S": 0.1, "-": 0.6, "*.": 0.3}},
}


def documents_of(rules: Rules, smallest: float) -> Iterator[tuple[str, float]]:
    """Every document with its probability, by leftmost derivation, but for what is less likely than ``smallest``."""
    open_forms = [("", "S", 1.0)]
    while open_forms:
        done, rest, p = open_forms.pop()
        while rest and rest[0] not in rules:
            done, rest = done + rest[0], rest[1:]
        if not rest:
            yield done, p
        elif p > smallest:
            open_forms += [(done, side + rest[1:], p * q) for side, q in rules[rest[0]].items()]


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_grammar(name: str) -> None:
    grammar = Grammar(GRAMMARS[name])
    found = dict(documents_of(GRAMMARS[name], 1e-9))
    total = sum(found.values())
    assert total == pytest.approx(1, abs=1e-4)
    assert len(found) == len(list(documents_of(GRAMMARS[name], 1e-9)))  # no text twice: unambiguous
    assert grammar.mean_bytes == pytest.approx(sum(p * len(text) for text, p in found.items()), abs=2e-3)
    assert grammar.entropy == pytest.approx(sum(-p * math.log2(p) for p in found.values()), abs=2e-3)
    for text, p in itertools.islice(found.items(), 2000):
        assert grammar.bits(text) == pytest.approx(-math.log2(p), abs=1e-9)
        assert math.isinf(grammar.bits(text[:-1]))  # no text is the beginning of another
        assert math.isinf(grammar.bits(text + "x"))
    assert math.isinf(grammar.bits("?"))


def machine(states: int, symbols: int, end: float) -> Machine:
    generator = Rng(states)("test machine").at()
    emission = generator.dirichlet([0.5] * symbols, states)
    emission[0, 0] = 0.0  # an impossible symbol
    emission /= emission.sum(axis=1, keepdims=True)
    return Machine(emission, generator.integers(0, states, (states, symbols)), end)


@pytest.mark.parametrize(("states", "symbols", "longest"), [(1, 2, 13), (2, 2, 13), (3, 3, 9)])
def test_a_hidden_markov_model(states: int, symbols: int, longest: int) -> None:
    model = machine(states, symbols, end=0.85)
    total = size = entropy = 0.0
    for length in range(1, longest + 1):
        for letters in itertools.product(ALPHABET[:symbols], repeat=length):
            p = 1.0
            state = 0
            for place, letter in enumerate(letters):
                x = ALPHABET.index(letter)
                p *= model.emission[state, x] * (model.end if place == length - 1 else 1 - model.end)
                state = int(model.follows[state, x])
            bits = model.bits("".join(letters))
            assert p == pytest.approx(2.0**-bits, abs=1e-15)
            total += p
            size += p * length
            entropy -= p * math.log2(p) if p > 0 else 0
    assert total == pytest.approx(1, abs=1e-7)
    assert model.entropy_per_byte == pytest.approx(entropy / size, abs=1e-5)


def test_the_stationary_law_is_one() -> None:
    model = machine(7, 4, end=0.1)
    law = model.stationary
    assert law.sum() == pytest.approx(1, abs=1e-12)
    assert (law > -1e-15).all()
    assert law[-1] == pytest.approx(law[:-1].sum() * 0.1, abs=1e-12)  # every end is followed by a start


def draws_of(part: PcfgPart | HmmPart) -> list[str]:
    return [document.text for document in part.documents()]


@pytest.mark.parametrize(
    "make",
    [lambda seed: PcfgPart(text_bytes=150_000, seed=seed), lambda seed: HmmPart(text_bytes=400_000, seed=seed)],
    ids=["pcfg", "hmm"],
)
def test_samples_cost_what_the_closed_form_says(make: Callable[[int], PcfgPart | HmmPart]) -> None:
    part = make(1)
    texts = draws_of(part)
    bits = np.array([part.bits(text) for text in texts])
    sizes = np.array([len(text) for text in texts])
    assert np.isfinite(bits).all()
    rate = bits.sum() / sizes.sum()
    stderr = np.sqrt(((bits - rate * sizes) ** 2).sum()) / sizes.sum()
    assert stderr < 0.02 * rate
    assert abs(rate - part.entropy_per_byte) < 4 * stderr
    assert draws_of(part) == texts
    assert draws_of(make(2))[:5] != texts[:5]


def test_more_text_begins_with_the_same_documents() -> None:
    for small, large in [
        (PcfgPart(text_bytes=5000), PcfgPart(text_bytes=20_000)),
        (HmmPart(text_bytes=5000), HmmPart(text_bytes=20_000)),
    ]:
        first, more = draws_of(small), draws_of(large)
        assert len(more) > len(first)
        assert more[: len(first)] == first
