"""What benchmarks and examples import from us is there, also within their functions, which no test runs."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")])


def imported(script: Path) -> Iterator[tuple[str, str]]:
    """Every (module, name) of ours that a script imports, wherever in it."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "isoflop":
            yield from ((node.module, alias.name) for alias in node.names)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 5
    assert ("isoflop.optim", "SOAP") in {pair for script in SCRIPTS for pair in imported(script)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_a_script_imports_is_there(script: Path) -> None:
    for module, name in imported(script):
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")  # a module of the folder
