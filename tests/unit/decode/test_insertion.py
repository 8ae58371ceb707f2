"""Tau-leaping with insertions: its counts, its window, its limits, on expectations that are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from isoflop.core.contracts import Filling, Treatment
from isoflop.core.errors import NumericsError, UsageError
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.decode.decoders import insertion
from isoflop.decode.decoders.insertion import GrowingText, InsertionPart
from isoflop.ledger.audit import Audit
from isoflop.models.patterns.full import FullPattern
from transformer_toys import context, part

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


def test_a_sample_ends_by_itself_unless_its_room_was_too_small() -> None:
    def ends(budget: int) -> set[str]:
        made = decoder(steps=16, batch=50, samples=50)
        return {each.ended for each in made.complete(Expects(), [[]], budget, Rng(0))}

    assert ends(60) == {"stop"}
    assert "budget" in ends(4)
    assert ends(0) == {"budget"}
    row = GrowingText(0, 0, [9, *[None] * 5], np.random.default_rng(0), ids=[5, None], sizes=[2])
    row.insert([1, 0, 2], most=9)
    assert not row.short
    row.insert([0, 0, 0, 0, 0, 1], most=9)
    assert row.short, "there is no room for it"


def test_insertions_go_into_their_gaps_or_all_are_dropped() -> None:
    row = GrowingText(0, 0, [9, *[None] * 5], np.random.default_rng(0), ids=[5, None], sizes=[2])
    row.insert([1, 0, 2], most=9)
    assert row.text == [9, None, 5, None, None, None]
    row.insert([1, 0, 0, 0, 0, 0], most=9)
    assert row.text == [9, None, 5, None, None, None], "there is no room for it"


@settings(max_examples=60, deadline=None)
@given(
    template=st.lists(st.sampled_from([None, None, 7, 8]), max_size=12),
    counts=st.lists(st.integers(0, 2), min_size=60, max_size=60),
    most=st.integers(8, 20),
)
def test_what_is_given_stays_whatever_comes_into_the_gaps(
    template: list[int | None], counts: list[int], most: int
) -> None:
    row = GrowingText(0, 0, template, np.random.default_rng(0))
    for _ in range(4):
        before = row.text
        row.insert(counts[: len(row.slots)], most)
        assert [i for i in row.text if i is not None] == [i for i in template if i is not None]
        assert len(row.text) == row.length
        assert row.length <= most or row.text == before
        assert all(size <= room for size, room in zip(row.sizes, row.rooms, strict=True))
        assert [row.text[place] for place in row.places] == row.ids
    gaps = "".join("." if i is None else "x" for i in template).split("x")
    assert row.rooms == [len(gap) for gap in gaps if gap]


def test_the_surest_are_shown_within_a_window_of_the_first_hidden_ones() -> None:
    class Three:
        def poisson(self, mean: float) -> int:
            return 1

    row = GrowingText(0, 0, [None] * 20, Three(), ids=[None] * 20, sizes=[20])  # type: ignore[arg-type]
    margins = np.linspace(0, 1, 20)
    assert row.chosen(0.1, margins) == [4], "of the first five hidden ones, the last has the largest margin"


def test_how_many_are_shown_follows_the_rate_and_which_ones_the_tokens_chances() -> None:
    asked: list[float] = []

    class Means:
        def poisson(self, mean: float) -> int:
            asked.append(mean)
            return 2

    row = GrowingText(0, 0, [None] * 5, Means(), ids=[None, 3, None, None, None], sizes=[5])  # type: ignore[arg-type]
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
    assert InsertionPart().misfit(Filling(mask=3, ids=3, pattern=FullPattern())).endswith("use margin")
    assert not InsertionPart().misfit(FILLING)


# ---------------------------------------------------------------- the house's own model, and gaps

LATE: Any = get("objective", "flexmdm")(times=4)
OWN = LATE.filling(24 + LATE.extra_ids)
TEMPLATES: list[list[int | None]] = [[3, *[None] * 4, 5, 6, *[None] * 2], [*[None] * 6, 7], [None] * 3]


@pytest.fixture(scope="module")
def model() -> Any:
    ctx = context(vocab_size=24 + LATE.extra_ids)
    made = part(positions=24).treated(Treatment(owned=LATE.owned)).build(ctx)
    with torch.no_grad():
        made.owned.outer.weight.mul_(3)
        made.owned.outer.bias.fill_(2.0)
    return made


def own(**fields: Any) -> Any:
    return InsertionPart(**{"steps": 12, "temperature": 1.0, **fields}).build(context(filling=OWN))


def test_gaps_are_filled_with_as_much_as_the_model_wants_and_fits(model: Any) -> None:
    found = list(own(samples=8).infill(model, TEMPLATES, Rng(0)))
    for each in found:
        rooms = [[4, 2], [6], [3]][each.prompt]
        assert len(each.ids) == sum(each.gaps)
        assert all(0 <= size <= room for size, room in zip(each.gaps, rooms, strict=True))
        assert all(0 <= token < 24 for token in each.ids)
    assert len({tuple(each.gaps) for each in found if each.prompt == 0}) > 1, "how many is the model's to say"
    alone = [next(own().infill(model, [template], Rng(0), first=i)) for i, template in enumerate(TEMPLATES)]
    assert [each.ids for each in alone] == [each.ids for each in found if each.sample == 0]
    behind = next(own().complete(model, [[3, 5]], 6, Rng(2)))
    gap = next(own().infill(model, [[3, 5, *[None] * 6]], Rng(2)))
    assert (behind.ids, behind.cost, sum(gap.gaps)) == (gap.ids, gap.cost, len(gap.ids))


def test_a_text_grows_no_longer_than_the_positions_that_were_learned(model: Any) -> None:
    found = own(samples=4).generate(model, [[1] * 5], 500, Rng(0))
    assert max(len(ids) for ids in found) <= 24 - 1 - 5
    with pytest.raises(UsageError, match="more than the 24 positions"):
        own().generate(model, [[1] * 30], 5, Rng(0))


def test_calls_cost_what_is_executed(model: Any) -> None:
    with Audit() as audit:
        found = next(own(steps=3).infill(model, TEMPLATES[:1], Rng(0)))
    assert (found.calls, found.cost.executed) == (3, audit.total())
    nothing = next(own().complete(model, [[1]], 0, Rng(0)))
    assert (nothing.ids, nothing.calls, nothing.cost.flops) == ([], 0, 0)


def test_a_text_of_so_many_tokens_is_priced_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, price = list[int](), insertion.reading_cost
    monkeypatch.setattr(insertion, "reading_cost", lambda of, how, size: (asked.append(size), price(of, how, size))[1])
    found = list(own(samples=2).infill(model, TEMPLATES, Rng(0)))
    assert len(asked) == len(set(asked)) < sum(each.calls for each in found)


def test_what_a_guide_forbids_is_not_written(model: Any) -> None:
    made = own(samples=8)
    made.guide = lambda logits, tokens: logits.index_fill(-1, torch.arange(12), -torch.inf)
    assert all(token >= 12 for ids in made.generate(model, [[1]], 12, Rng(0)) for token in ids)


@pytest.mark.parametrize("wrong", [OWN.mask, OWN.mask + 1, OWN.mask + 4, -1])
def test_ids_that_stand_for_no_text_are_refused(model: Any, wrong: int) -> None:
    for call in (
        lambda: own().generate(model, [[1, wrong]], 5, Rng(0)),
        lambda: [*own().infill(model, [[wrong, None]], Rng(0))],
    ):
        with pytest.raises(UsageError, match=f"{wrong}, which stands for no text"):
            call()
    with pytest.raises(UsageError, match="template 0: hides nothing"):
        list(own().infill(model, [[1, 2]], Rng(0)))


@pytest.mark.parametrize("which", ["norm.weight", "owned.outer.bias"])
def test_numbers_that_are_not_finite_are_an_error(which: str) -> None:
    ctx = context(vocab_size=24 + LATE.extra_ids)
    broken: Any = part().treated(Treatment(owned=LATE.owned)).build(ctx)
    with torch.no_grad():
        dict(broken.named_parameters())[which].fill_(float("nan"))
    with pytest.raises(NumericsError, match="not finite"):
        own().generate(broken, [[1]], 5, Rng(0))
