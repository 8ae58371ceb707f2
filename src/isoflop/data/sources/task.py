"""Puzzles of a task: rows of one puzzle each, what they show is seen, and what they hide is predicted."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt

from ...core.context import Context
from ...core.contracts import PosesPuzzles, SourcePart, Stateful
from ...core.registry import Card, part
from ...core.slots import TaskSlot
from ..puzzles import Ends, PuzzleSource, kept, puzzles


@part
class TaskSourcePart(SourcePart):
    """Puzzles of a task, made once and kept in the cache; held-out ones lie apart by their level.

    Autoregressive and diffusion models learn the same rows: a loss counts what a puzzle hides, and nothing else. The
    metric ``solved`` lets a decoder fill in the held-out ones and asks the task whether they are right.

    Example:
        >>> from isoflop.core.registry import get
        >>> source = TaskSourcePart(task=get("task", "addition")(digits=2), examples=4, heldout=1)
        >>> source.ends_of(), source.least
        ('none', 9)
    """

    provides: ClassVar[frozenset[type]] = frozenset({Stateful, PosesPuzzles})
    task: TaskSlot
    """Whose puzzles."""
    examples: PositiveInt = 10_000
    """Training puzzles; each is seen once an epoch."""
    variants: PositiveInt = 1
    """Forms of each puzzle drawn for training, where the task can rewrite one at little cost (Sudoku can)."""
    heldout: PositiveInt = 200
    """Held-out puzzles of each level that the task asks; no training puzzle asks the same."""
    train_levels: tuple[str, ...] = ()
    """Levels of the training puzzles; by default those that the task teaches, which are mostly all."""
    ends: Literal["auto", "none", "one", "all"] = "auto"
    """Ends of text that are predicted behind a puzzle: "none", "one", or "all" that fit into a row, so that a model
    which fills in learns lengths, too. "auto" is none where answers are of known length, else one."""
    slots: PositiveInt | None = None
    """Tokens that each hole is filled up to, with ends of text: how models that fill in are given holes of unknown
    length. By default a hole is as long as its answer."""
    seed: NonNegativeInt = 0
    """Of the puzzles; the recipe's seed does not change them."""
    card = Card(
        summary="Puzzles of a task with an oracle; what they hide is predicted.",
        cost="puzzles are made once and kept in the cache; see the task's card",
    )

    @property
    def predicts_all(self) -> bool:
        return False

    @property
    def least(self) -> int:
        """Tokens of the longest training puzzle, as long as a character is a token."""
        longest = self.task.longest if self.train_levels else self.task.longest_taught
        return longest + (self.ends_of() != "none")

    def ends_of(self) -> Ends:
        """What ``ends`` comes to."""
        return self.ends if self.ends != "auto" else "none" if self.task.fixed else "one"

    def check(self, recipe: Any) -> list[str]:
        found = []
        if recipe.budget.axis == "tokens":
            what = "how many tokens a step predicts depends on its puzzles"
            found.append(f"budget.tokens: {what}; give a budget in steps or flops")
        if unknown := set(self.train_levels) - set(self.task.levels):
            legal = ", ".join(self.task.levels)
            found.append(f"source.train_levels: {sorted(unknown)} are none of the task's; use {legal}")
        symbols = self.task.symbols
        if symbols and recipe.tokenizer.name not in ("symbols", "bytes"):
            found.append(
                f"tokenizer: {recipe.tokenizer.name} joins characters, and a puzzle's tokens are its symbols; use "
                f'{{name = "symbols", symbols = "{symbols}"}}'
            )
        elif recipe.tokenizer.name == "symbols" and not set(symbols) <= set(recipe.tokenizer.symbols):
            found.append(f'tokenizer.symbols: lacks some that task {self.task.name} needs; use "{symbols}"')
        if symbols and not self.slots and recipe.train.length < self.least:
            found.append(f"train.length: the longest puzzle takes {self.least} tokens; use as many at least")
        return found

    def build(self, ctx: Context) -> PuzzleSource:
        fields = self.model_dump(mode="json", exclude={"ends", "slots"})
        read = self.task.inputs()
        key = [fields, read] if read else fields
        sides = kept(
            ctx.cache,
            key,
            lambda: puzzles(
                self.task,
                examples=self.examples,
                variants=self.variants,
                heldout=self.heldout,
                levels=self.train_levels or self.task.taught,
                seed=self.seed,
            ),
        )
        return PuzzleSource(
            self.task, sides, ctx, ends=self.ends_of(), slots=self.slots, identity=[key, self.ends_of(), self.slots]
        )
