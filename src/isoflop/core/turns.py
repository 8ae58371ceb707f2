"""Variants that take turns: each once in every round, in an order that is drawn for the round."""

from __future__ import annotations

from dataclasses import dataclass

from .rng import Rng


@dataclass(frozen=True)
class Turns:
    """Which of several variants each step is of.

    Every step is of each variant with equal chance; in every round of as many steps as there are variants each comes
    once. So what the first n steps cost is known without walking through them, and a resumed run needs no state.

    Args:
        rng: the stream of the draws, one place a round.
        variants: how many there are.

    Example:
        >>> turns = Turns(Rng(0), variants=4)
        >>> sorted(turns.at(step) for step in range(8, 12)), turns.counts(8)
        ([0, 1, 2, 3], (2, 2, 2, 2))
    """

    rng: Rng
    variants: int

    def at(self, step: int) -> int:
        """The variant of a step, both from 0."""
        round_, place = divmod(step, self.variants)
        return self._order(round_)[place]

    def counts(self, steps: int) -> tuple[int, ...]:
        """How many of the first ``steps`` steps are of each variant."""
        rounds, rest = divmod(steps, self.variants)
        begun = self._order(rounds)[:rest] if rest else []
        return tuple(rounds + begun.count(variant) for variant in range(self.variants))

    def _order(self, round_: int) -> list[int]:
        return [0] if self.variants == 1 else self.rng.at(round_).permutation(self.variants).tolist()
