"""Tau-leaping with insertions: its counts, its window, its limits, on expectations that are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from isoflop.core.contracts import Filling
from isoflop.core.errors import UsageError
from isoflop.core.rng import Rng
from isoflop.decode.decoders.insertion import GrowingText, InsertionPart
from isoflop.models.patterns.full import FullPattern

MASK, TIMES, MEAN = 3, 8, 6.0
FILLING = Filling(mask=MASK, ids=MASK, pattern=FullPattern(), times=TIMES)


class Expects(torch.nn.Module):
    """A model that expects ``MEAN`` tokens in all, spread over the gaps, and id 1 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Parameter(torch.eye(MASK, 4))

    def hidden(self, sequence: Any, seen: Any = None) -> Any:
        vectors = torch.zeros(*sequence.shape, 4)
        vectors[..., 1] = 5.0
        return vectors

    def owned(self, vectors: Any, there: Any) -> Any:
        gaps = torch.zeros(vectors.shape[:2])
        gaps[:, 0] = MEAN  # all of them before the first token
        return gaps * (1 - there)[:, None]


def decoder(**fields: Any) -> Any:
    made = InsertionPart(**fields).build()
    made.filling = FILLING
    return made


def test_the_number_of_inserted_tokens_is_the_one_expected() -> None:
    """Rates that leave out a'/(1 - a), or are taken for chances of a softmax, miss it by far."""
    found = decoder(steps=32, batch=400, samples=400).generate(Expects(), [[]], 60, Rng(0))
    lengths = np.array([len(ids) for ids in found])
    wanted = MEAN * 31 / 32  # nothing is inserted in the last step; (1 - a) a'/(1 - a) dt = dt a step
    assert abs(lengths.mean() - wanted) < 4 * (wanted / 400) ** 0.5
    assert stats.chisquare(*counts(lengths, wanted)).pvalue > 1e-3
    assert all(token == 1 for ids in found for token in ids), "the mask is never written"


def counts(lengths: Any, mean: float) -> tuple[list[float], list[float]]:
    """Observed and expected frequencies of a Poisson law, its tails pooled."""
    edges = [range(3), *([n] for n in range(3, 10))]
    expected = [len(lengths) * sum(stats.poisson.pmf(n, mean) for n in cell) for cell in edges]
    found = [float(sum(int((lengths == n).sum()) for n in cell)) for cell in edges]
    return [*found, len(lengths) - sum(found)], [*expected, len(lengths) - sum(expected)]


def test_nothing_is_inserted_into_the_prompt_and_no_more_than_fits() -> None:
    found = decoder(steps=16, batch=50, samples=50).generate(Expects(), [[2, 0]], 60, Rng(0))
    assert all(ids == [] for ids in found), "all expected gaps lie within the prompt"
    short = decoder(steps=16, batch=50, samples=50).generate(Expects(), [[]], 4, Rng(0))
    assert max(len(ids) for ids in short) <= 4


def test_insertions_go_into_their_gaps_or_all_are_dropped() -> None:
    row = GrowingText(0, 0, [9], np.random.default_rng(0), ids=[5, None])
    row.insert([1, 0, 2], most=5)
    assert row.ids == [None, 5, None, None, None]
    row.insert([1, 0, 0, 0, 0, 0], most=5)
    assert row.ids == [None, 5, None, None, None]


def test_the_surest_are_shown_within_a_window_of_the_first_hidden_ones() -> None:
    class Three:
        def poisson(self, mean: float) -> int:
            return 1

    row = GrowingText(0, 0, [], Three(), ids=[None] * 20)  # type: ignore[arg-type]
    margins = np.linspace(0, 1, 20)
    assert row.chosen(0.1, margins) == [4], "of the first five hidden ones, the last has the largest margin"


def test_how_many_are_shown_follows_the_rate_and_which_ones_the_tokens_chances() -> None:
    asked: list[float] = []

    class Means:
        def poisson(self, mean: float) -> int:
            asked.append(mean)
            return 2

    row = GrowingText(0, 0, [], Means(), ids=[None, 3, None, None, None])  # type: ignore[arg-type]
    assert row.chosen(0.25, np.array([0.1, 0.9, 0.8, 0.2, 0.7])) == [2, 4]
    assert asked == [4 * 0.25]


def test_a_sample_depends_on_its_own_numbers_alone() -> None:
    together = decoder(steps=8).generate(Expects(), [[], [], []], 20, Rng(3))
    alone = [next(decoder(steps=8).complete(Expects(), [[]], 20, Rng(3), first=i)).ids for i in range(3)]
    assert together == alone


def test_it_says_how_many_prompts_it_decodes_together() -> None:
    """Whoever goes on with a file of samples begins where a batch would have begun."""
    assert (decoder(samples=4, batch=32).group, decoder(samples=4, batch=2).group) == (8, 1)


def test_a_model_that_does_not_insert_is_refused() -> None:
    made = InsertionPart().build()
    with pytest.raises(UsageError, match="does not insert"):
        made.generate(Expects(), [[]], 5, Rng(0))
    assert InsertionPart().misfit(Filling(mask=3, ids=3, pattern=FullPattern()))
    assert not InsertionPart().misfit(FILLING)
