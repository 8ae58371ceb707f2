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
def uncached(
    model: Any, decoder: Sample, prompt: list[int], budget: int, rng: Rng, index: int, sample: int = 0
) -> list[int]:
    """The same draws with the whole sequence run again for every token."""
    uniform, tokens = rng.at(step=sample, sample=index).random(budget), list(prompt)
    for number in uniform:
        logits = model(torch.tensor([tokens]))[:, -1]
        if decoder.repetition_penalty != 1:
            for i in set(tokens):
                logit = logits[0, i]
                logits[0, i] = logit * decoder.repetition_penalty if logit < 0 else logit / decoder.repetition_penalty
        tokens.append(int(decoder.choose(logits, torch.tensor([number]))))
    return tokens[len(prompt) :]


FIELDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.7, "top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.3, "typical": 0.6},
    {"repetition_penalty": 1.7},
    {"temperature": 0.0, "repetition_penalty": 3.0},
]


@pytest.mark.parametrize("fields", FIELDS)
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
    """A model that always wants the token after the last one, and notes its calls."""

    head = torch.zeros(10, 1)

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.caches: list[tuple[int, int, Any]] = []
        self.selected: list[list[int]] = []

    def make_cache(self, batch: int, capacity: int, *, pads: Any = None) -> Counted:
        self.caches.append((batch, capacity, pads))
        return self

    def select(self, rows: list[int]) -> None:
        self.selected.append(list(rows))

    def step(self, tokens: Tensor, cache: Counted, last: int | None = None) -> Tensor:
        self.calls.append(tuple(tokens.shape))
        assert last == 1, "no logits but the last ones are wanted"
        return torch.nn.functional.one_hot((tokens[:, -1:] + 1) % 10, 10).double() * 50


def test_decoding_ends_with_the_last_sample_and_leaves_those_behind_that_have_ended() -> None:
    counted = Counted()
    out = Sample(stop=7).generate(counted, [[0, 1], [5], [4, 5, 6], [9]], 100, Rng(0))
    assert out == [[2, 3, 4, 5, 6], [6], [], [0, 1, 2, 3, 4, 5, 6]]
    assert counted.caches == [(4, 3 + 99, [1, 2, 0, 2])]
    assert counted.calls == [(4, 3), *[(3, 1)] * 5, *[(1, 1)] * 2], "one read, then a token a call"
    assert counted.selected == [[0, 1, 3], [2]], "the longest has ended first; the next to end walks on for company"


def test_what_has_ended_goes_no_farther_than_what_goes_on() -> None:
    """The longest prompt ends first, and the others fill the positions that the model has learned, and no more."""
    model = part(positions=9).build(context())
    prompts = [[1] * 9, [2] * 3, [3] * 4, [4] * 2]
    stopping = list(Sample().complete(model, prompts, 6, Rng(0), listen=lambda prompt, sample, token: prompt == 0))
    assert [each.ended for each in stopping] == ["told", "budget", "budget", "budget"]
    alone = [Sample().generate(model, [prompt], 6, Rng(0)) for prompt in prompts[3:]]
    assert len(stopping[3].ids) == len(alone[0][0]) == 6


def test_samples_of_a_prompt_read_it_once() -> None:
    counted = Counted()
    out = Sample(samples=3).generate(counted, [[1, 2, 3], [4]], 2, Rng(0))
    assert out == [[4, 5]] * 3 + [[5, 6]] * 3
    assert counted.calls == [(2, 3), (6, 1)]
    assert counted.selected == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 99])
@pytest.mark.parametrize(
    "fields", [{}, {"samples": 3}, {"temperature": 0.0, "samples": 2}, {"repetition_penalty": 2.0}]
)
def test_samples_are_the_same_whatever_the_batch(model: Transformer, batch: int, fields: dict[str, Any]) -> None:
    """Seed, prompt and sample alone decide, and each equals the uncached draw."""
    decoder = Sample(**fields, batch=batch)
    found = list(decoder.complete(model, PROMPTS, 8, Rng(6)))
    samples = fields.get("samples", 1)
    assert [(each.prompt, each.sample) for each in found] == [(i, s) for i in range(4) for s in range(samples)]
    for each in found:
        wanted = uncached(model, decoder, PROMPTS[each.prompt], 8, Rng(6), each.prompt, each.sample)
        assert each.ids == wanted


def test_prompts_may_come_one_by_one_and_be_counted_from_anywhere(model: Transformer) -> None:
    decoder = Sample(batch=2, samples=2)
    every = list(decoder.complete(model, PROMPTS, 5, Rng(6)))
    later = list(decoder.complete(model, iter(PROMPTS[2:]), 5, Rng(6), first=2))
    assert later == every[4:]


def test_logprobs_are_the_models_own(model: Transformer) -> None:
    decoder = Sample(temperature=0.5, top_k=3, repetition_penalty=1.5, logprobs=True)
    for found in decoder.complete(model, PROMPTS, 6, Rng(0)):
        tokens = PROMPTS[found.prompt] + found.ids
        with torch.no_grad():
            own = model(torch.tensor([tokens]))[0].log_softmax(-1)
        wanted = [own[len(PROMPTS[found.prompt]) - 1 + j, token].item() for j, token in enumerate(found.ids)]
        np.testing.assert_allclose(found.logprobs, wanted, atol=1e-5)
    assert all(not found.logprobs for found in Sample().complete(model, PROMPTS, 3, Rng(0)))


def test_a_listener_hears_every_token_and_ends_its_sample(model: Transformer) -> None:
    heard: dict[tuple[int, int], list[int]] = {}

    def listen(prompt: int, sample: int, token: int) -> bool:
        mine = heard.setdefault((prompt, sample), [])
        mine.append(token)
        return prompt == 1 and len(mine) == 3

    free = Sample(samples=2).generate(model, PROMPTS, 7, Rng(0))
    found = list(Sample(samples=2).complete(model, PROMPTS, 7, Rng(0), listen=listen))
    assert {(each.prompt, each.sample): each.ids for each in found} == heard
    for each, whole in zip(found, free, strict=True):
        assert each.ids == whole[: 3 if each.prompt == 1 else 7]
        assert each.ended == ("told" if each.prompt == 1 else "budget")


def test_int8_weights_decode_and_a_model_without_them_says_so(model: Transformer) -> None:
    assert [len(ids) for ids in Sample(weights="int8").generate(model, PROMPTS, 4, Rng(0))] == [4] * 4
    with pytest.raises(UsageError, match="cannot compute with int8 weights"):
        Sample(weights="int8").generate(Counted(), [[1]], 4, Rng(0))


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
