"""Merges written for mergekit: its YAML, translated. What has no translation is named, all of it in one error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import DataError, RecipeError, nearest
from ..core.reading import read_bytes
from ..core.registry import names

_KNOBS = {
    "lambda": "scale",
    "nuslerp_flatten": "flatten",
    "nuslerp_row_wise": "row_wise",
    "normalize_weights": "normalize",
}
_WITHOUT_EFFECT = {"int8_mask"}
"""Knobs that save memory there and leave the numbers as they are."""
_TRIMMING = ("task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties")
_IDLE = [("rescale", False, method) for method in _TRIMMING]
"""Knobs that say what holds anyway: (name, value, method)."""
_TOP = {
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
}
_NOT_YET = {"modules": "models of several modules"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MAX_BYTES = 1 << 20
_MOST_VALUES = 100_000


def tree_of(path: Path) -> dict[str, Any]:
    """The TOML tree that means the same as a mergekit YAML file.

    Raises:
        RecipeError: the file is not YAML, or uses what is not supported; every such thing is named.
    """
    try:
        tree = _Unique(read_bytes(path, _MAX_BYTES, pipe=True)).get_single_data()
        if _size(tree, {}) > _MOST_VALUES:
            raise ValueError("its anchors unfold to too many values")
    except DataError as error:
        raise RecipeError([error.what], source=str(path)) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError([f"is not YAML: {' '.join(str(error).split())}"], source=str(path)) from error
    if not isinstance(tree, Mapping):
        raise RecipeError(["is no table of a merge"], source=str(path))
    reader = _Reader()
    found = reader.recipe(tree)
    if reader.problems:
        raise RecipeError(reader.problems, source=str(path))
    return found


class _Reader:
    """Translates, and remembers what it cannot."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.method: Any = None

    def recipe(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        self._keys(tree, "", _TOP)
        self.method = method = tree.get("merge_method")
        if method not in names("merge"):
            self.problems.append(f"merge_method: {method!r} is not supported; {nearest(str(method), names('merge'))}")
        found: dict[str, Any] = {"method": str(method)}
        if tree.get("base_model") is not None:
            found["base"] = self._model(tree["base_model"], "base_model")
        for key, read in (("models", self._source), ("slices", self._slice)):
            if tree.get(key) is not None:
                found[key] = self._list(tree[key], key, read)
        found["parameters"] = self._knobs(tree.get("parameters"), "parameters")
        self._types(tree, found)
        self._tokenizer(tree, found)
        template = tree.get("chat_template")
        if template is not None and template != "auto":
            if "{" in str(template):
                found["chat_template"] = str(template)
            else:
                self.problems.append(f"chat_template: {template!r}: only auto or a Jinja text is supported")
        return found

    def _types(self, tree: Mapping[str, Any], found: dict[str, Any]) -> None:
        compute, out = tree.get("dtype"), tree.get("out_dtype")
        if compute is not None:
            found["compute"] = str(compute)
        if (out or compute) is not None:
            found["dtype"] = str(out or compute)

    def _tokenizer(self, tree: Mapping[str, Any], found: dict[str, Any]) -> None:
        rule = tree.get("tokenizer_source")
        table = tree.get("tokenizer")
        if isinstance(table, Mapping):
            self._keys(table, "tokenizer.", {"source"})
            rule = table.get("source")
        elif table is not None:
            self.problems.append("tokenizer: is no table")
        if rule in ("base", "union"):
            found["tokenizer"] = rule
        elif rule is not None:
            self.problems.append(f"tokenizer: source {rule!r}: only base and union are supported")

    def _source(self, entry: Any, path: str) -> dict[str, Any]:
        entry = self._table(entry, path)
        self._keys(entry, f"{path}.", {"model", "layer_range", "parameters"})
        found: dict[str, Any] = {"path": self._model(entry.get("model"), f"{path}.model")}
        if entry.get("layer_range") is not None:
            found["layers"] = entry["layer_range"]
        return {**found, "parameters": self._knobs(entry.get("parameters"), f"{path}.parameters")}

    def _slice(self, entry: Any, path: str) -> dict[str, Any]:
        entry = self._table(entry, path)
        self._keys(entry, f"{path}.", {"sources", "base_model", "parameters"})
        found: dict[str, Any] = {"sources": self._list(entry.get("sources"), f"{path}.sources", self._source)}
        if entry.get("base_model") is not None:
            found["base"] = self._model(entry["base_model"], f"{path}.base_model")
        return {**found, "parameters": self._knobs(entry.get("parameters"), f"{path}.parameters")}

    def _model(self, value: Any, path: str) -> str:
        if isinstance(value, Mapping):
            self.problems.append(f"{path}: only a directory's path is supported, no table")
            return ""
        text = str(value)
        model, _, adapter = text.rpartition("+")
        if not Path(text).exists() and not (Path(model).exists() and model and Path(adapter).exists()):
            if "@" in text:
                self.problems.append(f"{path}: {text!r}: revisions (@) are not supported; name a directory")
            else:
                self.problems.append(f"{path}: {text!r} is no directory here; download the model first")
        return text

    def _knobs(self, value: Any, path: str) -> dict[str, Any]:
        found = {}
        for name, knob in self._table(value or {}, path).items():
            idle = (name, knob, self.method) in _IDLE or (name, self.method) == ("density", "task_arithmetic")
            if name not in _WITHOUT_EFFECT and not idle:
                found[_KNOBS.get(str(name), str(name))] = _numeric(knob)
        return found

    def _list(self, value: Any, path: str, read: Callable[[Any, str], dict[str, Any]]) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            self.problems.append(f"{path}: is no list")
            return []
        return [read(entry, f"{path}.{number}") for number, entry in enumerate(value)]

    def _table(self, value: Any, path: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self.problems.append(f"{path}: is no table")
            return {}
        return value

    def _keys(self, table: Mapping[str, Any], prefix: str, legal: set[str]) -> None:
        for key in table:
            if key not in legal:
                what = f" ({_NOT_YET[key]})" if key in _NOT_YET else ""
                self.problems.append(f"{prefix}{key}: is not supported{what}; {nearest(str(key), legal)}")


def _numeric(knob: Any) -> Any:
    """YAML reads 1e-5 as a text; it is meant as a number."""
    if isinstance(knob, str) and _NUMBER.fullmatch(knob):
        return float(knob)
    if isinstance(knob, list):
        return [_numeric(entry) for entry in knob]
    if isinstance(knob, Mapping):
        return {key: entry if key == "filter" else _numeric(entry) for key, entry in knob.items()}
    return knob


def _size(value: Any, seen: dict[int, int]) -> int:
    """Number of values in a tree in which anchors are written out."""
    if id(value) not in seen and isinstance(value, list | dict):
        children = value.values() if isinstance(value, dict) else value
        seen[id(value)] = _MOST_VALUES  # while under way: a tree that holds itself is too large
        seen[id(value)] = 1 + sum(_size(child, seen) for child in children)
    return seen.get(id(value), 1)


class _Unique(yaml.SafeLoader):  # type: ignore[misc]
    """A safe loader that refuses a key that comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for number, key in enumerate(keys) if key in keys[:number]]
        if twice:
            raise yaml.YAMLError(f"the key {twice[0]!r} comes twice{node.start_mark}")
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found
