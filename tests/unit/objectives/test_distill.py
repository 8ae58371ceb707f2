"""Distillation as an objective: its keys, what it owns, several teachers, what is refused; priced to the integer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from isoflop.core.contracts import TokenBatch, Treatment
from isoflop.core.cost import Cost
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.ledger.audit import Audit
from isoflop.objectives.losses.distill import Distill, DistillPart
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train
from transformer_toys import VOCAB, context, part

Tiny = Callable[..., Path]


def batch_of(rows: int = 3, length: int = 7) -> TokenBatch:
    ids = torch.randint(0, VOCAB, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(rows * length).view(rows, length) % 3 != 0
    return TokenBatch(ids[:, :-1], ids[:, 1:], text_bytes=9, mask=mask)


def models_of(*widths: int) -> dict[str, Any]:
    return {f"teacher{i}": part(d_model=width) for i, width in enumerate(widths)}


@pytest.mark.parametrize(
    ("fields", "widths", "freeze"),
    [
        ({"reverse": 0.5}, (32, 48), ()),
        ({"hidden": 0.5}, (48,), ()),
        ({"hidden": 0.5}, (48,), ("hidden",)),
        ({"hidden": 0.5}, (48,), ("embedding", "hidden", "norm", "bias")),
        ({"hidden": 0.5}, (48,), ("owned.*",)),
        ({"hidden": 0.5}, (32,), ()),
    ],
)
def test_work_and_charges_equal_the_audit(
    fields: dict[str, Any], widths: tuple[int, ...], freeze: tuple[str, ...]
) -> None:
    parts = models_of(*widths)
    chosen, batch = DistillPart(teachers=tuple(parts), **fields), batch_of()
    references = {name: SimpleNamespace(model=each, vocab_size=VOCAB) for name, each in parts.items()}
    treatment = Treatment(freeze=freeze, owned=chosen.owned_beside(references))
    policy = part(d_model=32).treated(treatment)
    teachers = {name: each.build(context()).requires_grad_(False) for name, each in parts.items()}
    live = chosen.build(context(models={"policy": policy.build(context()), **teachers}))
    with Audit() as audit:
        loss = live.loss(batch)
        loss.total.backward()
    recipe = SimpleNamespace(models=references, train=SimpleNamespace(batch=3, length=7))
    assert loss.spent == chosen.charges(recipe)
    work = chosen.work(policy, *batch.inputs.shape, VOCAB)
    assert audit.total() == work.total.executed + loss.spent["teacher"].executed
    assert loss.spent["teacher"] == sum((each.work(3, 7, VOCAB).forward for each in parts.values()), Cost())


def test_the_vectors_loss_is_the_mean_square_of_what_the_map_leaves() -> None:
    teacher, policy = (part(d_model=32).build(context(rng=Rng(seed))) for seed in (1, 2))
    batch = batch_of()
    loss = Distill(policy, teacher.requires_grad_(False), weight=1.0, hidden=2.0).loss(batch)
    gap = (policy.hidden(batch.inputs) - teacher.hidden(batch.inputs)).square().mean(-1)[batch.mask].sum()
    torch.testing.assert_close(loss.terms["hidden"], gap.detach())
    torch.testing.assert_close(loss.total.detach(), loss.terms["soft"] + 2 * gap.detach())
    (slope,) = torch.autograd.grad(loss.total, policy.norm.weight)
    before = torch.autograd.grad(Distill(policy, teacher, weight=1.0).loss(batch).total, policy.norm.weight)[0]
    torch.testing.assert_close(slope, before + 2 * torch.autograd.grad(gap, policy.norm.weight)[0])


@pytest.fixture
def teachers(tiny: Tiny, tmp_path: Path) -> list[Run]:
    wide = ("model.d_model=24", "budget.steps=2")
    return [train(Recipe.load(tiny(*wide, f"seed={seed}")), tmp_path / "runs", name=f"t{seed}") for seed in (1, 2)]


def test_a_student_of_an_ensemble_is_billed_for_all_and_may_teach_itself(
    teachers: list[Run], tiny: Tiny, tmp_path: Path
) -> None:
    root, (first, second) = tmp_path / "runs", teachers
    named = (f"models.a={first.path}", f"models.b={second.path}", 'objective={name="distill", teachers=["a", "b"]}')
    run = train(Recipe.load(tiny("budget.steps=2"), *named), root, audit=True)
    assert set(run.ancestors) == {first.hash, second.hash}
    one = train(Recipe.load(tiny("budget.steps=2"), f"models.teacher={first.path}", "objective=distill"), root)
    assert run.ledger["teacher"]["flops"] == 2 * one.ledger["teacher"]["flops"] > 0
    mapped = Recipe.load(
        tiny("budget.steps=2"), f"models.teacher={first.path}", 'objective={name="distill", hidden=0.1}'
    )
    student = train(mapped, root, audit=True)
    assert "owned.map.weight" in trained(student).model.state_dict()
    assert student.metrics("step")[0]["terms"]["hidden"] > 0
    again = train(Recipe.load(tiny("budget.steps=1"), f"models.teacher={student.path}", "objective=distill"), root)
    assert again.status.state == "done"
    with pytest.raises(RecipeError, match=r"models.b: is missing, objective distill needs it"):
        Recipe.load(tiny(), *named[::2])


def test_the_joint_loss_of_nested_widths_has_the_map_to_a_wider_teacher(
    teachers: list[Run], tiny: Tiny, tmp_path: Path
) -> None:
    joint = 'objective={name="nested", of={name="distill", hidden=0.1}}'
    nested = ("model.feed_forward=nested", f"models.teacher={teachers[0].path}", joint)
    student = train(Recipe.load(tiny("budget.steps=2"), *nested), tmp_path / "runs", audit=True)
    assert "owned.map.weight" in trained(student).model.state_dict()


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ('{name="distill", teachers=["a", "a"]}', "objective.teachers: names one twice"),
        ('{name="distill", teachers=["a", "b"], hidden=1}', "objective.hidden: vectors are those of one teacher"),
        ('{name="distill", teachers=[]}', "objective.teachers"),
        ('{name="distill", reverse=1.5}', "objective.reverse"),
        ('{name="distill", teachers=["nobody"]}', "models.nobody: is missing"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(objective: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe.load("small", f"objective={objective}")


def test_keys_at_their_defaults_change_no_recipe() -> None:
    assert DistillPart().model_dump(mode="json") == {"name": "distill", "temperature": 1.0, "weight": 0.5}
