"""Where other models come from: core keeps the questions, whoever knows how models are stored gives the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Describe = Callable[[str, Path, str | None], Mapping[str, Any]]
"""What a recipe keeps of the model that a name means: see ``store.references.describe``, which is the answer."""
Fill = Callable[[Path, Any, Any, Any], Any]
"""A published model's weights in a model of ours: see ``models.hf.directory.fill``, which is the answer."""
Updates = Callable[[Path, Path | None], Mapping[str, Any]]
"""The updates that an adapter's directory holds: see ``pipelines.adapters.updates``, which is the answer."""

_answers: list[tuple[Describe, Fill, Updates]] = []


def answer_with(describe: Describe, fill: Fill, updates: Updates) -> None:
    """Let these answer from now on; the package does so when it is imported."""
    _answers[:] = [(describe, fill, updates)]


def describe(name: str, root: Path, digest: str | None) -> Mapping[str, Any]:
    """What a recipe keeps of a model.

    Args:
        name: as the user wrote it, e.g. a run's directory.
        root: directory of runs.
        digest: of its weights, where the user gave it.

    Raises:
        IsoflopError: there is none, or it cannot be read.
    """
    return _answers[0][0](name, root, digest)


def fill(directory: Path, part: Any, ctx: Any, into: Any = None) -> Any:
    """A model with the weights of a published model's directory.

    Args:
        directory: in Hugging Face's layout; it says the architecture ``part``.
        part: the model's part.
        ctx: what to build with.
        into: a model that takes the weights; None: one is built.

    Raises:
        DataError: the directory cannot be read, or is of another architecture.
    """
    return _answers[0][1](directory, part, ctx, into)


def updates(directory: Path, base: Path | None) -> Mapping[str, Any]:
    """The updates that an adapter's directory holds, each a ``LowRank``, by the paths of our modules.

    Args:
        directory: in PEFT's layout.
        base: the published model that it is for, whose names it has; None: it has ours.

    Raises:
        DataError: it cannot be read, or holds more than updates of low rank.
    """
    return _answers[0][2](directory, base)
