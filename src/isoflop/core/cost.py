"""The unit of the ledger: what one piece of work costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Cost:
    """What a piece of work costs; costs add, and multiply by a count.

    In the ledger, on disk and on the command line ``flops`` is the axis "flops", ``executed`` the axis
    "hardware_flops": shares of a machine's rate are taken of the first, an audit compares the second.

    Attributes:
        flops: FLOPs that the mathematics needs, matmul class only (a multiply-add is 2), attention causal-exact.
        executed: FLOPs of the matmul class that are executed, masked attention and recomputation included.
        elementwise: operations outside the matmul class (an estimate; never mixed with the two above).
        moved: bytes read and written by the work's operands, each counted once (an estimate).

    Example:
        >>> product = Cost(flops=2 * 64 * 64 * 64, executed=2 * 64 * 64 * 64)
        >>> (3 * product + Cost(elementwise=64)).flops
        1572864
    """

    flops: int = 0
    executed: int = 0
    elementwise: int = 0
    moved: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.executed + other.executed,
            self.elementwise + other.elementwise,
            self.moved + other.moved,
        )

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1

    def __mul__(self, count: int) -> Cost:
        return Cost(self.flops * count, self.executed * count, self.elementwise * count, self.moved * count)

    __rmul__ = __mul__

    def scaled(self, factor: float) -> Cost:
        """The cost of ``factor`` times the work, rounded to whole operations; exact for whole factors."""
        if factor == int(factor):
            return self * int(factor)
        return Cost(*(round(getattr(self, f.name) * factor) for f in fields(self)))


ZERO = Cost()


def add_spent(bill: dict[str, Cost], spent: Mapping[str, Cost]) -> None:
    """Add what was spent, by ledger phase, to a bill in place."""
    for phase, cost in spent.items():
        bill[phase] = bill.get(phase, ZERO) + cost


@dataclass(frozen=True)
class Work:
    """Cost of a differentiable computation, by direction. ``recompute`` is forward work redone in the backward.

    Example:
        >>> work = Work(forward=Cost(flops=100, executed=100), backward=Cost(flops=200, executed=200))
        >>> work.total.flops
        300
    """

    forward: Cost = ZERO
    backward: Cost = ZERO
    recompute: Cost = ZERO

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.backward + other.backward, self.recompute + other.recompute)

    def __sub__(self, other: Work) -> Work:
        return self + other * -1

    def __mul__(self, count: int) -> Work:
        return Work(self.forward * count, self.backward * count, self.recompute * count)

    __rmul__ = __mul__

    @property
    def total(self) -> Cost:
        return self.forward + self.backward + self.recompute
