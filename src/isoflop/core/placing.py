"""Paths within a file that a user writes: relative to that file, or, where nothing lies there, to the working folder.

Such a path is known by its key, ``path`` or ``paths``, whoever's part it belongs to. Paths on the command line are not
touched: those are relative to the working directory, as everywhere in a shell.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

_KEYS = ("path", "paths")


_DEEPEST = 64  # levels: whoever reads deeper nesting refuses it


def placed(tree: Any, folder: Path, level: int = 0) -> Any:
    """The tree of a file in ``folder``, each relative path in it as it is seen from the working directory.

    Example:
        >>> placed({"source": {"paths": ["no such file"]}}, Path("elsewhere"))
        {'source': {'paths': ['no such file']}}
    """
    if level > _DEEPEST:
        return tree
    if isinstance(tree, list):
        return [placed(item, folder, level + 1) for item in tree]
    if not isinstance(tree, dict):
        return tree
    named = {key: value for key, value in tree.items() if key in _KEYS and isinstance(value, str | list)}
    seen = {key: _seen(value, folder) for key, value in named.items()}
    return {key: seen[key] if key in seen else placed(value, folder, level + 1) for key, value in tree.items()}


def _seen(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_seen(item, folder) if isinstance(item, str) else item for item in value]
    if not isinstance(value, str) or not value or "\0" in value or value.startswith("~") or os.path.isabs(value):
        return value
    there = os.path.join(folder, value)
    found = os.path.lexists(there) or next(glob.iglob(there, recursive=True), None) is not None
    return os.path.normpath(there) if found and str(folder) not in ("", ".") else value
