"""Examples in docstrings run as they stand, and what a reader meets first shows one.

What would train for minutes is marked as skipped; the rest of its example runs. Those of ``optim`` and
``objectives`` are handed a model and a batch, by tests of their own.
"""

from __future__ import annotations

import ast
import doctest
import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import isoflop
from doc_toys import at_hand

ROOT = Path(isoflop.__file__).parent
ELSEWHERE = ("optim", "objectives")
UNSHOWN = (
    "compress/parametrizations/cat.py",  # wants adapters that were trained before
    "compress/parametrizations/dora.py",  # its modules; the part shows how they are asked for
    "core/contracts/use.py",  # ``Subject``: the metrics show one
    "core/documents.py",  # markers of fields
    "core/recipe.py",  # ``StoredRecipe``: a ``Recipe`` that was legal elsewhere
    "core/references.py",  # a recipe's ``models``: wants a run
    "core/tokenizer.py",  # no recipe names it
    "core/toml.py",  # the base of ``Recipe`` and ``Study``, which show one
    "evals/harness.py",  # wants lm_eval
    "lab/trackers/",  # want packages of others; ``lab.tracking`` makes them
    "pipelines/",  # documents of several runs; docs/guide/pipelines.md shows them
    "report/fits.py",  # read from directories that ``laws`` and ``train`` show how to write
    "report/runs.py",
    "serve/app.py",  # around live requests; docs/guide/serve.md shows the verb
    "serve/server.py",
    "serve/streaming.py",
    "train/",  # live objects of a run under way; ``isoflop.train`` shows one
)
"""Modules whose classes users do not make by themselves, and why; of all others each shows an example."""
EXCEPTIONS = {
    "cli": "verbs, of which the guide shows each",
    "optim": "examples with a model at hand, held by tests of their own",
    "objectives": "examples with a model, a teacher and a batch at hand, held by tests of their own",
}
"""Folders in which another test asks for examples, or none is wanted, and why."""


def documented(path: Path) -> list[doctest.DocTest]:
    """The docstrings of a file that hold an example."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            label = f"{path.relative_to(ROOT).with_suffix('')}:{getattr(node, 'name', '')}"
            test = doctest.DocTestParser().get_doctest(ast.get_docstring(node) or "", {}, label, str(path), 0)
            found += [test] if test.examples else []
    return found


FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in ELSEWHERE and ">>>" in path.read_text(encoding="utf-8")
]
EXAMPLES = [test for path in FILES for test in documented(path)]


def module_of(path: Path) -> ModuleType:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return import_module(".".join(part for part in parts if part != "__init__"))


def of_module(path: Path) -> list[Any]:
    """The public classes of a module that can be made, and the function that it is named after."""
    module = module_of(path)
    own = {name: each for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__}
    return [
        each
        for name, each in own.items()
        if not name.startswith("_")
        and (is_made(each) or (inspect.isfunction(each) and name == path.stem.removesuffix("_")))
    ]


def is_made(each: Any) -> bool:
    """Whether it is a class of which users make or meet objects: no protocol, no abstract base, no error."""
    if not inspect.isclass(each) or inspect.isabstract(each) or issubclass(each, BaseException):
        return False
    return not getattr(each, "_is_protocol", False) and not (each.__doc__ or "").startswith("Base of ")


def shown_first() -> list[Any]:
    """What ``isoflop`` offers by name, and in every folder but the exceptions its classes and namesakes."""
    found = [getattr(isoflop, name) for name in isoflop.__all__]
    for path in sorted(ROOT.glob("*/**/[!_]*.py")):
        place = path.relative_to(ROOT).as_posix()
        if place.partition("/")[0] not in EXCEPTIONS and not place.startswith(UNSHOWN):
            found += of_module(path)
    kinds = (each for each in found if is_made(each) or inspect.isfunction(each))
    return list(dict.fromkeys(kinds))


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_the_example_runs(test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names of its own module at hand, and what ``doc_toys`` adds, in an empty directory."""
    assert test.filename is not None
    monkeypatch.chdir(tmp_path)
    module = module_of(Path(test.filename))
    test.globs = at_hand(module.__name__) | vars(module)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("each", shown_first(), ids=lambda each: f"{each.__module__}.{each.__name__}")
def test_what_is_met_first_shows_an_example(each: Any) -> None:
    text = inspect.cleandoc(vars(each).get("__doc__") or each.__doc__ or "")
    assert doctest.DocTestParser().get_examples(text), "shows no example that runs"
