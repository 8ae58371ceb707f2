"""Several optimizers, each for some of the parameters, that look like one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch.optim import Optimizer

from .state import RULE, check_rule, check_saved, fill_groups, own_state


class Chain(Optimizer):
    """Several optimizers over disjoint parameters as one ``torch.optim.Optimizer``.

    For rules that suit only some parameters: Muon for matrices inside the blocks, AdamW for the rest. Parameter groups
    are the members' own dictionaries and the state is one mapping shared by all, so that learning-rate schedulers,
    ``state_dict``, sharded checkpoints and ``zero_grad`` work as for a single optimizer.

    Even around one of torch's own optimizers it is of use. Their fused passes on the CPU read parameters, gradients and
    state as if all lay in memory alike; here they do: a gradient that does not is replaced by a copy, and loaded state
    is laid out like its parameter.

    Args:
        members: at least one optimizer; none may have been stepped, no parameter may be in two (ValueError).

    Example, with ``split`` of this package, which tells hidden matrices from the rest:
        >>> hidden, rest = split(model)
        >>> optimizer = Chain([Muon(hidden), torch.optim.AdamW(rest, lr=3e-3)])
        >>> model(x).square().mean().backward(); optimizer.step()
    """

    def __init__(self, members: Sequence[Optimizer]) -> None:
        if not members:
            raise ValueError("a chain needs at least one optimizer")
        if any(member.state for member in members):
            raise ValueError("a chain takes optimizers that have not been stepped yet")
        self.members = list(members)
        self._counts = [len(member.param_groups) for member in members]
        shared = {k: v for k, v in members[0].defaults.items() if all(k in member.defaults for member in members)}
        super().__init__([group for member in members for group in member.param_groups], shared)
        self._share()

    def _share(self) -> None:
        start = 0
        for member, count in zip(self.members, self._counts, strict=True):
            member.state = self.state
            member.param_groups = self.param_groups[start : start + count]
            start += count

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only used while building: a new group would belong to no member."""
        if "members" in vars(self) and len(self.param_groups) == sum(self._counts):
            raise ValueError("add the group to a member before chaining: a chain cannot tell whose it is")
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "members": self.members, "_counts": self._counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @property
    def _rule(self) -> str:
        return f"Chain({', '.join(type(member).__name__ for member in self.members)})"

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and whose state it is (``optimizer``), so that another rule refuses it."""
        return {**super().state_dict(), RULE: self._rule}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` of an equally built chain gave, in the dtypes it was saved in."""
        owners = {p: member for member in self.members for group in member.param_groups for p in group["params"]}
        check_rule(self, state_dict, self._rule)
        check_saved(self, state_dict, owners.__getitem__)
        before = self.param_groups
        super().load_state_dict(state_dict)
        fill_groups(self, before)
        own_state(self, state_dict, owners.__getitem__)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Evaluate ``closure`` once, then step every member."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.stride() != p.stride():
                    p.grad = torch.empty_like(p, dtype=p.grad.dtype, requires_grad=False).copy_(p.grad)
        for member in self.members:
            member.step()
        return loss
