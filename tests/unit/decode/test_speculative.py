"""Speculative decoding: the model's own law, whatever the draft is worth."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from isoflop.core.contracts import Cacheable
from isoflop.core.errors import UsageError
from isoflop.core.registry import names
from isoflop.core.rng import Rng
from isoflop.decode.decoders.sample import Sample
from isoflop.decode.decoders.speculative import Speculative, SpeculativePart
from isoflop.decode.drafts import Draft, NgramDrafts
from isoflop.decode.sequences import PassFlops, Sequences, StepFlops
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.narrowing import narrowed
from isoflop.models.slots import Piece
from isoflop.models.transformer import Transformer
from transformer_toys import VOCAB, context, part

PROMPTS = [[5, 7, 9, 11, 5, 7, 9], [1], [3, 3, 8, 3, 3]]


def built(seed: int = 0, vocab: int = VOCAB, scale: float = 4.0, **fields: Any) -> Transformer:
    """A model whose logits differ enough to have opinions."""
    model = part(**fields).build(context(rng=Rng(seed), vocab_size=vocab)).eval()
    with torch.no_grad():
        model.head.mul_(scale)
    return model


NESTED = {"name": "nested", "widths": (8, 16, 64)}
MODELS = {"plain": built(), "nested": built(feed_forward=NESTED)}


def drafts() -> list[tuple[str, Any]]:
    """Every kind of draft for every kind of model: a share, another run, ngrams."""
    return [("plain", 0.25), ("nested", 0.125), ("nested", 1.0), ("plain", built(7)), ("plain", "ngrams")]


@pytest.mark.parametrize(("kind", "draft"), drafts(), ids=lambda value: str(value)[:10])
def test_greedy_text_is_the_models_own(kind: str, draft: Any) -> None:
    model, greedy = MODELS[kind], Sample(temperature=0)
    expected = greedy.generate(model, PROMPTS, 30, Rng(0))
    decoder = Speculative(draft, law=greedy)
    found = list(decoder.complete(model, PROMPTS, 30, Rng(5)))
    assert [each.ids for each in found] == expected
    told = found[0]
    assert told.calls * (1 + decoder.ahead) >= 30
    assert Speculative(draft, ahead=1, law=greedy).generate(model, PROMPTS[1:2], 9, Rng(0)) == [expected[1][:9]]
    assert told.figures["tokens_a_call"] == 30 / told.calls
    assert 0 <= told.figures["acceptance"] <= 1
    if draft == 1.0:
        assert told.figures["acceptance"] == 1
        assert told.calls == 6


@pytest.mark.parametrize("mixer", [name for name in names("mixer") if name != "attention"])
def test_every_mixer_lets_a_part_of_the_model_draft(mixer: str) -> None:
    made = TransformerPart(d_model=32, layers=2, mixer=mixer, feed_forward=NESTED)  # type: ignore[arg-type]
    if Cacheable not in made.abilities:
        pytest.skip("keeps no cache")
    model, greedy = made.build(context()).eval(), Sample(temperature=0)
    expected = greedy.generate(model, PROMPTS[:2], 7, Rng(0))
    assert Speculative(0.125, law=greedy).generate(model, PROMPTS[:2], 7, Rng(0)) == expected


def law_of_three(model: Transformer, law: Sample, prompt: list[int], vocab: int) -> dict[tuple[int, ...], float]:
    """The probability of every continuation of three tokens, by enumeration."""
    found = {}
    for ids in itertools.product(range(vocab), repeat=3):
        laws = law.law(model(torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1].detach())
        found[ids] = float(np.prod([float(laws[place, token]) for place, token in enumerate(ids)]))
    return found


def check_law(draft: Any, samples: int, **fields: Any) -> None:
    """Chi-square of three drawn tokens against enumeration; rare continuations are taken together."""
    vocab, prompt, law = 4, [1, 2, 0, 1], Sample(temperature=0.8)
    model = built(3, vocab, 1.0, d_model=16, mixer={"heads": 2}, **fields)
    decoder = Speculative(draft, ahead=2, law=law, samples=samples, batch=500)
    found = [tuple(ids) for ids in decoder.generate(model, [prompt], 3, Rng(11))]
    assert len(found) == samples
    expected = law_of_three(model, law, prompt, vocab)
    common = [ids for ids, p in expected.items() if p * samples >= 5]
    counts = [found.count(ids) for ids in common]
    means = [expected[ids] * samples for ids in common]
    counts.append(samples - sum(counts))
    means.append(max(samples - sum(means), 1e-9))
    if means[-1] < 5:
        counts, means = [*counts[:-2], counts[-2] + counts[-1]], [*means[:-2], means[-2] + means[-1]]
    assert len(counts) > 8
    assert stats.chisquare(counts, means).pvalue > 1e-3
    decoder.samples = 100
    accepted = np.mean([each.figures["acceptance"] for each in decoder.complete(model, [prompt], 3, Rng(2))])
    assert 0.05 < accepted < 1, "a draft that is always or never right tests nothing"


def small_drafts() -> list[tuple[str, Any, dict[str, Any]]]:
    other = built(9, 4, 1.0, d_model=16, mixer={"heads": 2})
    nested = {"feed_forward": {"name": "nested", "widths": (4, 32)}}
    return [("nested", 0.125, nested), ("share", 0.25, {}), ("run", other, {}), ("ngrams", "ngrams", {})]


@pytest.mark.parametrize(("name", "draft", "fields"), small_drafts(), ids=lambda value: str(value)[:10])
def test_samples_have_the_models_law(name: str, draft: Any, fields: dict[str, Any]) -> None:
    check_law(draft, 600, **fields)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "draft", "fields"), small_drafts(), ids=lambda value: str(value)[:10])
def test_twenty_thousand_samples_have_the_models_law(name: str, draft: Any, fields: dict[str, Any]) -> None:
    check_law(draft, 20_000, **fields)


def test_what_is_accepted_and_what_is_drawn_instead() -> None:
    """p = (.5, .3, .2), q = (.2, .6, .2): token 1 is accepted by chance .5, else token 0 is drawn."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64)
    laws = torch.stack([p, p])
    assert Speculative.judged(Draft([1], [q]), laws, [0.49, 0.9]) == [1, 2]
    assert Speculative.judged(Draft([1], [q]), laws, [0.51, 0.999]) == [0]
    assert Speculative.judged(Draft([0], [q]), laws, [0.999, 0.0]) == [0, 0]
    assert Speculative.judged(Draft([1], [None]), laws, [0.31, 0.7]) == [0]
    assert Speculative.judged(Draft([1], [None]), laws, [0.31, 0.72]) == [2]
    assert Speculative.judged(Draft([1], [None]), laws, [0.29, 0.0]) == [1, 0]


def test_samples_do_not_depend_on_what_else_is_decoded() -> None:
    model = MODELS["nested"]
    decoder = Speculative(0.25, law=Sample())
    together = decoder.generate(model, PROMPTS, 12, Rng(1))
    apart = [next(iter(decoder.complete(model, [p], 12, Rng(1), first=i))).ids for i, p in enumerate(PROMPTS)]
    assert together == apart


def test_a_stop_and_a_listener_end_a_sample() -> None:
    model, greedy = MODELS["plain"], Sample(temperature=0)
    whole = greedy.generate(model, [[5, 7]], 20, Rng(0))[0]
    stop = whole[6]
    expected = whole[: whole.index(stop)]
    found = next(Speculative(1.0, law=greedy, stop=stop).complete(model, [[5, 7]], 20, Rng(0)))
    assert (found.ids, found.ended) == (expected, "stop")
    heard = []

    def listen(prompt: int, sample: int, token: int) -> bool:
        heard.append(token)
        return len(heard) == 3

    found = next(Speculative(1.0, law=greedy).complete(model, [[5, 7]], 20, Rng(0), listen=listen))
    assert (found.ids, found.ended, heard) == (whole[:3], "told", whole[:3])


def test_a_narrowed_model_is_the_slice_and_leaves_the_model_alone() -> None:
    model = MODELS["nested"]
    before = model(torch.tensor([[1, 2, 3]]))
    small = narrowed(model, 0.25)
    assert (
        small.flops(1, 9).forward.flops
        == part(feed_forward={"name": "swiglu", "hidden": 16}).work(1, 9, VOCAB).forward.flops
    )
    assert torch.equal(model(torch.tensor([[1, 2, 3]])), before)
    plain = MODELS["plain"]
    cut, hidden = narrowed(plain, 0.5), plain.blocks[0].feed_forward.up.weight.shape[0] // 2  # type: ignore[index]
    assert cut.blocks[0].feed_forward.up.weight.shape[0] == hidden  # type: ignore[index]
    assert torch.equal(cut.blocks[1].feed_forward.down.weight, plain.blocks[1].feed_forward.down.weight[:, :hidden])  # type: ignore[index]
    assert not torch.equal(cut(torch.tensor([[1, 2]])), plain(torch.tensor([[1, 2]])))


def test_flops_are_those_of_the_steps() -> None:
    model = MODELS["plain"]
    counted = StepFlops(PassFlops(model))
    steps = [(0, 7), (7, 1), (8, 5), (10, 5), (11, 1), (12, 3), (15, 2)]
    for past, new in steps:
        counted.add(past, new, 1)
    whole = [model.flops(1, n).forward.flops for n in range(1, 20)]
    head = 2 * model.head.numel()
    expected = sum(whole[p + n - 1] - (whole[p - 1] if p else 0) - (n - 1) * head for p, n in steps)
    assert counted.total == expected
    windowed = part(mixer={"heads": 4, "pattern": {"name": "window", "size": 4}}).build(context())
    own = StepFlops(PassFlops(windowed))
    for past, new in steps:
        own.add(past, new, new)
    assert own.total == sum(
        windowed.flops(1, p + n).forward.flops - (windowed.flops(1, p).forward.flops if p else 0) for p, n in steps
    )


def test_rows_go_on_after_they_were_cut_short_as_if_nothing_had_been_there() -> None:
    model = MODELS["plain"]
    for ready in (model.prepared(2), _Foreign(model)):
        held = Sequences(ready, 2)
        held.step([Piece(0, [1, 2, 3, 4], 1), Piece(1, [9], 1)])
        held.truncate(0, 2)
        found = held.step([Piece(0, [7], 1), Piece(1, [8, 7], 2)])
        torch.testing.assert_close(found[0], model(torch.tensor([[1, 2, 7]]))[0, -1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(found[1], model(torch.tensor([[9, 8, 7]]))[0, -2:], rtol=0, atol=1e-5)
        assert held.lengths == [3, 3]


class _Foreign:
    """A model that only keeps a cache, and knows nothing of rows that come and go."""

    def __init__(self, model: Transformer) -> None:
        self.head, self.make_cache, self.step = model.head, model.make_cache, model.step  # type: ignore[attr-defined]


def test_ngrams_find_what_followed_the_longest_ending() -> None:
    drafts = NgramDrafts(1)
    assert drafts.propose([[1, 2, 3, 9, 2, 3, 8, 1, 2, 3]], [2], None)[0].ids == [9, 2]
    assert drafts.propose([[1, 2, 3, 9, 2, 3, 8, 1, 2, 3, 4]], [2], None)[0].ids == []
    assert NgramDrafts(1).propose([[4]], [2], None)[0].ids == []


def test_drafts_that_do_not_fit_are_refused() -> None:
    model = MODELS["nested"]
    with pytest.raises(UsageError, match=r"0.3 of its hidden units is none of .*\(shares 0.125, 0.25, 1\); use 0.25"):
        Speculative(0.3).generate(model, [[1]], 2, Rng(0))
    with pytest.raises(UsageError, match="the draft knows 60 ids, and the model 53"):
        Speculative(built(1, 60)).generate(model, [[1]], 2, Rng(0))
    with pytest.raises(UsageError, match="the model 'other', which is to draft, was not read"):
        SpeculativePart(draft="other").build()
    with pytest.raises(UsageError, match="a feed-forward ExpertLayer has no hidden units"):
        Speculative(0.5).generate(built(feed_forward="experts"), [[1]], 2, Rng(0))
