"""Critical batch size against model size (Zhang et al. 2024, arXiv 2410.21676)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveFloat

from ...core.errors import DataError
from ...core.registry import Card, part
from ...core.table import Table
from ..formula import Columns, Parameter, Params, Values, coefficient
from ..grouping import cells
from ..law import Law
from ..tables import read_positive

# Steps of 0.1 over every exponent that a batch might have; the law is a straight line in logarithms for each.
_GRID = tuple(float(v) for v in np.linspace(-2.0, 2.0, 41))


@part
class CriticalBatch(Law):
    """B* = c (N / 10^6)^gamma, with B* from steps(B) = a + b / B at each size where the table holds steps.

    B* is the batch that needs ``overhead`` more samples than ``base`` does: (a B* + b) = (1 + overhead) (a base + b).

    Use it to learn how large a batch may grow before more machines buy no more speed. The table holds B_crit at each
    size, or steps to one loss by batch size (columns N, B, steps), from which B_crit is read first. Batches are in the
    table's own unit, sequences or tokens.

    Example:
        >>> fit = CriticalBatch().fit({"N": [1e7, 1e8, 1e9], "B_crit": [250.0, 500.0, 1000.0]})
        >>> round(fit.params["gamma"], 3)
        0.301
    """

    base: PositiveFloat = 256.0
    """Batch from which linear scaling is counted."""
    overhead: PositiveFloat = 0.2
    """Excess of samples that counts as critical."""

    card: ClassVar[Card] = Card(
        summary="The batch beyond which more data parallelism stops paying, as a power of model size.",
        paper="Zhang et al. 2024, arXiv 2410.21676",
        equation="steps = a + b / B; B* = overhead b / a + (1 + overhead) base; B* = c (N / 1e6)^gamma",
        defaults="both stages by least squares in logarithms; batches in sequences of 512 tokens",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters"}
    target: ClassVar[str] = "B_crit"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("c"),
        Parameter("gamma", -5.0, 5.0, _GRID, kind="exponent"),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return p["c"] * np.exp(p["gamma"] * np.log(x["N"] / 1e6))

    def prepare(self, table: Table) -> Table:
        """A raw table (N, B, steps) becomes one row a size; one that already has B_crit stays."""
        if self.target in table:
            return table
        if not {"N", "B", "steps"} <= set(table):
            raise DataError("needs columns N and B_crit, or N, B and steps", where="table", fix="rename with columns")
        rows = []
        sizes = read_positive(table, "N")
        for chosen in cells(sizes):
            group, size = table.where(chosen), float(np.median(sizes[chosen]))
            if group.rows < 3:
                raise DataError(
                    f"size {size:g} has {group.rows} batches", where="table", fix="steps = a + b / B needs 3"
                )
            fit = StepsToTarget().fit(group)
            a, b = fit.params["a"], fit.params["b"]
            rows.append({"N": size, self.target: self.overhead * b / a + (1.0 + self.overhead) * self.base})
        return Table.from_records(rows)


class StepsToTarget(Law):
    """steps = a + b / B: steps to a loss against batch size (McCandlish et al. 2018, arXiv 1812.06162).

    The first stage of ``CriticalBatch``, one fit a size: a is the least number of steps however large the batch, b the
    least number of samples however small it is.

    Example:
        >>> batches = [64, 256, 1024, 4096]
        >>> fit = StepsToTarget().fit({"B": batches, "steps": [1000 + 500_000 / batch for batch in batches]})
        >>> {name: round(value) for name, value in fit.params.items()}
        {'a': 1000, 'b': 500000}
    """

    columns: ClassVar[dict[str, str]] = {"B": "batch size"}
    target: ClassVar[str] = "steps"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (coefficient("a"), coefficient("b"))

    def predict(self, p: Params, x: Columns) -> Values:
        return p["a"] + p["b"] / x["B"]
