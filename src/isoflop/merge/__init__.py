"""Merging: several checkpoints, and mostly a base, become one. Pure functions on tensors that anybody can call.

``from isoflop.merge import ties`` imports that method's file only; every file of ``merge/methods`` is a method.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = sorted(path.stem for path in Path(__file__).with_name("methods").glob("[!_]*.py"))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.methods.{name}"), name)


def __dir__() -> list[str]:
    return list(__all__)
