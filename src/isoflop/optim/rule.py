"""Training rules that need more of a step than its gradient: they drive the problem themselves."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from torch.optim import Optimizer

from ..core.contracts import Outcome, Problem

O = TypeVar("O", bound=Optimizer)  # noqa: E741


class Rule(Generic[O]):
    """A torch optimizer under a problem. By default the problem is evaluated whenever the optimizer asks its closure.

    The rate of a group is the one it was built with times the schedule's factor.
    """

    def __init__(self, optimizer: O) -> None:
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def set_factor(self, factor: float) -> None:
        """Multiply every group's own rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self, problem: Problem) -> Outcome:
        """One step; the outcome of the evaluation at the weights that the step began with."""
        outcomes: list[Outcome] = []

        def closure() -> float:
            outcomes.append(problem.backward())
            return outcomes[-1].loss

        self.optimizer.step(closure)
        return outcomes[-1]

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.optimizer.load_state_dict(state)
