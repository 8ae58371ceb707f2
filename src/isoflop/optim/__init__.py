"""Training rules, learning-rate schedules and weight averages; each class also works alone in anybody's loop.

``from isoflop.optim import AdEMAMix`` imports that class's file only. Every file of the folders ``optimizers``,
``schedules`` and ``averaging`` is offered here.
"""

from pathlib import Path

from ..core.facade import classes_in, lazy

_PUBLIC = {"Chain": "chain", "split": "splitting"} | {
    name: f"{folder}.{module}"
    for folder in ("optimizers", "schedules", "averaging")
    for name, module in classes_in(Path(__file__).with_name(folder)).items()
}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy(__name__, _PUBLIC)
