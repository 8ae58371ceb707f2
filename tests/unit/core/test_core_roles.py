"""Roles: what a parameter is for, found from the modules around it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isoflop.core import roles
from isoflop.core.errors import UsageError
from isoflop.core.roles import ROLES, Shape, decays, new_role, numel, parameter_groups, role_of, shapes_of
from isoflop.optim.groups import split, torch_groups


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.role = "hidden"
        self.norm = nn.LayerNorm(4)
        self.norm.role = "norm"
        self.inner = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4, bias=False))


class Toy(nn.Module):
    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(4, 7, bias=False)
        self.head.role = "head"
        self.embed = nn.Embedding(7, 4)
        self.embed.role = "embedding"
        self.blocks = nn.ModuleList([Block(), Block()])
        if tied:
            self.head.weight = self.embed.weight


def test_a_parameter_takes_the_role_of_the_innermost_module_that_has_one() -> None:
    model = Toy()
    assert role_of(model, "embed.weight") == "embedding"
    assert role_of(model, "head.weight") == "head"
    assert role_of(model, "blocks.1.inner.0.weight") == "hidden"
    assert role_of(model, "blocks.0.norm.weight") == "norm"
    assert role_of(model, "blocks.0.norm.bias") == role_of(model, "blocks.0.inner.0.bias") == "bias"


def test_a_model_may_itself_have_a_role() -> None:
    layer = nn.Linear(2, 2)
    layer.role = "head"
    assert role_of(layer, "weight") == "head"


def test_a_parameter_below_no_role_is_refused_by_name() -> None:
    model = Toy()
    del model.blocks[1].role
    with pytest.raises(ValueError, match=r"blocks\.1\.inner\.0\.weight lies below no module with a role"):
        parameter_groups(model)


def test_groups_hold_every_trainable_parameter_once_in_the_order_of_roles() -> None:
    model = Toy()
    model.blocks[0].inner[1].weight.requires_grad = False
    groups = parameter_groups(model)
    assert [group.role for group in groups] == list(ROLES)
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    found = {name: p for group in groups for name, p in zip(group.names, group.params, strict=True)}
    assert all(found[name] is p for name, p in model.named_parameters() if p.requires_grad)
    assert groups[3].names == ("blocks.0.inner.0.weight", "blocks.1.inner.0.weight", "blocks.1.inner.1.weight")


def test_a_shared_parameter_is_counted_once_and_absent_roles_are_left_out() -> None:
    groups = parameter_groups(Toy(tied=True))
    assert [group.role for group in groups] == ["head", "norm", "hidden", "bias"]
    assert numel(shapes_of(groups)) == sum(p.numel() for p in Toy(tied=True).parameters())


def test_shapes() -> None:
    assert Shape("x", "hidden", (3, 4)).numel == 12
    assert Shape("gain", "bias", ()).numel == 1
    assert shapes_of(parameter_groups(Toy()))[0] == Shape("embed.weight", "embedding", (7, 4))
    assert numel([Shape("a", "hidden", (2, 3)), Shape("b", "hidden", (5,))]) == 11
    assert isinstance(parameter_groups(Toy())[0].params[0], torch.nn.Parameter)


def test_a_module_may_bring_a_role_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "_DECAYS", dict(roles._DECAYS))
    model = Toy()
    model.blocks[0].inner[1].role = "cut_off"
    with pytest.raises(ValueError, match="lies below no module with a role"):
        parameter_groups(model)
    cut_off = new_role("cut_off", decays=True)
    assert new_role("cut_off", decays=True) == cut_off
    new_role("scale", decays=False)
    assert [group.role for group in parameter_groups(model)] == [*ROLES, "cut_off"]
    assert [decays(role) for role in (*ROLES, "cut_off", "scale")] == [True, True, False, True, False, True, False]
    for taken, says in (("cut_off", False), ("norm", True), ("hidden", False)):
        with pytest.raises(UsageError, match=f"there is a role '{taken}' already"):
            new_role(taken, decays=says)
    with pytest.raises(UsageError, match="no name of a role"):
        new_role("blocks.*", decays=True)
    with pytest.raises(ValueError, match="no role is named 'nonsense'"):
        decays("nonsense")


def test_weight_decay_and_muon_go_by_what_a_role_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "_DECAYS", dict(roles._DECAYS))
    model = Toy()
    model.blocks[0].inner[0].role = new_role("threshold", decays=True)
    model.blocks[1].inner[0].role = new_role("scale", decays=False)
    groups = parameter_groups(model)
    assert [g["role"] for g in torch_groups(groups, 0.1) if g["weight_decay"]] == [
        *("embedding", "head", "hidden", "threshold")
    ]
    inner, rest = split(groups)
    assert {group.role for group in inner} == {"hidden"}
    assert {"threshold", "scale"} <= {group.role for group in rest}
