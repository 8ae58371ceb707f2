"""What a stranger reads first: names that mean one thing, and docstrings that name every argument once."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import isoflop

ROOT = Path(isoflop.__file__).parent
TREES = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}
SHARED = {"Linear"}
"""Names of two classes: parts of two slots that users already call so (a schedule, a way of merging)."""


def entries(doc: str) -> list[str] | None:
    """What the section ``Args`` names, one an entry; None without one."""
    section = re.search(r"^( *)Args:\n(.*?)(?=^\1\S|\Z)", doc, re.MULTILINE | re.DOTALL)
    if section is None:
        return None
    return re.findall(rf"^ {{{len(section[1]) + 4}}}(\S[^:]*):", section[2], re.MULTILINE)


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> list[str]:
    args = node.args
    names = [each.arg for each in (*args.posonlyargs, *args.args)]
    static = any(getattr(each, "id", "") == "staticmethod" for each in node.decorator_list)
    names = names[1:] if method and not static else names
    return names + [each.arg for each in (args.vararg, *args.kwonlyargs, args.kwarg) if each is not None]


def of_class(node: ast.ClassDef) -> list[str]:
    """What a class is made with: its ``__init__``'s parameters, or a dataclass's fields."""
    inits = (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
    init = next(inits, None)
    if init is not None:
        return parameters(init, method=True)
    fields = (each for each in node.body if isinstance(each, ast.AnnAssign) and "init=False" not in ast.unparse(each))
    return [each.target.id for each in fields if isinstance(each.target, ast.Name)]


def described(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, list[str], list[str]]]:
    """(name, parameters, entries) of every class and function whose docstring has the section."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        listed = entries(ast.get_docstring(node) or "")
        made = isinstance(node, ast.ClassDef)
        if listed is not None:
            wanted = of_class(node) if isinstance(node, ast.ClassDef) else parameters(node, bool(inside))
            yield inside + node.name, [name for name in wanted if not name.startswith("_")], listed
        if made:
            yield from described(node.body, f"{node.name}.")


DESCRIBED = [
    pytest.param(wanted, listed, id=f"{path.with_suffix('')}:{name}")
    for path, tree in TREES.items()
    for name, wanted, listed in described(tree.body)
]


@pytest.mark.parametrize(("wanted", "listed"), DESCRIBED)
def test_every_argument_has_a_line_of_its_own(wanted: list[str], listed: list[str]) -> None:
    assert sorted(listed) == sorted(wanted)


LINES = re.compile(r"^ *(?!Default|None)[A-Za-z_]\w*(?:, [A-Za-z_]\w*)*: .*$", re.MULTILINE)


def crowded(text: str) -> list[str]:
    """Lines of the sections of arguments and attributes that describe two at once, "low, high: ..." or "a: b. c: d"."""
    sections = re.findall(r"^( *)(?:Args|Attributes):\n(.*?)(?=^\1\S|\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [line for _, section in sections for line in LINES.findall(section)]
    second = r"[a-z0-9)`\]\"]\. (?!Default|None|Only)[a-z_]+: "
    return [line for line in lines if re.match(r" *\w+, \w", line) or re.search(second, line)]


@pytest.mark.parametrize("path", TREES, ids=str)
def test_no_line_describes_two(path: Path) -> None:
    found = [
        line
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for line in crowded(ast.get_docstring(node) or "")
    ]
    assert not found


def test_the_rule_sees_two_on_a_line() -> None:
    assert crowded("Args:\n    low, high: ends.\n    a: (n,). b: (m,).\n    c: x; None: y.\n") == [
        "    low, high: ends.",
        "    a: (n,). b: (m,).",
    ]


def test_the_rule_sees_what_breaks_it() -> None:
    """Two arguments on one line, one left out, one that does not exist."""
    lines = (
        "def f(low, high, *, seed=0, **more):",
        '    """Do.',
        "",
        "    Args:",
        "        low, high: ends.",
        "        sed: of it.",
    )
    text = "\n".join((*lines, '    """'))
    ((name, wanted, listed),) = described(ast.parse(text).body)
    assert (name, wanted, listed) == ("f", ["low", "high", "seed", "more"], ["low, high", "sed"])


def test_no_two_classes_share_a_name() -> None:
    """So that a name in an error, a signature or a search leads to one place."""
    names = Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in names.items() if count > 1} == SHARED
