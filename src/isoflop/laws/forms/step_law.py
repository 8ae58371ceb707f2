"""Optimal learning rate and batch size against size and tokens (Li et al. 2025, "step law", arXiv 2503.04715)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import NonNegativeFloat

from ...core.errors import DataError
from ...core.registry import Card, part
from ...core.table import Table
from ..formula import Columns, Parameter, Params, Values, coefficient
from ..grouping import cells
from ..law import Law
from ..tables import read_positive

# Steps of 0.1 around 0 for both exponents; for each pair the law is solved exactly.
_GRID = tuple(float(v) for v in np.linspace(-1.5, 1.5, 31))


@part
class StepLaw(Law):
    """lr* = c N^n D^d and batch* = c D^d (then n = 0 is held), from a sweep of both at each (N, D).

    Use it to set the rate and the batch of a run that is too dear to tune: sweep both at small (N, D), fit each, and
    predict. It belongs to the recipe of the sweep; another schedule or optimizer needs its own.

    Example:
        >>> rate = StepLaw().predict({"c": 1.79, "n": -0.713, "d": 0.307}, {"N": 1e9, "D": 1e11})
        >>> f"{float(rate):.2e}"
        '1.63e-03'
    """

    of: Literal["lr", "batch"] = "lr"
    """Which optimum: the column of that name is read from the sweep."""
    near: NonNegativeFloat = 0.0025
    """Runs whose loss is within this relative distance of the cell's best are averaged (in logarithms); 0: the best."""

    card: ClassVar[Card] = Card(
        summary="The best learning rate (or batch) as a power of parameters and tokens.",
        paper="Li et al. 2025, arXiv 2503.04715",
        equation="lr* = c N^n D^d; batch* = c D^d",
        defaults="lr* = 1.79 N^-0.713 D^0.307, batch* = 0.58 D^0.571 tokens",
        differs="the near-optimum protocol moves the exponents and is therefore a field",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters without embeddings", "D": "training tokens"}
    target: ClassVar[str] = "optimum"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("c", 1e-60, 1e60),
        Parameter("n", -5.0, 5.0, _GRID, kind="exponent"),
        Parameter("d", -5.0, 5.0, _GRID, kind="exponent"),
    )

    @property
    def held(self) -> dict[str, float]:
        return {"n": 0.0} if self.of == "batch" else {}

    def varying(self) -> tuple[str, ...]:
        return ("D",) if self.of == "batch" else ("N", "D")

    def predict(self, p: Params, x: Columns) -> Values:
        return p["c"] * np.exp(p["n"] * np.log(x["N"]) + p["d"] * np.log(x["D"]))

    def prepare(self, table: Table) -> Table:
        """One row a cell (N, D): the geometric mean of the rates (batches) of its near-best runs."""
        if self.target in table:
            return table
        rows = []
        sizes, tokens = read_positive(table, "N"), read_positive(table, "D")
        losses, tried = table.numbers("loss"), table.numbers(self.of)
        for chosen in cells(sizes, tokens):
            n, d = float(np.median(sizes[chosen])), float(np.median(tokens[chosen]))
            loss = losses[chosen]
            if not np.isfinite(loss).any():  # runs that failed are no candidates, but a cell of none is no optimum
                raise DataError(f"no run of N = {n:g}, D = {d:g} has a loss", where="table", fix="drop that cell")
            good = loss <= np.nanmin(loss) * (1.0 + self.near)
            if not (tried[chosen][good] > 0).all():
                raise DataError(
                    f"column {self.of} is not positive at N = {n:g}, D = {d:g}", where="table", fix="repair it"
                )
            best = float(np.exp(np.mean(np.log(tried[chosen][good]))))
            rows.append({"N": n, "D": d, self.target: best})
        return Table.from_records(rows)
