"""A folder's public names, read off its files, so that a new file is offered without a list that must be kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

_CLASS = re.compile(r"^class ([A-Za-z]\w*)", re.MULTILINE)


def classes_in(folder: Path) -> dict[str, str]:
    """Public classes of a slot's folder -> the file's name. Files are read as text; none is imported.

    A class is public if its name begins with no underscore and does not end in ``Part``: where a method has a class of
    its own, its recipe's part is a wrapper that nobody imports.
    """
    return {
        name: path.stem
        for path in sorted(folder.glob("[!_]*.py"))
        for name in _CLASS.findall(path.read_text(encoding="utf-8"))
        if not name.endswith("Part")
    }


def lazy(package: str, public: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names lie in modules that are imported when first used.

    Args:
        package: the package's dotted name, ``__name__`` in its ``__init__``.
        public: name -> the module that defines it, dotted from the package.
    """

    def get(name: str) -> Any:
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{public[name]}"), name)

    return get, lambda: sorted(public)
