"""State that goes from one optimizer to another: checked against the parameters, copied, laid out as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ..core.errors import UsageError


class OptimizerError(UsageError, ValueError):
    """A hyper-parameter, gradient or state that does not fit, with the parameter and group it concerns."""


def place(group: dict[str, Any], index: int, i: int) -> str:
    """How messages name a parameter: its name if the group has names, else its position."""
    names = group.get("param_names")
    return f"parameter {names[i] if names else i} of group {index}"


Owner = Callable[[Tensor], Optimizer]
"""Which optimizer steps a parameter: that of a chain's members, or the optimizer itself."""


RULE = "optimizer"
"""The key of a saved state that names the rule it is of."""
_TORCHS = {"foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
"""Keys of torch's groups that say how, not what, is computed."""


def check_rule(optimizer: Optimizer, state_dict: Mapping[str, Any], name: str) -> None:
    """Refuse the state of another rule (OptimizerError): by its name, or, where none was kept, by its hyper-parameters.

    Args:
        optimizer: what is to take the state up.
        state_dict: the state.
        name: the optimizer's own, as ``state_dict`` keeps it.
    """
    saved = state_dict.get(RULE)
    if saved is not None and saved != name:
        raise OptimizerError(f"is the state of {saved}, and this is {name}", where="state", fix=f"load it into {saved}")
    if saved is None:
        for group, own in zip(state_dict["param_groups"], optimizer.param_groups, strict=False):
            foreign = sorted(set(group) - set(own) - _TORCHS - {"params", "param_names", "role", "name", "initial_lr"})
            if foreign:
                whose = _owner_of(set(group))
                what = f"is the state of another optimizer{whose}: {name} has no {', '.join(foreign)}"
                raise OptimizerError(what, where="state", fix="load it into an optimizer of its own kind")


def _owner_of(keys: set[str]) -> str:
    """Which of torch's optimizers keeps groups with such keys, in words; "" if none does."""
    found = [cls for cls in vars(torch.optim).values() if isinstance(cls, type) and issubclass(cls, Optimizer)]
    told = keys - {"params", "param_names", "initial_lr", "decoupled_weight_decay"}
    named = [cls.__name__ for cls in found if told == _keys_of(cls)]
    return f", of torch's {' or '.join(named)} by its keys" if named else ""


def _keys_of(cls: type[Optimizer]) -> set[str]:
    return set(inspect.signature(cls).parameters) - {"params", "decoupled_weight_decay"}


def check_saved(optimizer: Optimizer, state_dict: dict[str, Any], owner: Owner) -> None:
    """Refuse saved state that would go to other parameters than it was made for (OptimizerError)."""
    saved, ours = (
        [name for group in groups for name in group.get("param_names", [])]
        for groups in (state_dict["param_groups"], optimizer.param_groups)
    )
    if saved != ours and sorted(saved) == sorted(ours):
        old, new = next(pair for pair in zip(saved, ours, strict=True) if pair[0] != pair[1])
        what = f"the state of {old} would go to {new}: it was saved for the same parameters in another order"
        raise OptimizerError(what, fix="give the parameters in the order of the saved state")
    ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    places = [(g, k, i, p) for k, g in enumerate(optimizer.param_groups) for i, p in enumerate(g["params"])]
    for number, (group, k, i, p) in zip(ids, places, strict=False):
        check = getattr(owner(p), "check_state", check_shapes)
        check(p, state_dict["state"].get(number, {}), place(group, k, i))


def check_shapes(p: Tensor, state: dict[str, Any], where: str, others: Mapping[str, torch.Size] | None = None) -> None:
    """Refuse saved state, but counters, that is not shaped like ``p``, or as ``others`` says of its name."""
    for name, value in state.items():
        wanted = (others or {}).get(name, p.shape)
        if isinstance(value, Tensor) and name != "step" and value.shape != wanted:
            what = f"state {name} has shape {tuple(value.shape)}, expected {tuple(wanted)}"
            raise OptimizerError(what, where=where)


def own_state(optimizer: Optimizer, state_dict: dict[str, Any], owner: Owner) -> None:
    """After torch's loading: state of its own, that shares no tensor with ``state_dict``, in the dtype it was saved in.

    Torch keeps the very tensors it is given where nothing has to be converted, so that two optimizers count as one.
    """
    ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, p in zip(ids, params, strict=True):
        state, apart = optimizer.state.get(p, {}), not getattr(owner(p), "follows", True)
        for name, value in state_dict["state"].get(i, {}).items():
            if isinstance(value, Tensor):
                state[name] = state[name].clone() if name == "step" else _restored(value, p, apart)


def fill_groups(optimizer: Optimizer, before: Sequence[Mapping[str, Any]]) -> None:
    """After torch's loading: what the saved groups do not say, since whoever saved them knew no such hyper-parameter,
    stays as it was in ``before``, the groups until then."""
    for group, old in zip(optimizer.param_groups, before, strict=True):
        for name, value in old.items():
            group.setdefault(name, value)


def _restored(value: Tensor, p: Tensor, apart: bool) -> Tensor:
    if apart or value.shape != p.shape or isinstance(value, DTensor) != isinstance(p, DTensor):
        return value.detach().to(device=p.device, copy=True).contiguous()
    return torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value)


def check_size(p: Tensor, state: dict[str, Any], where: str) -> None:
    """Refuse a saved momentum, whatever its shape, that has not as many entries as ``p``."""
    if "exp_avg" in state and state["exp_avg"].numel() != p.numel():
        shape = tuple(state["exp_avg"].shape)
        raise OptimizerError(f"state exp_avg has shape {shape}, which does not fit {tuple(p.shape)}", where=where)
