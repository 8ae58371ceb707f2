"""What calls of a batch compute and keep: exact where blocks are the model's, approximate where that is asked for."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from isoflop.core.contracts import Filling, Seen
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.decode.unmask import Unmask
from isoflop.models.patterns.blocks import BlocksPattern
from isoflop.models.patterns.full import FullPattern
from transformer_toys import VOCAB, context, part

MASK = VOCAB - 1
FULL = Filling(mask=MASK, ids=MASK, pattern=FullPattern())
BLOCKS = Filling(mask=MASK, ids=MASK, pattern=BlocksPattern(size=4), block=4)
SHIFTED = Filling(mask=MASK, ids=MASK, pattern=FullPattern(), shifted=True)
PROMPTS = [[5, 7, 9, 11, 2, 2, 8], [1], [3, 3, 8, 4]]
TEMPLATES = [[5, None, 9, None, None, 2, None, 8], [1, None, None, None], [None if i % 3 else 4 for i in range(11)]]


class Whole(torch.nn.Module):
    """A model that computes everything in each call, and keeps nothing."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.tokens = model, 0

    @property
    def head(self) -> Tensor:
        return self.model.head  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, seen: Seen = None) -> Tensor:
        self.tokens += tokens.numel()
        return self.model(tokens, seen)  # type: ignore[no-any-return]


class Priced(Whole):
    """One that says what it costs, and notes how often it is asked."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.asked: list[int] = []

    def hidden(self, tokens: Tensor, seen: Seen = None) -> Tensor:
        return self.model.hidden(tokens, seen)  # type: ignore[no-any-return]

    def flops(self, batch: int, length: int, pattern: Any = None) -> Any:
        self.asked.append(length)
        return self.model.flops(batch, length, pattern)


class Recorder(Unmask):
    """Notes the logits of each call."""

    def _logits(self, *args: Any) -> Tensor:
        found = super()._logits(*args)
        self.__dict__.setdefault("seen", []).append(found)
        return found


@pytest.fixture(scope="module")
def model() -> Any:
    return part().build(context())


def run(name: str, model: Any, filling: Filling, fields: dict[str, Any], templates: Any = None) -> Any:
    made = Recorder(get("decoder", name)(temperature=1.0, **fields), filling)
    if templates is None:
        found = list(made.complete(model, PROMPTS, 10, Rng(0)))
    else:
        found = list(made.infill(model, templates, Rng(0)))
    return [each.ids for each in found], made.__dict__["seen"], sum(each.cost.flops for each in found)


@pytest.mark.parametrize("templates", [None, TEMPLATES], ids=["behind prompts", "in gaps"])
@pytest.mark.parametrize("filling", [FULL, BLOCKS, SHIFTED], ids=["full", "blocks", "shifted"])
@pytest.mark.parametrize("name", ["margin", "threshold", "ancestral", "remask"])
def test_calls_give_what_whole_passes_give(name: str, filling: Filling, templates: Any, model: Any) -> None:
    if templates and filling.shifted:
        templates = [[1, *template] for template in templates]
    fields = {"ahead": False} if name == "margin" else {}
    ours, logits, _ = run(name, model, filling, fields, templates)
    theirs, wanted, _ = run(name, Whole(model), filling, fields, templates)
    assert ours == theirs
    assert len(logits) == len(wanted)
    for one, other in zip(logits, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_models_own_blocks_are_computed_once_and_then_kept(model: Any) -> None:
    """Two calls of a block compute its four tokens each, and the next block's first call computes it once more."""
    fields = {"per_call": 2, "temperature": 0.0}
    found = next(Unmask(get("decoder", "margin")(**fields), BLOCKS).complete(model, [[1] * 4], 8, Rng(0)))
    assert found.calls == 4
    width, layers = 32, 2
    per_token = (model.flops(1, 1, FullPattern()).forward.flops - 2 * width * VOCAB) - layers * 4 * width
    computed = 8 + 4 + 8 + 4  # prompt and block; block; the block as it is now and the next one; that one again
    pairs = (4 * 4 + 4 * 8) + 4 * 8 + (4 * 8 + 4 * 12) + 4 * 12
    logits = 4 + 2 + 4 + 2
    assert found.cost.flops == per_token * computed + layers * 4 * width * pairs + 2 * width * VOCAB * logits


@pytest.mark.parametrize("keep", ["before", "around"])
def test_one_call_a_block_keeps_nothing_that_would_have_changed(keep: str, model: Any) -> None:
    fields = {"block": 4, "per_call": 4}
    ours, logits, _ = run("margin", model, FULL, {**fields, "keep": keep})
    theirs, wanted, _ = run("margin", model, FULL, fields)
    assert ours == theirs
    assert all(torch.equal(a, b) for a, b in zip(logits, wanted, strict=True))


def test_what_hides_tokens_again_makes_its_calls_and_no_more(model: Any) -> None:
    """With a model's own blocks, too: to hide a token of an earlier block does not begin its steps anew."""
    made = Unmask(get("decoder", "remask")(steps=6, temperature=1.0), BLOCKS)
    assert [found.calls for found in made.complete(model, PROMPTS, 10, Rng(0))] == [6, 6, 6]


@pytest.mark.parametrize("name", ["margin", "ancestral", "threshold"])
def test_what_is_kept_is_cheaper_and_nearly_the_same(name: str, model: Any) -> None:
    costs = {}
    for keep in (None, "before", "around"):
        fields = {"block": 5, **({} if keep is None else {"keep": keep})}
        ids, logits, costs[keep] = run(name, model, FULL, fields)
        assert [len(each) for each in ids] == [10, 10, 10]
        assert all(torch.isfinite(each).all() for each in logits)
    assert costs["around"] < costs["before"] < costs[None]


def test_kept_parts_follow_their_rows_when_others_are_done(model: Any) -> None:
    """Rows that enter a block at another call than their neighbours, and rows that outlive them, do as if alone."""
    templates = [[None] * 3, [4, *[None] * 12], [None] * 2, [5, 6, *[None] * 7]]
    for fields in ({"keep": "around"}, {"keep": "before"}, {"guidance": 0.5, "keep": "around"}):
        made = Unmask(get("decoder", "margin")(block=5, per_call=2, **fields), FULL)
        together = [each.ids for each in made.infill(model, templates, Rng(0))]
        alone = [next(made.infill(model, [template], Rng(0), first=i)).ids for i, template in enumerate(templates)]
        assert together == alone


def test_rows_that_are_done_cost_nothing(model: Any) -> None:
    made = Unmask(get("decoder", "margin")(), FULL)
    alone = next(made.infill(model, [[1, None, None]], Rng(0)))
    beside = next(made.infill(model, [[1, None, None], [2, *[None] * 9]], Rng(0)))
    assert (beside.ids, beside.calls, beside.cost.flops) == (alone.ids, alone.calls, alone.cost.flops)


def test_a_whole_pass_over_so_many_tokens_is_priced_once(model: Any) -> None:
    priced = Priced(model)
    found = list(Unmask(get("decoder", "margin")(), FULL).complete(priced, PROMPTS, 6, Rng(0)))
    assert len(priced.asked) == len(set(priced.asked))
    for each, prompt in zip(found, PROMPTS, strict=True):
        assert each.cost.flops == 6 * model.flops(1, len(prompt) + 6, FullPattern()).forward.flops


def test_samples_of_blocks_that_are_kept_have_the_models_law() -> None:
    """Enumerated: in random order within blocks of two, of three ids."""
    small = part(positions=4).build(context(vocab_size=4))
    filling = Filling(mask=3, ids=3, pattern=BlocksPattern(size=2), block=2)

    every = torch.tensor(list(itertools.product(range(4), repeat=4)))
    with torch.no_grad():
        p_of = torch.softmax(filling.logits(small, every).double(), -1).view(4, 4, 4, 4, 4, 3).numpy()

    def chance(text: tuple[int, ...]) -> float:
        total = 0.0
        for one, two in itertools.product(((0, 1), (1, 0)), ((2, 3), (3, 2))):
            order, p = (*one, *two), 1.0
            for i, place in enumerate(order):
                shown = tuple(token if j in order[:i] else 3 for j, token in enumerate(text))
                p *= float(p_of[(*shown, place, text[place])])
            total += p / 4
        return total

    law = {text: chance(text) for text in itertools.product(range(3), repeat=4)}
    made = Unmask(get("decoder", "random_order")(temperature=1.0, samples=1500, batch=1500), filling)
    counts = Counter(map(tuple, made.generate(small, [[]], 4, Rng(3))))
    expected = np.array([1500 * law[text] for text in law])
    found = np.array([counts[text] for text in law])
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum()) if rare.any() else expected
    found = np.append(found[~rare], found[rare].sum()) if rare.any() else found
    assert stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue > 1e-3


def test_what_cannot_be_kept_is_said() -> None:
    with pytest.raises(ValueError, match="say how long blocks are"):
        get("decoder", "margin")(keep="around")
    with pytest.raises(ValueError, match="which block and keep would not change"):
        get("decoder", "remask")(keep="around", block=4)
    kept: Any = get("decoder", "margin")(keep="around", block=4)
    assert "leave keep out" in kept.misfit(BLOCKS)
    assert kept.misfit(FULL) == ""
