"""A run's directory before its first step."""

from __future__ import annotations

import errno
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from ..core.files import publish_directory
from ..core.recipe import Recipe
from .environment import determinism, environment
from .records import Status


def create(path: Path, recipe: Recipe, text: str) -> None:
    """Make a run's directory as a whole; nothing is done where another process was first."""
    try:
        with publish_directory(path) as partial:
            fill(partial, recipe, text)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first: its directory is as good
            raise


def fill(directory: Path, recipe: Recipe, text: str) -> None:
    """What lies in a run's directory before its first step."""
    time = now()
    status = Status(created=time, updated=time, pid=os.getpid(), host=socket.gethostname())
    facts = environment(determinism(recipe.train), device=recipe.train.device)
    files = {"resolved.json": recipe.to_json(), "environment.json": facts, "status.json": status.model_dump()}
    (directory / "recipe.toml").write_text(text, encoding="utf-8")
    for name, tree in files.items():
        (directory / name).write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
