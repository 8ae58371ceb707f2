"""Loss of a run whose parameter count changes, from its average (Jin et al. 2025, arXiv 2501.12486)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...core.errors import DataError
from ...core.registry import Card, part
from ...core.table import Table
from ...ledger.conventions import six_nd
from ..formula import Array, Columns, Parameter, Params, Values, coefficient, exponent, floor
from .chinchilla import Chinchilla


@part
class AverageN(Chinchilla):
    """L = E + A / Nbar^alpha + B / D^beta with Nbar the mean number of active parameters over training.

    Use it for runs whose number of active parameters changes while they train, as pruning does: a run counts with its
    mean. ``mean_parameters`` gives N_avg from the schedule; otherwise this is ``Chinchilla``.

    Example:
        >>> mean = float(mean_parameters(1e9, 2e8, 0.25, 0.75))
        >>> constants = {"A": 482.0, "B": 2085.0, "E": 1.82, "alpha": 0.348, "beta": 0.366}
        >>> mean, round(float(AverageN().predict(constants, {"N_avg": mean, "D": 2e10})), 3)
        (600000000.0, 2.599)
    """

    card: ClassVar[Card] = Card(
        summary="Loss of sparse pre-training from the average number of active parameters and tokens.",
        paper="Jin et al. 2025, arXiv 2501.12486",
        equation="L = E + A / Nbar^alpha + B / D^beta, Nbar = (1/T) int N(t) dt, C = 6 Nbar D",
        defaults="prune from 25 % to 75 % of compute",
    )
    columns: ClassVar[dict[str, str]] = {"N_avg": "mean active parameters over training", "D": "training tokens"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A"),
        coefficient("B"),
        floor("E"),
        exponent("alpha", starts=tuple(np.geomspace(0.04, 1.3, 24).tolist())),
        exponent("beta", starts=tuple(np.geomspace(0.04, 1.3, 24).tolist())),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return super().predict(p, {"N": x["N_avg"], "D": x["D"]})

    def gradient(self, p: Params, x: Columns) -> tuple[Array, dict[str, Array]]:
        return super().gradient(p, {"N": x["N_avg"], "D": x["D"]})

    def compute(self, x: Columns) -> Values:
        return six_nd(np.asarray(x["N_avg"], dtype=float), np.asarray(x["D"], dtype=float))

    def prepare(self, table: Table) -> Table:
        """N_avg from N_start, N_end and the shares of training at which pruning begins and ends, where it is absent."""
        parts = ("N_start", "N_end", "prune_begin", "prune_end")
        if "N_avg" in table or not set(parts) <= set(table):
            return table
        start, end, begin, finish = (table.numbers(name) for name in parts)
        if not ((begin >= 0) & (begin <= finish) & (finish <= 1)).all():
            raise DataError(
                "prune_begin and prune_end are no shares of training in order",
                where="table",
                fix="0 <= begin <= end <= 1",
            )
        return table.with_columns(N_avg=mean_parameters(start, end, begin, finish))


def mean_parameters(start: Array, end: Array, begin: Array, finish: Array) -> Values:
    """Mean of a count: ``start`` until share ``begin`` of training, then falling linearly to ``end`` at ``finish``.

    Args:
        start: parameters before pruning.
        end: parameters after it.
        begin: share of training at which pruning begins.
        finish: share at which it ends.

    Example:
        >>> float(mean_parameters(1e9, 2e8, 0.25, 0.75))
        600000000.0
    """
    return np.asarray(start * begin + 0.5 * (start + end) * (finish - begin) + end * (1.0 - finish))
