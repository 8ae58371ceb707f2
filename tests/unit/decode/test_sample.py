"""Sampling: cached equals uncached, laws of the draws, cuts, prompts of any length, stops."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from isoflop.core.errors import NumericsError, UsageError
from isoflop.core.rng import Rng
from isoflop.decode.decoders.sample import Sample
from isoflop.models.transformer import Transformer
from transformer_toys import context, part

PROMPTS = [[5, 7, 9, 11], [1], [3, 3, 8], [5, 7, 9, 11]]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return part(mixer={"heads": 4, "kv_heads": 2}).build(context())


@torch.no_grad()
def uncached(model: Any, decoder: Sample, prompt: list[int], budget: int, rng: Rng, index: int) -> list[int]:
    """The same draws with the whole sequence run again for every token."""
    uniform, tokens = rng.at(sample=index).random(budget), list(prompt)
    for number in uniform:
        logits = model(torch.tensor([tokens]))[:, -1]
        tokens.append(int(decoder.choose(logits, torch.tensor([number]))))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8}])
def test_cached_equals_uncached(model: Transformer, fields: dict[str, Any]) -> None:
    decoder, rng = Sample(**fields), Rng(4)
    ours = decoder.generate(model, PROMPTS, 12, rng)
    for index, prompt in enumerate(PROMPTS):
        assert ours[index] == uncached(model, decoder, prompt, 12, rng, index)


def test_a_sample_does_not_depend_on_what_else_is_in_the_batch(model: Transformer) -> None:
    together = Sample().generate(model, PROMPTS, 9, Rng(1))
    assert Sample().generate(model, PROMPTS[:1], 9, Rng(1)) == together[:1]
    assert Sample().generate(model, PROMPTS[:2], 9, Rng(1)) == together[:2]
    assert together[0] != together[3], "equal prompts drew equal numbers"
    assert Sample().generate(model, PROMPTS, 9, Rng(2)) != together


def test_the_global_generator_is_not_used(model: Transformer) -> None:
    before = torch.get_rng_state()
    Sample().generate(model, PROMPTS, 5, Rng(1))
    assert torch.equal(before, torch.get_rng_state())


def test_a_stop_ends_a_sample_and_is_left_out(model: Transformer) -> None:
    free = Sample().generate(model, PROMPTS, 20, Rng(3))
    stop = free[0][6]
    stopped = Sample(stop=stop).generate(model, PROMPTS, 20, Rng(3))
    for whole, cut in zip(free, stopped, strict=True):
        assert cut == (whole[: whole.index(stop)] if stop in whole else whole)
    assert len(stopped[0]) < 20


class Counted:
    """A model that always wants the token after the last one, and counts its calls."""

    head = torch.zeros(10, 1)

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def make_cache(self, batch: int, capacity: int) -> None: ...

    def step(self, tokens: Tensor, cache: None) -> Tensor:
        self.calls.append(tuple(tokens.shape))
        return torch.nn.functional.one_hot((tokens + 1) % 10, 10).double() * 50


def test_decoding_ends_with_the_last_sample() -> None:
    counted = Counted()
    out = Sample(stop=7).generate(counted, [[0, 1, 2, 3], [5], [4, 5, 6]], 100, Rng(0))
    assert out == [[4, 5, 6], [6], []]
    assert counted.calls == [(3, 1)] * 7, "one step a column, none after the last row's stop"


def test_prompts_of_one_length_are_read_at_once() -> None:
    counted = Counted()
    assert Sample(temperature=0).generate(counted, [[1, 2, 3], [4, 5, 6]], 2, Rng(0)) == [[4, 5], [7, 8]]
    assert counted.calls == [(2, 3), (2, 1)]


def test_nothing_to_do(model: Transformer) -> None:
    assert Sample().generate(model, [], 5, Rng(0)) == []
    assert Sample().generate(model, [[1]], 0, Rng(0)) == [[]]
    with pytest.raises(UsageError, match="a prompt is empty"):
        Sample().generate(model, [[1], []], 5, Rng(0))


def chosen(decoder: Sample, p: list[float], draws: int = 4000) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Frequencies of ids over evenly spread numbers: the law itself, without noise."""
    logits = torch.tensor(p).log().expand(draws, -1)
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    return np.bincount(decoder.choose(logits, uniform).numpy(), minlength=len(p)) / draws


P = [0.1, 0.4, 0.05, 0.3, 0.15]


@pytest.mark.parametrize(
    ("fields", "law"),
    [
        ({}, P),
        ({"temperature": 0.5}, [x**2 / sum(y**2 for y in P) for x in P]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 99}, P),
        ({"top_p": 0.7}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]),
        ({"top_p": 0.01}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.6}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
    ],
)
def test_the_law_of_a_draw(fields: dict[str, Any], law: list[float]) -> None:
    if fields.get("top_p") == 0.7:
        fields = {"top_p": 0.6999}  # sums of probabilities are rounded
    np.testing.assert_allclose(chosen(Sample(**fields), P), law, atol=1e-3)


def test_memory_grows_with_what_is_generated(model: Transformer) -> None:
    """A budget far beyond any memory costs nothing before it is used."""
    stop = Sample().generate(model, PROMPTS[:1], 20, Rng(3))[0][9]
    tracemalloc.start()
    try:
        out = Sample(stop=stop).generate(model, PROMPTS[:1], 10**12, Rng(3))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out == Sample(stop=stop).generate(model, PROMPTS[:1], 20, Rng(3))
    assert peak < 1_000_000


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 2.3e-308, 1e-310, 5e-324])
@pytest.mark.parametrize("fields", [{}, {"top_k": 3}, {"top_p": 0.5}])
def test_the_smallest_temperatures_take_the_likeliest(temperature: float, fields: dict[str, Any]) -> None:
    for logits in ([1.0, 3.0, 2.0, -torch.inf], [-700.0, -1.0, -5.0, 0.0], [1e30, 3e30, -3e38, 0.0]):
        drawn = chosen_ids(Sample(temperature, **fields), logits)
        assert set(drawn) == {max(range(4), key=logits.__getitem__)}


def test_equal_logits_are_drawn_equally_at_any_temperature() -> None:
    for temperature in (5e-324, 1e-310, 1.0, 1e308):
        shares = np.bincount(chosen_ids(Sample(temperature), [2.0, 2.0, 2.0, 2.0]), minlength=4)
        assert shares.tolist() == [1000] * 4


@pytest.mark.parametrize("bad", [[torch.nan, 1.0], [torch.inf, 1.0], [-torch.inf, -torch.inf]])
@pytest.mark.parametrize("fields", [{}, {"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.5}])
def test_logits_that_are_not_finite_are_an_error(bad: list[float], fields: dict[str, Any]) -> None:
    with pytest.raises(NumericsError, match="logits are not finite"):
        chosen_ids(Sample(**fields), bad)


def chosen_ids(decoder: Sample, logits: list[float], draws: int = 4000) -> list[int]:
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    ids: list[int] = decoder.choose(torch.tensor(logits).expand(draws, -1), uniform).tolist()
    return ids
