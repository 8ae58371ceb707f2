"""A torch optimizer as a training rule: the one adapter, for those that need a gradient alone and for all others."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .contracts import Outcome, Problem, SwapsWeights

if TYPE_CHECKING:
    import torch

O = TypeVar("O", bound="torch.optim.Optimizer")  # noqa: E741


class TorchRule(Generic[O]):
    """One gradient, one step of the optimizer. A rule that needs more of the problem overrides ``step``.

    The rate of each group is its ``initial_lr`` (the one it was built with) times the schedule's factor. Any optimizer
    of torch, or of a package for it, becomes a rule of the training loop by this class.

    Args:
        optimizer: the optimizer, with its groups of parameters.

    Example:
        >>> import torch
        >>> rule = TorchRule(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5))
        >>> rule.set_factor(0.1)
        >>> rule.param_groups[0]["lr"]
        0.05
    """

    def __init__(self, optimizer: O) -> None:
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def set_factor(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self, problem: Problem) -> Outcome:
        outcome = problem.backward()
        self.optimizer.step()
        return outcome

    def curvature(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """The second moment of a parameter's gradient, where the optimizer keeps one as Adam does."""
        state = self.optimizer.state.get(parameter, {})
        if "exp_avg_sq" not in state:
            return None
        group = next(g for g in self.optimizer.param_groups if any(p is parameter for p in g["params"]))
        found: torch.Tensor = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
        return found

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """The optimizer's own, if it trains at one point and is evaluated at another."""
        inner: Any = self.optimizer
        return inner.evaluation_weights() if isinstance(inner, SwapsWeights) else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.optimizer.load_state_dict(state)
