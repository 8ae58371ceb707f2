"""FlexMDM: what is left of a text at a time, the loss as recorded and as enumerated, and what the objective owns."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Draws, TokenBatch, Treatment
from isoflop.core.courses import course
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.core.roles import numel, parameter_groups
from isoflop.models.insertion import GapHead, OwnsGapHead, expected_gaps, read, token_logits
from isoflop.objectives.losses.flexmdm import FlexMdm, gap_losses
from isoflop.objectives.vanishing import left_at, poisson_loss, times_of
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.run import train
from transformer_toys import context

IDS, LENGTH, TIMES = 3, 3, 4
PART: Any = get("objective", "flexmdm")
TEXT = torch.tensor([[0, 1, 2], [2, 2, 0]])


def made(**fields: Any) -> FlexMdm:
    """The objective on a small model, far from knowing nothing."""
    part = PART(times=TIMES, **fields)
    policy: Any = get("model", "transformer")(d_model=16, layers=1, mixer={"name": "attention", "heads": 2})  # type: ignore[call-arg]
    ctx = context(vocab_size=IDS + part.extra_ids)
    model = policy.treated(Treatment(owned=part.owned)).build(ctx)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return part.build(ctx.having(models={"policy": model}))  # type: ignore[no-any-return]


def batch_of(x: torch.Tensor, rows: int = 1, step: int = 0, mask: torch.Tensor | None = None) -> TokenBatch:
    targets = x.repeat_interleave(rows, 0)
    return TokenBatch(targets, targets, 0, mask, draws=Draws(Rng(5), step))


# ---------------------------------------------------------------- what is left


def test_what_is_left_is_what_came_in_order_and_gaps_count_the_rest() -> None:
    draw = np.random.default_rng(0)
    rows, length = 300, 9
    may = np.zeros((rows, length), np.bool_)
    for row in range(rows):
        first, last = sorted(draw.integers(0, length + 1, 2))
        may[row, first:last] = draw.random(last - first) < 0.8
    comes, shows = times_of(course("sine"), course("linear"), draw.random(may.shape), draw.random(may.shape))
    t = draw.random(rows)
    left = left_at(t, comes, shows, may)
    for row in range(rows):
        ends = np.flatnonzero(may[row])
        real = range(int(ends[-1]) + 1 if len(ends) else 0)
        there = [i for i in real if not may[row, i] or comes[row, i] <= t[row]]
        count = int(left.lengths[row])
        assert left.places[row, :count].tolist() == there
        assert left.hidden[row, :count].tolist() == [bool(may[row, i] and t[row] < shows[row, i]) for i in there]
        assert not left.hidden[row, count:].any()
        edges = [-1, *there, len(real)]
        missing = [b - a - 1 for a, b in itertools.pairwise(edges)]
        assert left.gaps[row].tolist() == missing + [0] * (length - count)
        closed = [
            gap == 0 and not (set(edges[j : j + 2]) & set(ends)) and (edges[j] == -1 or not may[row, edges[j]])
            for j, gap in enumerate(missing)
        ]
        for j, gap in enumerate(missing):
            assert left.open[row, j] or gap == 0, "what is missing can be guessed"
            if closed[j] and j < len(missing) - 1:
                assert not left.open[row, j], "nothing comes between tokens that are given"
        assert not left.open[row, count + 1 :].any()


def test_the_shares_at_a_time_are_the_derived_ones() -> None:
    """With linear courses t of the tokens are there and t + (1 - t) ln(1 - t) are shown."""
    draw, n = np.random.default_rng(1), 200_000
    comes, shows = times_of(course("linear"), course("linear"), draw.random(n), draw.random(n))
    for t in (0.2, 0.5, 0.9):
        assert (comes <= t).mean() == pytest.approx(t, abs=0.005)
        assert (shows <= t).mean() == pytest.approx(t + (1 - t) * np.log(1 - t), abs=0.005)


@pytest.mark.parametrize("kind", ["linear", "sin"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_left_and_loss_are_as_recorded(shared: Path, number: int, kind: str) -> None:
    kept: Any = np.load(shared / "data" / "models" / f"ref_vectors_{number}.npz")
    at = {name: kept[f"flex_{kind}_{name}"] for name in ("insert_time", "unmask_time", "xt", "gaps", "gap_mask")}
    x, t = kept["flex_x1"], kept["flex_t"].astype(np.float64)
    may = x != 13
    left = left_at(t, at["insert_time"], at["unmask_time"], may)
    behind = np.arange(x.shape[1]) >= left.lengths[:, None]
    xt = np.where(behind, 13, np.where(left.hidden, 11, np.take_along_axis(x, left.places, 1)))
    assert np.array_equal(xt, at["xt"])
    assert np.array_equal(left.hidden, kept[f"flex_{kind}_mask_idx"])
    opened = np.where(may.any(1)[:, None], left.open, at["gap_mask"])  # ours takes a row without a text for none
    assert np.array_equal(opened, at["gap_mask"])
    assert np.array_equal(left.gaps[opened], at["gaps"][opened])
    targets = np.take_along_axis(x, left.places, 1)
    inserted = course("linear" if kind == "linear" else "sine")
    logits = torch.from_numpy(kept[f"flex_{kind}_token_logits"]).double()
    nll = -torch.log_softmax(logits, -1).gather(-1, torch.from_numpy(targets)[..., None].clamp(max=11)).squeeze(-1)
    unmasking = (nll.numpy() * left.hidden * course("linear").rate(t)[:, None]).sum() / x.size
    assert unmasking == pytest.approx(float(kept[f"flex_{kind}_unmask_loss"]), rel=2e-3)
    guessed = torch.from_numpy(kept[f"flex_{kind}_expected_gaps"])
    losses = gap_losses(guessed, torch.from_numpy(left.gaps)).numpy() * opened * inserted.rate(t)[:, None]
    assert losses.sum() / x.size == pytest.approx(float(kept[f"flex_{kind}_insert_loss"]), rel=2e-3)


def test_the_loss_of_a_gap_is_its_plain_form() -> None:
    expected, missing = torch.tensor([[0.5, 2.0, 1.0, 3.0]]), torch.tensor([[0, 2, 4, 1]])
    plain = [poisson_loss(float(h), float(g)) for h, g in zip(expected[0], missing[0], strict=True)]
    torch.testing.assert_close(gap_losses(expected, missing)[0], torch.tensor(plain))
    assert float(gap_losses(torch.zeros(1, 1), torch.ones(1, 1))) < 20, "log 0 is not taken"


# ---------------------------------------------------------------- the bound


def exact_bound(objective: FlexMdm, x: torch.Tensor, steps: int = 150) -> float:
    """The integral over time of the mean over all 3^L states of a text: missing, hidden or shown, token by token."""
    total = 0.0
    states = np.array(list(itertools.product((0, 1, 2), repeat=LENGTH)))
    for u in (np.arange(steps) + 0.5) / steps:
        t = 1 - (1 - u) ** 2  # finer towards 1, where the weights grow
        shown = t + (1 - t) * np.log(1 - t)
        chances = np.prod(np.array([1 - t, t - shown, shown])[states], 1)
        n = len(states)
        comes, shows = np.where(states == 0, 2.0, 0.0), np.where(states == 2, 0.0, 2.0)
        left = left_at(np.full(n, t), comes, shows, np.ones_like(states, np.bool_))
        places, hidden = torch.from_numpy(left.places), torch.from_numpy(left.hidden)
        targets = x[places]
        vectors = read(
            objective.policy,
            objective.filling,
            targets.masked_fill(hidden, IDS),
            torch.from_numpy(left.lengths),
            torch.full((n,), t),
        )
        logp = torch.log_softmax(token_logits(objective.policy, objective.filling, vectors), -1)
        nll = (-logp.gather(-1, targets[..., None]).squeeze(-1) * hidden).sum(1)
        gaps = gap_losses(expected_gaps(objective.policy, vectors, torch.full((n,), t)), torch.from_numpy(left.gaps))
        each = nll.numpy() + (gaps * torch.from_numpy(left.open)).sum(1).numpy()
        total += float((chances * each).sum()) / (1 - t) * 2 * (1 - u) / steps
    return total


@torch.no_grad()
def test_the_estimate_is_the_enumerated_bound() -> None:
    objective = made()
    bound = sum(exact_bound(objective, x) for x in TEXT)
    rows, steps = 200, 8
    totals = torch.stack([objective.loss(batch_of(TEXT, rows, step)).total for step in range(steps)]) / rows
    error = float(totals.std()) / steps**0.5
    assert float(totals.mean()) == pytest.approx(bound, abs=4 * error + 0.01 * bound)
    assert error < 0.04 * bound, "close enough to tell a wrong weight"
    assert float(objective.nll(batch_of(TEXT, rows)).total) / rows == pytest.approx(bound, rel=0.05)


def test_it_says_what_its_two_parts_are() -> None:
    loss = made().loss(batch_of(TEXT, 8))
    assert float(loss.total.detach()) == pytest.approx(float(loss.terms["unmasking"] + loss.terms["insertion"]))


@torch.no_grad()
def test_padding_is_nothing_and_what_lies_behind_does_not_matter() -> None:
    objective, t = made(), torch.tensor([0.5])
    short = read(objective.policy, objective.filling, torch.tensor([[0, 1]]), torch.tensor([2]), t)
    for filler in (0, 2, IDS):
        longer = read(objective.policy, objective.filling, torch.tensor([[0, 1, filler]]), torch.tensor([2]), t)
        torch.testing.assert_close(longer[:, :3], short)


def test_texts_that_share_a_row_are_refused() -> None:
    alone, several = torch.tensor([[1, 1, 0], [1, 1, 0]]), torch.tensor([[1, 1, 2], [1, 1, 1]])
    batch = TokenBatch(TEXT, TEXT, 0, alone > 0, columns={"documents": alone}, draws=Draws(Rng(0)))
    assert made().loss(batch).total.isfinite(), "padding is no text"
    with pytest.raises(UsageError, match="cannot grow apart"):
        made().loss(TokenBatch(TEXT, TEXT, 0, columns={"documents": several}, draws=Draws(Rng(0))))


# ---------------------------------------------------------------- what it owns


def test_what_it_owns_is_the_policys_in_groups_cost_and_names() -> None:
    part = get("model", "transformer")(d_model=16, layers=1).treated(Treatment(owned=OwnsGapHead()))  # type: ignore[attr-defined, call-arg]
    model = part.build(context())
    assert isinstance(model.owned, GapHead)
    own = {shape.name: shape.shape for shape in part.all_shapes(53)}
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == own
    assert numel(part.trained_shapes(53)) == sum(p.numel() for g in parameter_groups(model) for p in g.params)
    frozen = part.treated(Treatment(freeze=("owned.*",), owned=OwnsGapHead()))
    assert not any(name.startswith("owned") for g in parameter_groups(frozen.build(context())) for name in g.names)
    alone = SimpleNamespace(alone=True, targets=("*",), build=None, shapes=lambda *_: [])
    assert Treatment(alone, owned=OwnsGapHead()).trains(part.all_shapes(53)[-1]), "an adapter leaves it to be trained"  # type: ignore[arg-type]


SMALL = ('source={name="pcfg", text_bytes=20000, heldout_bytes=200}', "train.length=12", "train.evaluations=1")


def test_a_run_begins_with_another_objectives_and_resumes_with_the_same_bytes(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """From left to right, then filling in, then inserting: each takes the last one's weights and adds its own ids."""
    plain = Recipe.load(tiny(), *SMALL, "name=plain", "budget.steps=2")
    begun = train(plain, tmp_path)
    masked = Recipe.load(
        tiny(),
        *SMALL,
        "name=masked",
        "budget.steps=2",
        f'start="{begun.path}"',
        "objective={name='masked', shifted=true}",
    )
    first = assemble(masked, Run.open(tmp_path / "look", masked)).parts.model.state_dict()
    before = assemble(plain, Run.open(tmp_path / "none", plain))
    before.load(*begun.checkpoint())  # type: ignore[misc]
    for name, weight in before.parts.model.state_dict().items():
        assert torch.equal(first[name][: len(weight)], weight)
        assert len(first[name]) - len(weight) == ("embedding" in name)
    filled = train(masked, tmp_path)
    flex = Recipe.load(
        tiny(),
        *SMALL,
        "budget.steps=4",
        "train.checkpoints=2",
        f'start="{filled.path}"',
        "objective={name='flexmdm', times=2}",
    )
    whole = assemble(flex, Run.open(tmp_path / "whole", flex))
    assert torch.equal(
        whole.parts.model.state_dict()["embedding.weight"][:258],
        assembled(masked, filled)["embedding.weight"],
    )
    losses = [whole.train_step()[0].loss for _ in range(4)]
    half = assemble(flex, Run.open(tmp_path / "half", flex))
    half.train_step()
    half.save()
    again = assemble(flex, Run.open(tmp_path / "half", flex))
    again.resume()
    assert [again.train_step()[0].loss for _ in range(3)] == losses[1:]
    for name, weight in whole.parts.model.state_dict().items():
        assert torch.equal(weight, again.parts.model.state_dict()[name])


def assembled(recipe: Recipe, run: Run) -> dict[str, torch.Tensor]:
    """The weights of a run that is done."""
    session = assemble(recipe, run)
    session.load(*run.checkpoint())  # type: ignore[misc]
    return session.parts.model.state_dict()


def test_a_trained_run_costs_what_was_planned_and_is_measured_as_a_bound(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = Recipe.load(tiny(), *SMALL, "budget.steps=30", "objective={name='flexmdm', samples=2}", "train.batch=16")
    run = train(recipe, tmp_path, audit=True)
    losses = [record["loss"] for record in run.metrics("step")]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert run.metrics("evaluation")[-1]["bound"]


def test_ids_that_are_too_many_or_too_few_are_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = Recipe.load(tiny(), *SMALL, "name=masked", "budget.steps=1", "objective=masked")
    run = train(recipe, tmp_path)
    with pytest.raises(RecipeError, match="knows 258 ids, this recipe has 257"):
        Recipe.load(tiny(), *SMALL, f'start="{run.path}"')
    with pytest.raises(RecipeError, match="isolate_documents"):
        Recipe.load(tiny(), *SMALL, "objective=flexmdm", "train.isolate_documents=true")
