"""What a user holds: a law that can be fitted, and its fit, with everything that can be asked of it.

Both add only methods: a ``Law`` is a ``Formula``, a ``Fit`` a ``Solved`` value, and all that works on those stands on a
lower floor, so that nothing in this folder imports upward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from ..store.notebook import text
from .bootstrap import Samples, bootstrap
from .export import to_json
from .extrapolate import Prediction, predict_interval
from .fit import Settings, Solved, fit_law
from .formula import Array, Formula
from .intervals import Interval, intervals
from .plan.answer import Plan
from .plan.ask import plan
from .profile import Profile, profile
from .report import report


class Law(Formula):
    """A law that can be fitted. One of your own states ``columns``, ``parameters`` and ``predict`` (see ``Formula``).

    A law of one's own states ``columns``, ``parameters`` and ``predict`` (see ``Formula``); what it then can be asked
    is the same as of the laws that are shipped. Registered under a name it is known to ``isoflop fit``, too.

    Example:
        >>> from isoflop.laws import PowerFloor
        >>> fit = PowerFloor().fit({"C": [1, 4, 16, 64, 256], "loss": [3.0, 2.5, 2.25, 2.125, 2.0625]})
        >>> {name: round(value, 3) for name, value in fit.params.items()}
        {'A': 1.0, 'E': 2.0, 'a': 0.5}
    """

    def fit(self, table: Mapping[str, Any], settings: Settings | None = None, **given: Any) -> Fit:
        """Fit to a table.

        Args:
            table: any mapping of column name to array (rows,): a dict, a frame or a ``Table``.
            settings: how to fit; None: the law's defaults with what is given.
            given: fields of ``isoflop.laws.Settings``; ``weights`` and ``clusters`` may also be arrays (rows,).

        Raises:
            DataError: rows that no law can be fitted to.
            UsageError: a setting that does not exist or does not fit the law.
            NumericsError: the law is not defined anywhere near the data.
        """
        return Fit(**vars(fit_law(self, table, settings, **given)))


class Fit(Solved):
    """A fitted law: its constants, certificate and warnings, and what can be asked of it.

    Every answer carries its doubt: ``intervals`` says which constants the rows identify at all,
    ``predict(interval=0.9)`` widens with the distance from the rows, ``plan`` gives what to run, each number with its
    interval. Read ``warnings`` and ``certificate`` before using any constant.

    Example:
        >>> from isoflop.laws import Power
        >>> fit = Power().fit({"C": [1e18, 1e19, 1e20, 1e21], "y": [1.0, 3.1, 10.2, 31.0]})
        >>> round(fit.params["a"], 3), fit.intervals(0.95)["a"].verdict, fit.converged
        (0.499, 'identified', True)
        >>> ahead = fit.predict({"C": [1e23]}, interval=0.9)
        >>> [round(float(end[0])) for end in (ahead.low, ahead.value, ahead.high)]
        [205, 312, 477]
    """

    @overload
    def predict(self, table: Mapping[str, Any], interval: None = None) -> Array: ...
    @overload
    def predict(self, table: Mapping[str, Any], interval: float) -> Prediction: ...
    def predict(self, table: Mapping[str, Any], interval: float | None = None) -> Array | Prediction:
        """Predictions (n,) at a table's columns, in the target's units.

        Args:
            table: the law's columns, as in ``fit``.
            interval: level, e.g. 0.9, of prediction intervals; with it a ``Prediction`` with value, low and high.

        Raises:
            DataError: a declared column is missing, or not finite and positive as the law wants it.
            UsageError: a level that is no share.
        """
        return super().predict(table) if interval is None else predict_interval(self, table, interval)

    def bootstrap(
        self, samples: int = 1000, *, kind: str | None = None, seed: int = 0, rows: Array | None = None
    ) -> Samples:
        """Refits to resampled data: see ``isoflop.laws.bootstrap.bootstrap``."""
        return bootstrap(self, samples, kind=kind, seed=seed, rows=rows)

    def profile(self, name: str, values: Array | None = None) -> Profile:
        """The objective with one parameter held, the others refitted: see ``isoflop.laws.profile.profile``."""
        return profile(self, name, values)

    def intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """Profile-likelihood interval and identifiability verdict of every fitted parameter, by name."""
        return intervals(self, level)

    def plan(self, **asked: Any) -> Plan:
        """What to run, with intervals: ``fit.plan(compute=1e23)``; see ``isoflop.laws.plan.ask.plan`` for all of it."""
        return plan(self, **asked)

    def report(self, level: float = 0.95) -> str:
        """The whole fit as text: constants with intervals and verdicts, certificate, sensitivity, warnings."""
        return report(self, level)

    def _repr_html_(self) -> str:
        """What a notebook shows: the report."""
        return text(self.report())

    def to_json(self) -> dict[str, Any]:
        """Everything needed to make the fit again, data included, as JSON values (see ``isoflop.laws.export``)."""
        return to_json(self)
