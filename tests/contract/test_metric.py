"""What every part of the slot metric must do, with every objective that it can measure."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Draws, Measurement, Metric, MetricPart, Subject, Treatment
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.data.loader import HeldOutText
from isoflop.ledger.audit import Audit
from objective_toys import FIELDS as OBJECTIVES
from objective_toys import MODELS, objective_of
from transformer_toys import VOCAB, context, part

FIELDS: dict[str, dict[str, Any]] = {}
"""Fields of parts that cannot be built by default."""
PARTS = [name for name in names("metric") if "source" not in get("metric", name).needs]
"""Those that any held-out text can be measured by; metrics of puzzles have tests of their own."""


def part_of(name: str) -> MetricPart:
    return get("metric", name)(**FIELDS.get(name, {}))  # type: ignore[return-value]


def fits(metric: str, objective: str) -> bool:
    return part_of(metric).needs.get("objective", frozenset()) <= objective_of(objective).abilities


PAIRS = [(metric, objective) for metric in PARTS for objective in names("objective") if fits(metric, objective)]
MISFITS = [(metric, objective) for metric in PARTS for objective in names("objective") if not fits(metric, objective)]


def heldout(count: int, seed: int = 0) -> HeldOutText:
    ids = np.random.default_rng(seed).integers(1, 9, count + 1)
    return HeldOutText(ids, np.ones(VOCAB, np.int64), text_bytes=2 * count, documents=1)


TEXTS = {"a": heldout(41 * 16 + 5), "b": heldout(40 * 16, 1)}


def subject_of(objective: str) -> Subject:
    ctx = context()
    treated = part().treated(Treatment(owned=objective_of(objective).owned))
    ctx = ctx.having(models={name: treated.build(ctx) for name in ("policy", *MODELS)})
    return Subject(ctx.policy, objective_of(objective).build(ctx), ctx)


def measure(metric: str, subject: Subject, data: Any = None, **fields: Any) -> Measurement:
    chosen = part_of(metric).model_copy(update=fields)
    live = chosen.build(subject.ctx)
    assert isinstance(live, Metric)
    return live.measure(subject, TEXTS if data is None else data, Rng(4))


@pytest.mark.parametrize("name", PARTS)
def test_it_says_what_its_values_are(name: str) -> None:
    chosen = part_of(name)
    assert chosen.card.summary
    assert chosen.unit
    assert chosen.counts != MetricPart.counts
    assert any(metric == name for metric, _ in PAIRS), "no objective can be measured by it"
    kept = chosen.record(Measurement(0.5, None, 3, bound=True, domains={"a": Measurement(0.5, None, 3)}))
    assert json.loads(json.dumps(kept)) == kept
    assert (kept["unit"], kept["higher_is_better"], kept["bound"]) == (chosen.unit, chosen.higher_is_better, True)


@pytest.mark.parametrize(("metric", "objective"), PAIRS)
def test_a_measurement_is_finite_exactly_priced_and_changes_nothing(metric: str, objective: str) -> None:
    subject = subject_of(objective)
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    state = torch.get_rng_state()
    with Audit() as audit:
        found = measure(metric, subject)
    assert audit.total() == found.cost.executed > 0
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert all(torch.equal(before[name], tensor) for name, tensor in subject.model.state_dict().items())
    assert all(p.grad is None for p in subject.model.parameters())
    assert math.isfinite(found.value)
    assert measure(metric, subject) == found, "the random numbers are the metric's own"


@pytest.mark.parametrize(("metric", "objective"), PAIRS)
def test_domains_are_measured_apart_and_weighted_by_what_is_counted(metric: str, objective: str) -> None:
    found = measure(metric, subject_of(objective))
    assert list(found.domains) == ["a", "b"]
    assert found.n == sum(domain.n for domain in found.domains.values()) > 0
    mean = sum(domain.value * domain.n for domain in found.domains.values()) / found.n
    assert found.value == pytest.approx(mean)
    errors = [domain.stderr * domain.n for domain in found.domains.values() if domain.stderr is not None]
    assert found.stderr == pytest.approx(math.hypot(*errors) / found.n)
    assert found.stderr > 0


@pytest.mark.parametrize(("metric", "objective"), PAIRS)
def test_one_window_is_too_few_for_an_error_and_no_text_is_refused(metric: str, objective: str) -> None:
    subject = subject_of(objective)
    assert measure(metric, subject, {"a": heldout(9)}).stderr is None
    with pytest.raises(DataError, match="no held-out text"):
        measure(metric, subject, {})


@pytest.mark.parametrize(("metric", "objective"), [pair for pair in PAIRS if pair[1] == "next_token"])
def test_the_batch_does_not_change_the_value(metric: str, objective: str) -> None:
    subject = subject_of(objective)
    few, many = (measure(metric, subject, batch=batch) for batch in (2, 32))
    assert few.value == pytest.approx(many.value, rel=1e-6)


@pytest.mark.parametrize(("metric", "objective"), PAIRS)
def test_a_model_that_has_learned_the_text_is_better(metric: str, objective: str) -> None:
    subject, scale = subject_of(objective), part_of(metric).scale
    before = measure(metric, subject)
    optimizer = torch.optim.Adam(subject.model.parameters(), lr=1e-2)
    for step in range(25):
        for text in TEXTS.values():
            for number, windows in enumerate(text.windows(16, 32)):
                batch = windows.drawing(Draws(Rng(0), step, number))
                optimizer.zero_grad()
                (subject.objective.loss(batch).total / batch.units).backward()
                optimizer.step()
    after = measure(metric, subject)
    assert scale.cost(after.value) < scale.cost(before.value) - 2 * (before.stderr or 0)


@pytest.mark.parametrize(("metric", "objective"), MISFITS)
def test_an_objective_that_it_cannot_measure_is_refused_by_name(metric: str, objective: str) -> None:
    with pytest.raises(RecipeError, match=f"metric: {metric} needs objective to be"):
        Recipe.from_json(
            {
                **Recipe.load("small").to_json(),
                "metrics": [metric],
                "objective": {"name": objective, **OBJECTIVES.get(objective, {})},
            }
        )


def test_a_part_without_a_unit_is_read_by_its_name() -> None:
    class Own(MetricPart):
        name = "exact_match"

        def build(self, ctx: Any) -> Any:
            raise NotImplementedError

    assert Own().scale.unit == "exact match"
    assert replace(Own().scale, unit="").higher_is_better is False
