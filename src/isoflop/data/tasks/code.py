"""Code with a gap: lines or spans of functions of the Python standard library, to be filled in."""

from __future__ import annotations

import ast
import functools
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field

from ...core.contracts import Puzzle, TaskPart
from ...core.digests import digest, digest_file
from ...core.errors import DataError
from ...core.registry import Card, part
from ..sources.stdlib import docstrings, library_files, library_root, without

Gap = Literal["line", "lines", "span"]
_MOST_LINES = 4  # that are hidden together


@part
class CodePart(TaskPart):
    """Functions of the running Python's standard library with a gap: one line, several, or any span of characters.

    A gap's length is not told: for models that write at variable length, or ``slots`` of the source. What is filled in
    is right if the function means the same to Python's parser, whatever its spaces and comments; code is never run. No
    function is both in training and held out.

    Example:
        >>> task = CodePart(modules=("textwrap",))
        >>> puzzle = task.draw(np.random.default_rng(0))
        >>> task.right(puzzle, puzzle.text), task.formed(puzzle, "".join(puzzle.question) + ")")
        (True, False)
    """

    modules: tuple[str, ...] = ()
    """Modules whose functions are used, as "json.decoder"; by default all."""
    most: Annotated[int, Field(ge=64)] = 384
    """Characters of a function at most, its docstring left out."""
    gaps: Annotated[tuple[Gap, ...], Field(min_length=1)] = ("line", "lines", "span")
    """Kinds of gaps, each equally often, and a level of its own."""
    card = Card(
        summary="Functions of the Python standard library with a gap of unknown length",
        paper="gaps: Bavarian et al. 2022, arXiv 2207.14255, section 4.3 (HumanEval infilling)",
        equation="right: ast(filled) = ast(function)",
        differs="judged by the parser, not by running tests; changes with the Python release",
        cost="some 10 CPU seconds to read all modules once; puzzles are kept in the cache",
    )

    @property
    def symbols(self) -> str:
        return ""

    @property
    def longest(self) -> int:
        return self.most

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(gap for gap in get_args(Gap) if gap in self.gaps)

    def draw(self, generator: np.random.Generator) -> Puzzle:
        known = _functions(self.modules, self.most)
        text = known[int(generator.integers(len(known)))]
        level = self.levels[int(generator.integers(len(self.levels)))]
        return Puzzle(text, (_gap(text, level, generator),), level)

    def right(self, puzzle: Puzzle, text: str) -> bool:
        meant = _meaning(text) if puzzle.keeps(text) else None
        return meant is not None and meant == _meaning(puzzle.text)

    def formed(self, puzzle: Puzzle, text: str) -> bool:
        return puzzle.keeps(text) and _meaning(text) is not None

    def solve(self, puzzle: Puzzle) -> str | None:
        return None

    def origin(self, puzzle: Puzzle) -> Any:
        return puzzle.text

    def inputs(self) -> str:
        root = library_root()
        return digest([[path.relative_to(root).as_posix(), digest_file(path)] for path in _files(self.modules)])


def _gap(text: str, level: str, generator: np.random.Generator) -> tuple[int, int]:
    """What is hidden of a function behind its first line, from and to characters that are no white space."""
    lines = text.split("\n")
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    full = [number for number, line in enumerate(lines) if number and line.strip()]
    if level == "span":
        places = [i for i in range(int(starts[1]), len(text)) if not text[i].isspace()]
        first, last = sorted(generator.integers(len(places), size=2).tolist())
        return places[first], places[last] + 1
    chosen = int(generator.integers(len(full)))
    count = 1 if level == "line" else int(generator.integers(min(2, len(full)), min(_MOST_LINES, len(full)) + 1))
    chosen = min(chosen, len(full) - count)
    first, last = full[chosen], full[chosen + count - 1]
    indent = len(lines[first]) - len(lines[first].lstrip())
    return int(starts[first]) + indent, int(starts[last]) + len(lines[last].rstrip())


def _meaning(text: str) -> str | None:
    """What the parser makes of a text; None where it is no Python."""
    try:
        with warnings.catch_warnings():  # about escapes in strings
            warnings.simplefilter("ignore")
            return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


@functools.lru_cache(8)
def _files(modules: tuple[str, ...]) -> list[Path]:
    root = library_root()
    named = {path: path.relative_to(root).with_suffix("").as_posix().replace("/", ".") for path in library_files()}
    found = [path for path, name in named.items() if not modules or name.removesuffix(".__init__") in modules]
    if not found:
        what = f"the standard library has no source of {', '.join(modules)}"
        raise DataError(what, where="source.task.modules", fix='name modules as "textwrap" or "json.decoder"')
    return found


@functools.lru_cache(8)
def _functions(modules: tuple[str, ...], most: int) -> tuple[str, ...]:
    """The functions of some modules, each once, in the order of files and lines."""
    found = dict.fromkeys(text for path in _files(modules) for text in _of_file(path, most))
    if not found:
        what = f"no function of {', '.join(modules)} has {most} characters at most"
        raise DataError(what, where="source.task.most", fix="allow more, or name other modules")
    return tuple(found)


def _of_file(path: Path, most: int) -> Iterator[str]:
    """The functions of a file without docstrings: ASCII, of two lines at least, and not too long."""
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = file.read()
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = source.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            try:
                text = without(text, list(docstrings(ast.parse(text)))).rstrip()
            except (SyntaxError, ValueError):
                continue
            plain = len(text) <= most and text.isascii() and "\n" in text and "\t" not in text
            if plain and _meaning(text) is not None:
                yield text
