"""Latents and observations: random bits, and whether three of them, at places that are fixed, are not all equal."""

from __future__ import annotations

import functools
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part
from ...core.rng import Rng


@part
class NaeSatPart(TaskPart):
    """Latent bits, and observations of random triples of them: 1 where the three are not all equal.

    In one direction easy (an observation is a function of three latents), in the other hard: the example by which
    orders of training and of decoding differ. Latents are shown, observations are asked for; guessing 1 is right in
    three of four.

    Example:
        >>> task = NaeSatPart(latents=5, observations=4)
        >>> puzzle = task.draw(np.random.default_rng(0))
        >>> len(puzzle.prompt), task.solve(puzzle) == puzzle.text
        (5, True)
    """

    latents: Annotated[int, Field(ge=3)] = 25
    """Bits that are drawn."""
    observations: PositiveInt = 275
    """Triples of them that are looked at."""
    triples: NonNegativeInt = 0
    """Seed of the triples, which are the same in all puzzles."""
    card = Card(
        summary="Random bits, and not-all-equal observations of fixed triples of them",
        paper="Kim et al. 2025, arXiv 2502.06768, section 3",
        equation="o_j = [not z_a = z_b = z_c], (a, b, c) the j-th triple",
        differs="no padding to 512 tokens",
        cost="microseconds a puzzle",
    )
    fixed: ClassVar[bool] = True

    @property
    def symbols(self) -> str:
        return "01"

    @property
    def longest(self) -> int:
        return self.latents + self.observations

    @property
    def levels(self) -> tuple[str, ...]:
        return ("all",)

    def draw(self, generator: np.random.Generator) -> Puzzle:
        bits = "".join(map(str, generator.integers(0, 2, self.latents).tolist()))
        return Puzzle(bits + self._observed(bits), ((self.latents, self.longest),), "all")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        return text == self.solve(puzzle)

    def solve(self, puzzle: Puzzle) -> str | None:
        bits = puzzle.question[0]
        return bits + self._observed(bits)

    def _observed(self, bits: str) -> str:
        looked = _triples(self.latents, self.observations, self.triples)
        return "".join(str(int(not bits[a] == bits[b] == bits[c])) for a, b, c in looked)


@functools.lru_cache(32)
def _triples(latents: int, observations: int, seed: int) -> tuple[tuple[int, int, int], ...]:
    generator = Rng(seed)("triples").at()
    drawn = (generator.choice(latents, 3, replace=False).tolist() for _ in range(observations))
    return tuple((a, b, c) for a, b, c in drawn)
