"""Training rules, learning-rate schedules and weight averages; each class also works alone in anybody's loop.

``from isoflop.optim import AdEMAMix`` imports that class's file only.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Adafactor": "optimizers.adafactor",
    "Adalayer": "optimizers.adalayer",
    "AdEMAMix": "optimizers.ademamix",
    "Chain": "chain",
    "EMA": "averaging.ema",
    "GaussNewton": "optimizers.gauss_newton",
    "GPA": "optimizers.gpa",
    "HalfLife": "averaging.half_life",
    "LatestK": "averaging.latest_k",
    "Lion": "optimizers.lion",
    "MARS": "optimizers.mars",
    "Muon": "optimizers.muon",
    "ScheduleFreeAdamW": "optimizers.schedule_free_adamw",
    "ScheduleFreeRAdam": "optimizers.schedule_free_radam",
    "ScheduleFreeSGD": "optimizers.schedule_free_sgd",
    "SeveralEMA": "averaging.several",
    "SFA": "averaging.sfa",
    "Shampoo": "optimizers.shampoo",
    "Signum": "optimizers.signum",
    "SimplifiedAdEMAMix": "optimizers.simplified_ademamix",
    "SOAP": "optimizers.soap",
    "SophiaG": "optimizers.sophia_g",
    "Tail": "averaging.tail",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'isoflop.optim' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
