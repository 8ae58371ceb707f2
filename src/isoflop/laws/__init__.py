"""Scaling laws: a table in, a fit out.

``Chinchilla().fit(table)`` gives a ``Fit`` with its constants, a certificate of the optimum, intervals that say what is
not identified, and predictions that say how far they can be trusted. No torch.

A module imports from those before it in this list, never the other way:

- ``formula``, ``losses``, ``arguments``, ``tables``: a law before it meets data, and the columns that it reads.
- ``grouping``, ``pairs``, ``compute_optimal``: tables that are made from sweeps.
- ``solve``, ``search``, ``noise``, ``checks``: many fits at once, the global optimum, the size of the noise.
- ``fit``: settings, and ``Solved``, a fit as a value.
- ``bootstrap``, ``profile``, ``intervals``, ``sensitivities``, ``extrapolate``, ``simulation``: functions of a fit.
- ``report``, ``export``, ``curves``, ``comparison``: what is shown and stored.
- ``law``: ``Law`` and ``Fit``, which offer these functions as methods.
- ``forms``, ``stored``, ``verb``: the laws themselves; a stored fit made again; what the command line does.

No module bears a public name: importing it would put it in that name's place.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Law": "law",
    "Parameter": "formula",
    "coefficient": "formula",
    "exponent": "formula",
    "floor": "formula",
    "Fit": "law",
    "Settings": "fit",
    "Comparison": "comparison",
    "compare": "comparison",
    "fit_table": "verb",
    "optima": "compute_optimal",
    "pair": "pairs",
    "refit": "stored",
    "save": "export",
    "sensitivity": "sensitivities",
    "simulate": "simulation",
    "AverageN": "forms.average_n",
    "Chinchilla": "forms.chinchilla",
    "CriticalBatch": "forms.critical_batch",
    "DataConstrained": "forms.data_constrained",
    "Emergence": "forms.emergence",
    "Farseer": "forms.farseer",
    "Frontier": "forms.frontier",
    "Imitation": "forms.imitation",
    "InfiniteCompute": "forms.infinite_compute",
    "Kaplan": "forms.kaplan",
    "LossToLoss": "forms.loss_to_loss",
    "Mist": "forms.mist",
    "Overtraining": "forms.overtraining",
    "OvertrainingError": "forms.overtraining_error",
    "Power": "forms.power",
    "PowerFloor": "forms.power_floor",
    "QatFraction": "forms.qat_fraction",
    "QatLoss": "forms.qat_loss",
    "Qqt": "forms.qqt",
    "StepLaw": "forms.step_law",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
