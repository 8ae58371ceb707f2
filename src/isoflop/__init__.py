"""isoflop: how much more compute would the baseline have needed?

``import isoflop`` is light: no torch, no numpy. Everything is reached by name when it is first used. ``train`` lies in
``isoflop.train.run``: a function here could not share the name of its folder.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from .core import origins

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": "core.recipe",
    "Table": "core.table",
    "part": "core.registry",
    "Study": "lab.study",
    "compare": "lab.compare",
    "multipliers": "lab.multiplier",
    "errors": "",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'isoflop' has no attribute {name!r}")
    if not _PUBLIC[name]:
        return import_module(f"isoflop.{name}")
    return getattr(import_module(f"isoflop.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _describe(name: str, root: Path, digest: str | None) -> dict[str, Any]:
    from .core.reading import user_path  # with the first recipe that names another model
    from .store.published import is_adapter, is_published

    if is_adapter(user_path(name)):
        from .pipelines.adapters import describe_adapter

        return describe_adapter(user_path(name), digest)
    if is_published(user_path(name)):
        from .models.hf.directory import describe as described

        return described(user_path(name), digest)
    from .store.references import describe

    return describe(name, root, digest)


def _fill(directory: Path, part: Any, ctx: Any, into: Any) -> Any:
    from .models.hf.directory import fill  # with the first run that begins with a published model

    return fill(directory, part, ctx, into)


def _updates(directory: Path, base: Path | None) -> Any:
    from .pipelines.adapters import updates  # with the first run that takes up adapters of others

    return updates(directory, base)


origins.answer_with(_describe, _fill, _updates)
