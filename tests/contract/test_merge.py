"""What every merge method promises, over every file of the slot."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import torch
from torch import Tensor

import isoflop.merge
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.merge.method import MergePart, on_tensors
from isoflop.store.tensors import HeldTensor, pieces

NAMES = names("merge")
REQUIRED: dict[str, dict[str, Any]] = {"slerp": {"t": 0.4}, "nearswap": {"t": 0.01}}
"""Knobs without a default."""
TO_THE_MODEL: dict[str, dict[str, Any]] = {
    "slerp": {"t": 1.0},
    "nearswap": {"t": 1e9},
    "wise_ft": {"alpha": 1.0},
    "neon": {"w": -1.0},
}
"""Knobs with which a method of one model gives the model."""
AVERAGED = {"task_arithmetic", "breadcrumbs", "breadcrumbs_ties", "dare", "dare_linear", "dare_ties", "della_linear"}
"""Methods that sum by default: k equal models come back where the sum is normalised."""
KEEPS_SMALL_CHANGES = {"arcee_fusion"}
RANDOM = ("dare", "dare_linear", "dare_ties", "della", "della_linear")


def part_of(name: str, **knobs: Any) -> MergePart:
    part = get("merge", name).model_validate_json(json.dumps({**REQUIRED.get(name, {}), **knobs}))
    assert isinstance(part, MergePart)
    return part


def tensors(shape: tuple[int, ...] = (6, 40), count: int = 3, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=draw)
    return base, [base + 0.3 * torch.randn(shape, generator=draw) for _ in range(count)]


def count_of(part: MergePart, wanted: int = 3) -> int:
    least, most = part.models
    return max(least, wanted if most is None else min(most, wanted))


def run(part: MergePart, base: Tensor, models: list[Tensor], seed: int = 0) -> Tensor:
    return on_tensors(part, None if part.base == "none" else base, models[: count_of(part)], Rng(seed)("t"))


@pytest.mark.parametrize("name", NAMES)
def test_the_function_stands_alone_and_its_arguments_are_the_parts_fields(name: str) -> None:
    function, part = getattr(isoflop.merge, name), get("merge", name)
    arguments = inspect.signature(function).parameters
    assert {"base", "model", "models", "rng"} >= set(arguments) - set(part.model_fields)
    assert set(part.model_fields) <= set(arguments)
    for field, info in part.model_fields.items():
        wanted = inspect.Parameter.empty if info.is_required() else info.default
        assert arguments[field].default == wanted, field
        assert arguments[field].kind is inspect.Parameter.KEYWORD_ONLY
    assert function.__doc__
    assert part.card.summary
    assert part.card.equation
    assert part.each <= set(part.model_fields)


def call(name: str, base: Any, models: list[Any], rng: Rng, **knobs: Any) -> Any:
    """The standing function, given what its signature asks for."""
    function = getattr(isoflop.merge, name)
    given = {"base": base, "model": models[0], "models": models, "rng": rng}
    asked = inspect.signature(function).parameters
    return function(**{key: given[key] for key in given if key in asked}, **knobs)


@pytest.mark.parametrize("name", NAMES)
def test_function_and_part_agree(name: str) -> None:
    part = part_of(name)
    base, models = tensors()
    models = models[: count_of(part)]
    for density in ({"density": 0.5}, {}) if "density" in type(part).model_fields else ({},):
        chosen = {**REQUIRED.get(name, {}), **density}
        wanted = run(part_of(name, **chosen), base, models, seed=3)
        if name == "ties_paper":
            made = call(name, {"w": base}, [{"w": model} for model in models], Rng(3)("t"), **chosen)["w"]
        else:
            made = call(name, base if part.base == "needed" else None, models, Rng(3)("t"), **chosen)
            wanted = wanted if part.base != "optional" else on_tensors(part, None, models)
        assert torch.equal(made, wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 7, 100])
def test_pieces_make_the_whole_and_no_input_changes(name: str, length: int) -> None:
    part = part_of(name, **({"density": 0.6} if "density" in get("merge", name).model_fields else {}))
    if part.whole:
        pytest.skip("takes whole tensors")
    base, models = tensors((5, 31))
    models = models[: count_of(part)]
    before = [x.clone() for x in (base, *models)]
    origin = None if part.base == "none" else base
    wanted = on_tensors(part, origin, models, Rng(0)("t"))
    flat, others = (None if origin is None else HeldTensor(origin)), [HeldTensor(model) for model in models]
    survey = part.survey(flat, others, Rng(0)("t"), part.overview([(flat, others)]))
    made = [
        part.merge(None if flat is None else flat.piece(*at), [other.piece(*at) for other in others], survey, at[0])
        for at in pieces(base.numel(), length)
    ]
    assert torch.equal(torch.cat(made), wanted.reshape(-1))
    assert all(torch.equal(old, new) for old, new in zip(before, (base, *models), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_equal_models_at_full_density_come_back(name: str) -> None:
    base, models = tensors(count=1)
    knobs: dict[str, Any] = {**TO_THE_MODEL.get(name, {}), **({"normalize": True} if name in AVERAGED else {})}
    fields = get("merge", name).model_fields
    knobs |= {"density": 1.0} if "density" in fields else {}
    if name in KEEPS_SMALL_CHANGES:
        pytest.skip("keeps the base's value wherever a change is not important")
    part = part_of(name, **knobs)
    made = run(part, base, [models[0].clone() for _ in range(3)])
    torch.testing.assert_close(made, models[0], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_base_itself_comes_back_from_models_that_are_the_base(name: str) -> None:
    base, _ = tensors()
    made = run(part_of(name), base, [base.clone() for _ in range(3)])
    torch.testing.assert_close(made, base, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if get("merge", name).models[1] is None and name not in RANDOM]
)  # type: ignore[attr-defined]
def test_the_order_of_models_does_not_matter_where_the_formula_is_symmetric(name: str) -> None:
    part = part_of(name, **({"density": 0.6} if "density" in get("merge", name).model_fields else {}))
    base, models = tensors()
    torch.testing.assert_close(run(part, base, models), run(part, base, models[::-1]), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_shape_and_type_stay_and_values_are_finite(name: str, dtype: torch.dtype) -> None:
    part = part_of(name, **({"density": 0.5} if "density" in get("merge", name).model_fields else {}))
    for shape in [(), (1,), (0,), (3, 0), (7,), (3, 4, 5), (1, 9)]:
        base, models = tensors(shape)
        made = run(part, base.to(dtype), [model.to(dtype) for model in models])
        assert made.shape == shape
        assert made.dtype == dtype
        assert made.isfinite().all()


@pytest.mark.parametrize("name", RANDOM)
def test_random_masks_follow_from_names_and_seed_alone(name: str) -> None:
    part = part_of(name, density=0.5)
    base, models = tensors((30, 40))
    first = run(part, base, models, seed=1)
    run(part, *tensors((8, 8), seed=5), seed=9)
    assert torch.equal(run(part, base, models, seed=1), first)
    assert not torch.equal(run(part, base, models, seed=2), first)


@pytest.mark.parametrize("name", RANDOM)
def test_random_methods_keep_the_share_and_scale_each_task_vector_by_one_number(name: str) -> None:
    base = torch.zeros(80, 500)
    vector = torch.randn(80, 500, generator=torch.Generator().manual_seed(0))
    made = on_tensors(part_of(name, density=0.3, normalize=False), base, [vector], Rng(0)("t"))
    kept = made != 0
    ratios = made[kept] / vector[kept]
    assert abs(float(kept.float().mean()) - 0.3) < 4 * (0.3 * 0.7 / kept.numel()) ** 0.5
    assert float(ratios.std() / ratios.mean()) < 1e-5
    if name == "dare":
        assert float(ratios.mean()) == pytest.approx(1 / 0.3)
    else:
        assert float(made.abs().sum()) == pytest.approx(float(vector.abs().sum()), rel=1e-5)
