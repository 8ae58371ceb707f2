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
- ``plan``: what to run (a folder: one question a file; ``plan.other_laws`` and ``plan.verb`` stand above ``verb``).
- ``law``: ``Law`` and ``Fit``, which offer these functions as methods.
- ``forms``, ``stored``, ``verb``: the laws themselves; a stored fit made again; what the command line does.

No module bears a public name: importing it would put it in that name's place.
"""

from pathlib import Path

from ..core.facade import classes_in, lazy

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
    "Life": "plan.lifetime",
    "plan_from": "plan.verb",
    "refit": "stored",
    "save": "export",
    "sensitivity": "sensitivities",
    "simulate": "simulation",
} | {name: f"forms.{form}" for name, form in classes_in(Path(__file__).with_name("forms")).items()}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy(__name__, _PUBLIC)
