import csv
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe, StoredRecipe
from isoflop.core.registry import get
from isoflop.optim.warmup_and_decay import decay, length, warm

SHAPES = ["linear", "sqrt", "one_minus_sqrt", "square", "exponential", "cosine", "mirrored_cosine"]

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "cos_inf": ("cosine", {"warmup": 12.0, "warmup_start": 0.01, "final": 0.001}),
    "wsd_linear": ("wsd", {"warmup": 12.0, "warmup_start": 0.01, "decay": 0.2}),
    "wsd_cosine": ("wsd", {"warmup": 12.0, "warmup_start": 0.01, "decay": 0.2, "shape": "cosine"}),
    "wsd_square": ("wsd", {"warmup": 12.0, "warmup_start": 0.01, "decay": 0.2, "shape": "square"}),
    "wsd_sqrt": ("wsd", {"warmup": 12.0, "warmup_start": 0.01, "decay": 0.2, "shape": "one_minus_sqrt"}),
    "wsd_exp": ("wsd", {"warmup": 12.0, "warmup_start": 0.01, "decay": 0.2, "shape": "exponential", "final": 0.01}),
    "wsd_miror_cosine": ("wsd", {"warmup": 12.0, "warmup_start": 0.01, "decay": 0.2, "shape": "mirrored_cosine"}),
    "olmo_invsqrt": ("inverse_sqrt", {"warmup": 12, "warmup_start": 0.1, "offset": 12}),
    "olmo_linear": ("linear", {"warmup": 12.0, "warmup_start": 0.1, "final": 0.1}),
    "olmo_cos": ("cosine", {"warmup": 12.0, "warmup_start": 0.1, "final": 0.1}),
}


@pytest.mark.parametrize("name", ["wsd", "trapezoid"])
def test_a_decay_of_one_is_refused_since_it_could_mean_all_or_next_to_nothing(name: str) -> None:
    for written in ("1", "1.0"):
        with pytest.raises(RecipeError, match=r"decay: 1 is one step.*give a share below 1"):
            Recipe.load("small", f"schedule={name}", f"schedule.decay={written}")
    for legal in ("0.99", "0", "2", "100"):
        Recipe.load("small", f"schedule={name}", f"schedule.decay={legal}")
    stored = {**Recipe.load("small", f"schedule={name}").to_json(), "schedule": {"name": name, "decay": 1.0}}
    assert StoredRecipe.from_json(stored).schedule.decay == 1, "what was trained so can still be used"


@pytest.mark.parametrize("column", PUBLISHED)
def test_published_factors(column: str, shared: Path) -> None:
    with (shared / "data/optim/lr_schedules.csv").open() as file:
        rows = list(csv.DictReader(file))
    key = next(key for key in rows[0] if key.partition("(")[0] == column)
    name, fields = PUBLISHED[column]
    part = get("schedule", name)(**fields)
    for row in rows:
        assert part.factor(int(row["step"]), len(rows)) == pytest.approx(float(row[key]), rel=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_decay_goes_from_one_to_final(shape: Any) -> None:
    assert decay(0.0, shape, 0.05) == pytest.approx(1)
    assert decay(1.0, shape, 0.05) == pytest.approx(0.05)
    assert decay(1.7, shape, 0.05) == 0.05
    values = [decay(i / 100, shape, 0.05) for i in range(101)]
    assert all(a >= b for a, b in pairwise(values))


def test_decay_shapes_halfway() -> None:
    expected = [0.5, math.sqrt(0.5), 1 - math.sqrt(0.5), 0.75, math.sqrt(0.04), 0.5, 0.5]
    finals = [0, 0, 0, 0, 0.04, 0, 0]
    values = [decay(0.5, shape, final) for shape, final in zip(SHAPES, finals, strict=True)]  # type: ignore[arg-type]
    assert values == pytest.approx(expected)


@given(t=st.integers(0, 100), steps=st.integers(0, 50))
def test_warm_up_is_a_stair(t: int, steps: int) -> None:
    assert warm(t, steps, None) == pytest.approx(min((t + 1) / (steps + 1), 1))
    assert warm(t, steps, 0.0) == pytest.approx(min(t / steps, 1) if steps else 1)


def test_length_is_a_fraction_or_steps() -> None:
    assert [length(x, 200) for x in (0, 0.05, 0.999, 1, 12)] == [0, 10, 200, 1, 12]


def test_an_exponential_decay_to_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="exponential"):
        get("schedule", "wsd")(shape="exponential")
