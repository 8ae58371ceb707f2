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
    "Comparison": "comparison",
    "compare": "comparison",
    "fit_table": "verb",
    "optima": "isoflop",
    "pair": "pairs",
    "refit": "export",
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
