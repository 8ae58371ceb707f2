"""Every dialect of masked diffusion estimates one bound, on a model small enough to enumerate."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Draws, Filling, TokenBatch
from isoflop.core.courses import course
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.ledger.audit import Audit
from isoflop.models.patterns.causal import CausalPattern
from isoflop.models.patterns.full import FullPattern
from isoflop.objectives.losses.masked import Masked
from isoflop.objectives.losses.next_token import NextToken
from isoflop.objectives.masking import Corruption, given
from isoflop.objectives.orders import enumerated, in_order
from transformer_toys import context

IDS, LENGTH = 3, 4  # and the mask, id 3
TEXT = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 2]])
SHARED = Path(os.environ.get("ISOFLOP_SHARED", "../shared")) / "data" / "models"
FULL = Filling(mask=IDS, ids=IDS, pattern=FullPattern())


@pytest.fixture(scope="module")
def model() -> Any:
    part: Any = get("model", "transformer")(d_model=16, layers=1, mixer={"name": "attention", "heads": 2})  # type: ignore[call-arg]
    built = part.build(context(vocab_size=IDS + 1))
    with torch.no_grad():
        for p in built.parameters():
            p.mul_(2)  # far from uniform
    return built


def batch_of(x: torch.Tensor, rows: int = 1, step: int = 0, **columns: torch.Tensor) -> TokenBatch:
    """``rows`` copies of each text; what comes before a text is id 0."""
    targets = x.repeat_interleave(rows, 0)
    inputs = torch.cat((torch.zeros_like(targets[:, :1]), targets[:, :-1]), 1)
    return TokenBatch(inputs, targets, 0, columns.pop("mask", None), columns, draws=Draws(Rng(5), step))


DIALECTS = {
    "bernoulli": (Corruption(), FULL),
    "a course": (Corruption(course="cosine"), FULL),
    "stratified": (Corruption("stratified", course="sine"), FULL),
    "count": (Corruption("count"), FULL),
    "shifted": (Corruption("count"), Filling(IDS, IDS, FullPattern(), shifted=True)),
    "blocks": (Corruption("count", block=2), Filling(IDS, IDS, get("pattern", "blocks")(size=2), block=2)),  # type: ignore[call-arg,arg-type]
}


@torch.no_grad()
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_estimates_the_enumerated_bound(model: Any, dialect: str) -> None:
    corruption, filling = DIALECTS[dialect]
    objective = Masked(model, filling, corruption, samples=4)
    whole = [enumerated(objective.log_p(batch_of(TEXT), row), [True] * LENGTH, filling.block) for row in range(2)]
    bound, rows, steps = sum(mean for _, mean in whole), 160, 10
    totals = torch.stack([objective.loss(batch_of(TEXT, rows, step)).total for step in range(steps)]) / rows
    error = float(totals.std()) / steps**0.5
    assert float(totals.mean()) == pytest.approx(bound, abs=4 * error)
    assert error < 0.04 * bound, "close enough to tell a wrong weight"
    measured = objective.nll(batch_of(TEXT, rows)).total / rows
    assert float(measured) == pytest.approx(bound, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("dialect", ["bernoulli", "shifted", "blocks"])
def test_orders_have_the_bound_as_their_mean_and_exact_is_the_mean_of_p(model: Any, dialect: str) -> None:
    """Every order that a sampler may take, one by one, beside what the enumeration over subsets says."""
    _, filling = DIALECTS[dialect]
    by_orders = Masked(model, filling, samples=200, estimate="orders")
    log_p = by_orders.log_p(batch_of(TEXT), 1)
    block = filling.block or LENGTH
    orders = [
        o
        for o in itertools.permutations(range(LENGTH))
        if [i // block for i in np.argsort(o)] == sorted(i // block for i in range(LENGTH))
    ]
    logs = torch.tensor([-in_order(log_p, order) for order in orders], dtype=torch.float64)
    exact, bound = enumerated(log_p, [True] * LENGTH, filling.block)
    assert bound == pytest.approx(-float(logs.mean()), rel=1e-6)
    assert exact == pytest.approx(-float(torch.logsumexp(logs, 0)) + np.log(len(orders)), rel=1e-6)
    assert exact < bound
    assert by_orders.bound
    measured = by_orders.nll(batch_of(TEXT[1:]))
    assert float(measured.total) == pytest.approx(bound, abs=4 * float(logs.std()) / 200**0.5 + 1e-6)
    exactly = Masked(model, filling, estimate="exact")
    assert not exactly.bound
    assert float(exactly.nll(batch_of(TEXT[1:])).total) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("estimate", ["masks", "orders", "exact"])
@pytest.mark.parametrize("fields", [{"shifted": True}, {"block": 2}, {"focal": 2.0}])
def test_work_and_what_measuring_spends_equal_the_audit(fields: dict[str, Any], estimate: str) -> None:
    part: Any = get("objective", "masked")
    chosen, batch = part(**fields, samples=2, estimate=estimate), batch_of(TEXT)
    policy: Any = get("model", "transformer")(d_model=16, layers=1)  # type: ignore[call-arg]
    ctx = context(vocab_size=IDS + 1)
    live = chosen.build(ctx.having(models={"policy": policy.build(ctx)}))
    with Audit() as audit:
        live.loss(batch).total.backward()
    assert audit.total() == chosen.work(policy, 2, LENGTH, IDS + 1).total.executed
    with Audit() as audit:
        spent = live.nll(batch).spent
    assert audit.total() == spent["evaluation"].executed


@torch.no_grad()
def test_from_left_to_right_with_a_causal_pattern_it_is_the_autoregressive_model(model: Any) -> None:
    filling = Filling(mask=IDS, ids=IDS, pattern=CausalPattern(), shifted=True)
    batch, writes = batch_of(TEXT), SimpleNamespace(hidden=model.hidden, head=model.head[:IDS], flops=model.flops)
    log_p = [Masked(model, filling).log_p(batch, row) for row in range(2)]
    total = sum(in_order(found, range(LENGTH)) for found in log_p)
    assert total == pytest.approx(float(NextToken(writes).nll(batch).total), rel=1e-6)


@pytest.mark.parametrize("kind", ["bernoulli", "stratified", "count"])
def test_prompts_are_never_hidden(kind: Any) -> None:
    may = np.arange(24).reshape(4, 6) % 3 > 0
    may[3] = False
    drawn = [Corruption(kind, block=block).draw(may, Draws(Rng(1), step)) for step in range(40) for block in (None, 2)]
    assert not any((hidden & ~may).any() or (weight > 0)[~may].any() for hidden, weight in drawn)
    assert np.stack([hidden for hidden, _ in drawn]).any(0)[may].all()


def test_a_count_is_uniform_and_weighs_what_it_hides_alike() -> None:
    may = np.ones((4000, 5), np.bool_)
    hidden, weight = Corruption("count").draw(may, Draws(Rng(1)))
    counts = np.bincount(hidden.sum(1), minlength=6)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 800).max() < 4 * 800**0.5
    np.testing.assert_allclose(weight.sum(1), 5, rtol=1e-6)


def test_strata_cover_the_times_evenly_and_each_row_takes_any() -> None:
    may = np.ones((16, 400), np.bool_)
    shares = np.stack([Corruption("stratified").draw(may, Draws(Rng(1), step))[0].mean(1) for step in range(60)])
    np.testing.assert_allclose(np.sort(shares, 1).mean(0), (np.arange(16) + 0.5) / 16, atol=0.03)
    assert np.abs(shares.mean(0) - 0.5).max() < 4 * (1 / 12 / 60) ** 0.5


@pytest.mark.parametrize("name", ["linear", "sine", "cosine", "square"])
def test_a_course_rises_from_0_to_1_with_its_slope_and_inverse(name: Any) -> None:
    curve, t = course(name), np.linspace(0.02, 0.98, 25)
    assert (curve.at(0.0), curve.at(1.0)) == pytest.approx((0, 1))
    np.testing.assert_allclose(curve.inverse(curve.at(t)), t, rtol=1e-12)
    np.testing.assert_allclose((curve.at(t + 1e-6) - curve.at(t - 1e-6)) / 2e-6, curve.slope(t), rtol=1e-8)
    sigma = -np.log1p(-curve.at(t))  # the form by sigma: sigma' / expm1(sigma)
    np.testing.assert_allclose(curve.rate(t) / np.expm1(sigma), curve.slope(t) / curve.at(t), rtol=1e-12)


@torch.no_grad()
def test_focal_weighs_what_is_predicted_well_less(model: Any) -> None:
    hidden = torch.tensor([[True, False, True, True]])
    batch = batch_of(TEXT[:1], hidden=hidden)
    plain, focal = Masked(model, FULL).loss(batch), Masked(model, FULL, focal=1.0).loss(batch)
    losses = -Masked(model, FULL).log_p(batch, 0)(hidden)[hidden]
    assert float(focal.total) == pytest.approx(float(((1 - torch.exp(-losses)) * losses).sum() * 4 / 3), rel=1e-5)
    torch.testing.assert_close(focal.kept["confidence"], plain.kept["confidence"])


@pytest.mark.parametrize("weight", ["linear", "uniform"])
def test_what_is_measured_is_the_bound_whatever_training_weighs(model: Any, weight: Any) -> None:
    plain, other = (Masked(model, FULL, Corruption(weight=w)) for w in ("bound", weight))
    assert torch.equal(plain.nll(batch_of(TEXT, 4)).total, other.nll(batch_of(TEXT, 4)).total)
    assert not torch.equal(plain.loss(batch_of(TEXT, 4)).total, other.loss(batch_of(TEXT, 4)).total)


def test_a_source_that_hides_hears_how_sure_the_model_is(model: Any) -> None:
    hidden = torch.tensor([[True, False, True, False], [False, False, False, True]])
    objective = Masked(model, FULL)
    loss = objective.loss(batch_of(TEXT, hidden=hidden))
    assert loss.total.requires_grad
    logits = FULL.logits(model, TEXT.masked_fill(hidden, IDS))
    torch.testing.assert_close(loss.kept["confidence"], torch.log_softmax(logits, -1).amax(-1).detach())
    assert not loss.kept["confidence"].requires_grad
    nll = -torch.log_softmax(logits, -1).gather(-1, TEXT[..., None]).squeeze(-1)
    expected = 4 / 2 * nll[0][hidden[0]].sum() + 4 / 1 * nll[1][hidden[1]].sum()
    torch.testing.assert_close(loss.total, expected)


def test_a_mask_in_the_text_is_told(model: Any) -> None:
    with pytest.raises(DataError, match="holds the id 3, but ids from 3 on"):
        Masked(model, FULL).loss(batch_of(torch.tensor([[0, IDS, 1, 2]])))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"block": 5}, "5 does not divide train.length"),
        ({"block": 4, "shifted": True}, "leave out one of both"),
        ({"corruption": "count", "course": "sine"}, "a count has none"),
        ({"estimate": "exact"}, "at most 12 tokens"),
    ],
)
def test_what_does_not_fit_together_is_told(change: dict[str, Any], problem: str) -> None:
    tree = {"source": "pcfg", "model": "transformer", "budget": {"steps": 1}, "train": {"length": 16, "batch": 2}}
    with pytest.raises(RecipeError, match=problem):
        Recipe.from_json({**tree, "objective": {"name": "masked", **change}})


@pytest.mark.parametrize("objective", ['{name="masked", shifted=true}', '{name="flexmdm", times=2}'])
def test_a_position_that_is_fed_before_the_text_must_have_been_learned(objective: str) -> None:
    wide = {"model": {"name": "transformer", "positions": 16}, "train": {"length": 16, "batch": 2}}
    recipe = Recipe.from_json({"source": "pcfg", "objective": "masked", "budget": {"steps": 1}, **wide})
    with pytest.raises(RecipeError, match="feeds one before it"):
        recipe.with_(f"objective={objective}")
    recipe.with_(f"objective={objective}", "model.positions=17")


# ---------------------------------------------------------------- recorded from other code


@pytest.fixture(params=[0, 1, 2])
def recorded(request: pytest.FixtureRequest) -> Any:
    path = SHARED / f"ref_vectors_{request.param}.npz"
    if not path.exists():
        pytest.skip("no reference vectors (ISOFLOP_SHARED)")
    return np.load(path)


def test_the_weights_of_what_is_given_make_the_recorded_loss(recorded: Any) -> None:
    hidden, may = recorded["xt"] == 11, ~recorded["prompt_mask"]
    nll = -np.take_along_axis(recorded["log_probs"], recorded["x0"][..., None], -1)[..., 0]
    found = (given(hidden, may) * np.where(hidden, nll, 0)).sum(-1) / may.sum(-1)  # a token's, as recorded
    assert float(found.mean()) == pytest.approx(float(recorded["puma_loss"]), rel=1e-5)


def test_the_form_by_sigma_has_the_recorded_weight(recorded: Any) -> None:
    t = recorded["mdlm_t"].astype(np.float64)
    curve = course("linear")
    np.testing.assert_allclose(curve.slope(t) / curve.at(t), recorded["mdlm_weight"], rtol=1e-4)


def test_the_mask_has_no_probability_as_recorded(recorded: Any) -> None:
    """What is shown is carried over, and the mask's logit is no part of the softmax."""
    logits, tokens = torch.from_numpy(recorded["subs_logits"]), torch.from_numpy(recorded["xt"][:2])
    hidden = tokens == 11
    ours = torch.log_softmax(Filling(11, 12, FullPattern()).logits(lambda *_: logits, tokens), -1)
    theirs = torch.from_numpy(recorded["subs_out"])
    torch.testing.assert_close(ours[hidden][:, :11], theirs[hidden][:, :11], rtol=1e-4, atol=1e-5)
    assert (theirs[hidden][:, 11] < -1e5).all()


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("sine", "sin"), ("cosine", "cosine"), ("square", "poly2")]
)
def test_courses_are_the_recorded_schedules(recorded: Any, ours: Any, theirs: str) -> None:
    curve, t = course(ours), recorded["sched_t"].astype(np.float64)
    for found, name in ((curve.at(t), "at"), (curve.slope(t), "deriv"), (curve.rate(t), "rate")):
        np.testing.assert_allclose(found, recorded[f"sched_{theirs}_{name}"], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(curve.inverse(t), recorded[f"sched_{theirs}_inv"], rtol=1e-3, atol=1e-5)
