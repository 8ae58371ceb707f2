"""Merging: several checkpoints, and mostly a base, become one. Pure functions on tensors that anybody can call.

``from isoflop.merge import ties`` imports that method's file only; every file of ``merge/methods`` is a method.
"""

from pathlib import Path

from ..core.facade import lazy

_PUBLIC = {path.stem: f"methods.{path.stem}" for path in Path(__file__).with_name("methods").glob("[!_]*.py")}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy(__name__, _PUBLIC)
