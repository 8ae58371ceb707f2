"""The ledger: what was spent, by phase and by axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.cost import ZERO, Cost
from ..core.errors import DataError, UsageError, nearest

PHASES = ("train", "optimizer", "recompute", "scoring", "rollout", "teacher", "search", "tuning", "evaluation")
CHARGED = tuple(phase for phase in PHASES if phase not in ("tuning", "evaluation"))
"""Phases that a comparison charges."""
AXES = ("flops", "hardware_flops", "elementwise", "moved", "steps", "tokens", "text_bytes", "seconds")
"""``flops`` are model FLOPs. All axes are exact integers but ``seconds``."""


class Ledger:
    """Amounts by phase and axis, from zero; they only grow. Exact integers of any size on every axis but seconds.

    A run keeps one, and what a comparison charges is its ``total``. Evaluation and tuning are entered too but not
    charged, so that a run may be watched as closely as one likes.

    Example:
        >>> ledger = Ledger()
        >>> ledger.add("train", Cost(flops=600, executed=640), steps=1, tokens=100)
        >>> ledger.add("evaluation", Cost(flops=50, executed=50))
        >>> ledger.total("flops"), ledger.total("flops", ["evaluation"])
        (600, 50)
    """

    def __init__(self) -> None:
        self._spent: dict[str, dict[str, Any]] = {}

    def add(
        self,
        phase: str,
        cost: Cost = ZERO,
        *,
        steps: int = 0,
        tokens: int = 0,
        text_bytes: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Charge ``phase``.

        Args:
            phase: one of ``PHASES``.
            cost: FLOPs, operations and bytes of the work.
            steps: optimizer steps.
            tokens: predicted tokens.
            text_bytes: UTF-8 bytes of the predicted text.
            seconds: wall-clock seconds.

        Raises:
            UsageError: an unknown phase; a negative, infinite or NaN amount, or one that is no whole number where one
                is due. Nothing is charged then.
        """
        given = {
            "flops": cost.flops,
            "hardware_flops": cost.executed,
            "elementwise": cost.elementwise,
            "moved": cost.moved,
            "steps": steps,
            "tokens": tokens,
            "text_bytes": text_bytes,
            "seconds": float(seconds),
        }
        problem = _problem(phase, given)
        if problem:
            raise UsageError(problem, where="ledger")
        row = self._spent.setdefault(phase, _zeros())
        for axis, amount in given.items():
            row[axis] += amount

    def total(self, axis: str, phases: Sequence[str] = CHARGED) -> int | float:
        """Sum over ``phases`` on one axis; UsageError for an unknown name of either."""
        for name, legal in [(axis, AXES), *((phase, PHASES) for phase in phases)]:
            if name not in legal:
                raise UsageError(
                    f"no {'axis' if legal is AXES else 'phase'} {name!r}", where="ledger", fix=nearest(name, legal)
                )
        amounts: list[int | float] = [self._spent[phase][axis] for phase in phases if phase in self._spent]
        return sum(amounts, 0.0 if axis == "seconds" else 0)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Phase -> axis -> amount for the phases charged so far, in the order of PHASES; integers stay integers."""
        return {phase: dict(self._spent[phase]) for phase in PHASES if phase in self._spent}

    @classmethod
    def from_json(cls, tree: Mapping[str, Mapping[str, Any]]) -> Ledger:
        """The ledger that ``to_json`` gave; an axis that is missing is zero.

        Raises:
            DataError: unknown phases or axes, amounts that are negative, not finite or not whole where they must be.
        """
        ledger = cls()
        for phase, amounts in tree.items():
            problem = _problem(phase, amounts) if isinstance(amounts, Mapping) else f"phase {phase!r} is no table"
            if problem:
                raise DataError(problem, where="stored ledger", fix="the file was damaged or made by something else")
            ledger._spent[phase] = _zeros() | dict(amounts)
            ledger._spent[phase]["seconds"] = float(ledger._spent[phase]["seconds"])
        return ledger

    def state_dict(self) -> dict[str, Any]:
        return self.to_json()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._spent = type(self).from_json(state)._spent

    def __eq__(self, other: object) -> bool:
        """Equal amounts; a phase never charged equals one charged nothing."""
        if not isinstance(other, Ledger):
            return NotImplemented
        return all(self._spent.get(phase, _zeros()) == other._spent.get(phase, _zeros()) for phase in PHASES)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        spent = ", ".join(f"{axis} {self.total(axis):.4g}" for axis in AXES if self.total(axis))
        return f"Ledger({spent or 'empty'})"


def _zeros() -> dict[str, Any]:
    return {axis: 0.0 if axis == "seconds" else 0 for axis in AXES}


def _problem(phase: str, amounts: Mapping[str, Any]) -> str:
    if phase not in PHASES:
        return f"no phase {phase!r}: {nearest(phase, PHASES)}"
    for axis, amount in amounts.items():
        if axis not in AXES:
            return f"phase {phase}: no axis {axis!r}: {nearest(axis, AXES)}"
        wanted = int | float if axis == "seconds" else int
        if isinstance(amount, bool) or not isinstance(amount, wanted):
            return f"phase {phase}, {axis}: {amount!r} is not {'a number' if axis == 'seconds' else 'an integer'}"
        if not 0 <= amount < math.inf:
            return f"phase {phase}, {axis}: {amount} is negative or not finite"
    return ""
