"""Grade-school arithmetic in words: from templates, with steps that can be followed and an answer that is checked."""

from __future__ import annotations

import re
import string
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo")
THINGS = ("apples", "books", "coins", "eggs", "keys", "pens", "shells", "stamps")
GROWS = ("{name} finds {n} more.", "{other} gives {name} {n} more.", "{name} buys {n} more.")
SHRINKS = ("{name} loses {n}.", "{name} gives {other} {n}.", "{name} sells {n}.")
TIMES = ("Then {name} gets {n} times as many.", "Now {name} has {n} times what there was.")
BESIDE = ("{other} has {n} {thing}, too.", "{other} is {n} years old.")
_MOST = 999  # of a number on the way


@part
class WordProblemsPart(TaskPart):
    """Somebody has some things, gets more, gives some away: ``... How many apples has Ann now? 3+4=7 7*2=14 #### 14``.

    What is to be filled in is the working and the answer; only the answer is checked, which stands behind ``####`` as
    in GSM8K. The level is the number of steps.

    Example:
        >>> task = WordProblemsPart(steps=(2, 2), beside=0.0)
        >>> puzzle = task.draw(np.random.default_rng(1))
        >>> task.solve(puzzle) == puzzle.text, task.right(puzzle, puzzle.question[0] + "#### 1")
        (True, False)
    """

    steps: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=8)]] = (1, 4)
    """The fewest and the most steps, each number equally often."""
    beside: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of problems with a sentence that has nothing to do with the question."""
    card = Card(
        summary="Grade-school arithmetic from templates, with its working and an answer that is checked",
        paper="the form of GSM8K: Cobbe et al. 2021, arXiv 2110.14168",
        equation="x_(t+1) = x_t + n, x_t - n or x_t n",
        differs="templates; one line of reasoning",
        cost="some tens of microseconds a problem",
    )

    @model_validator(mode="after")
    def _ordered(self) -> WordProblemsPart:
        if self.steps[0] > self.steps[1]:
            raise ValueError(f"steps {self.steps} are no range")
        return self

    @property
    def symbols(self) -> str:
        return string.ascii_letters + string.digits + " .,?+-*=#"

    @property
    def longest(self) -> int:
        return 110 + 70 * self.steps[1]

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(f"{count} steps" for count in range(self.steps[0], self.steps[1] + 1))

    def draw(self, generator: np.random.Generator) -> Puzzle:
        def one(of: tuple[str, ...]) -> str:
            return of[int(generator.integers(len(of)))]

        name, thing = one(NAMES), one(THINGS)
        words = {"name": name, "thing": thing, "other": one(tuple(each for each in NAMES if each != name))}
        count, value = int(generator.integers(self.steps[0], self.steps[1] + 1)), int(generator.integers(2, 31))
        said, working = [f"{name} has {value} {thing}."], list[str]()
        for _ in range(count):
            kind = one(("+", "-", "*"))
            if (kind == "*" and value * 2 > _MOST) or (kind == "-" and value < 2):
                kind = "+"
            most = {"+": 30, "-": value - 1, "*": min(5, _MOST // value)}[kind]
            n = int(generator.integers(2 if kind == "*" else 1, most + 1))
            said.append(one({"+": GROWS, "-": SHRINKS, "*": TIMES}[kind]).format(n=n, **words))
            after = {"+": value + n, "-": value - n, "*": value * n}[kind]
            working.append(f"{value}{kind}{n}={after}")
            value = after
        if generator.random() < self.beside:
            said.insert(
                int(generator.integers(1, len(said) + 1)), one(BESIDE).format(n=generator.integers(2, 40), **words)
            )
        shown = f"{' '.join(said)} How many {thing} has {name} now? "
        text = f"{shown}{' '.join(working)} #### {value}"
        return Puzzle(text, ((len(shown), len(text)),), f"{count} steps")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        shown = puzzle.question[0]
        if not text.startswith(shown):
            return False
        found, wanted = re.fullmatch(r"[^#]*#### ([0-9]+)", text.removeprefix(shown)), self.solve(puzzle)
        return found is not None and wanted is not None and wanted.endswith(f"### {found[1]}")

    def solve(self, puzzle: Puzzle) -> str | None:
        """Read from the words alone, sentence by sentence."""
        shown = puzzle.question[0]
        first, *others = shown.rsplit(". How many", 1)[0].split(". ")
        value, working = int(re.findall("[0-9]+", first)[0]), list[str]()
        for sentence in others:
            kind = next((kind for kind, forms in _FORMS.items() if any(form.fullmatch(sentence) for form in forms)), "")
            if kind:
                n = int(re.findall("[0-9]+", sentence)[0])
                after = {"+": value + n, "-": value - n, "*": value * n}[kind]
                working.append(f"{value}{kind}{n}={after}")
                value = after
        return f"{shown}{' '.join(working)} #### {value}"


def _form(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{[a-z]+\\}", "[A-Za-z0-9]+", re.escape(template.rstrip("."))))


_FORMS = {
    kind: [_form(template) for template in templates]
    for kind, templates in {"+": GROWS, "-": SHRINKS, "*": TIMES}.items()
}
