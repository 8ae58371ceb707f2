"""Recipes and merges as trees of a pipeline's document: how stages change them, and where they name other stages."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import tomli_w

from ..core.registry import SLOTS

Tree = dict[str, Any]


def joined(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """A tree with changes: tables are joined, but a budget and what names another part replace the old as a whole.

    Entries of a list are changed by their number, as in ``terms.1.weight``.
    """
    out = dict(tree)
    for key, value in changes.items():
        out[key] = _changed(key, out.get(key), value)
    return out


def _changed(key: str, old: Any, value: Any) -> Any:
    if isinstance(old, str) and key in SLOTS:
        old = {"name": old}
    if not isinstance(value, dict):
        return value
    if isinstance(old, list) and value and all(name.isdecimal() and int(name) < len(old) for name in value):
        return [_changed("", item, value[str(i)]) if str(i) in value else item for i, item in enumerate(old)]
    same = isinstance(old, dict) and key != "budget" and value.get("name", old.get("name")) == old.get("name")
    return joined(old, value) if same else value


def literal(value: Any) -> str:
    """A value as TOML writes it."""
    return tomli_w.dumps({"value": list(value) if isinstance(value, tuple) else value}).partition("=")[2].strip()


def with_sources(tree: Any, known: Callable[[str], Any]) -> Any:
    """The tree with every ``source`` that ``known`` knows (None: not) by its name replaced by what it is."""
    if isinstance(tree, list):
        return [with_sources(item, known) for item in tree]
    if not isinstance(tree, dict):
        return tree
    out = {}
    for key, value in tree.items():
        found = known(value) if key == "source" and isinstance(value, str) else None
        out[key] = with_sources(value, known) if found is None else found
    return out


def sources_in(tree: Any) -> Iterator[str]:
    """Names that stand where a recipe takes a source."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if key == "source" and isinstance(value, str):
            yield value
        else:
            yield from sources_in(value)


def started(tree: Mapping[str, Any]) -> Any:
    """What a recipe's tree names as its start."""
    start = tree.get("start")
    return start.get("run") if isinstance(start, dict) else start


def merged_in(tree: Tree) -> Iterator[tuple[Tree, str]]:
    """Where a merge's tree names a model: table and key."""
    pieces = tree.get("slices", ())
    yield from ((table, "base") for table in (tree, *pieces))
    yield from ((source, "path") for source in tree.get("models", ()))
    yield from ((source, "path") for piece in pieces for source in piece.get("sources", ()))


def kept_names(tree: Any, before: Any, names: Container[str]) -> Any:
    """A tree in which paths were moved, with every text that was one of ``names`` as it was before."""
    if isinstance(tree, dict):
        return {key: kept_names(value, before[key], names) for key, value in tree.items()}
    if isinstance(tree, list):
        return [kept_names(value, old, names) for value, old in zip(tree, before, strict=True)]
    return before if isinstance(before, str) and before in names else tree
