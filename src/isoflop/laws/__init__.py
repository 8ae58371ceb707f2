"""Scaling laws: a table in, a fit out.

``Chinchilla().fit(table)`` gives a ``Fit`` with its constants, a certificate of the optimum, intervals that say what is
not identified, and predictions that say how far they can be trusted. No torch.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Law": "law",
    "Parameter": "law",
    "coefficient": "law",
    "exponent": "law",
    "floor": "law",
    "Fit": "fit",
    "Settings": "fit",
    "Chinchilla": "forms.chinchilla",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
