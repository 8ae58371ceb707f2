"""One loss from another: shifted power laws between data sets (Brandfonbrener et al. 2024, arXiv 2411.12925)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from ...core.registry import Card, part
from ...core.table import Table
from ..fit import Solved
from ..formula import Array, Columns, Formula, Parameter, Params, Values, coefficient, floor
from ..law import Law
from ..tables import read_columns
from .kaplan import Kaplan

_LEAST = 1e-9  # nats above the floor: what a source at or below it is taken to be


@part
class LossToLoss(Law):
    """L1 = K (L0 - E0)^kappa + E1: train-to-train, train-to-test or test-to-test, by what the two columns hold.

    The floors come from Kaplan fits of either loss where the table has N and D (``floors="kaplan"``), are given, or
    are fitted with the rest. With known floors kappa and ln K are a straight line through ln(L - E).

    Use it to carry a fit over to other text, or to a downstream loss, from few models of one recipe: ``translate``
    gives the Kaplan constants there. Losses in nats a token, above their floors.

    Example:
        >>> source = np.asarray([4.7, 3.7, 2.7, 2.2, 2.0])
        >>> fit = LossToLoss(E0=1.7, E1=1.2).fit({"loss0": source, "loss": 1.2 + 1.1 * (source - 1.7) ** 0.9})
        >>> round(fit.params["K"], 3), round(fit.params["kappa"], 3)
        (1.1, 0.9)
    """

    E0: float | None = None
    """Floor of the source loss; None: see ``floors``."""
    E1: float | None = None
    """Floor of the target loss; None: see ``floors``."""
    floors: Literal["kaplan", "joint"] = "kaplan"
    """Where floors that are not given come from."""

    card: ClassVar[Card] = Card(
        summary="The loss on one data set from the loss on another, for models of one recipe.",
        paper="Brandfonbrener et al. 2024, arXiv 2411.12925",
        equation="L1 = K (L0 - E0)^kappa + E1",
        defaults="floors from Kaplan-form fits; kappa and ln K by least squares of ln(L1 - E1) on ln(L0 - E0)",
        differs="the Kaplan fits reach the global optimum",
    )
    columns: ClassVar[dict[str, str]] = {"loss0": "loss of the source, nats a token"}
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("K", 1e-6, 1e6),
        Parameter("kappa", 0.05, 10.0, tuple(np.geomspace(0.3, 3.0, 15).tolist()), kind="exponent"),
        Parameter("E0", 0.0, 1e6, kind="floor"),
        floor("E1"),
    )

    @property
    def held(self) -> dict[str, float]:
        return {name: at for name, at in (("E0", self.E0), ("E1", self.E1)) if at is not None}

    @property
    def shift(self) -> float:
        return self.E1 if self.E1 is not None else 0.0

    def predict(self, p: Params, x: Columns) -> Values:
        """A source at or below its floor, which a wrong floor makes possible, is taken to be just above it."""
        above = x["loss0"] - p["E0"]
        above = np.where(np.real(above) > _LEAST, above, _LEAST)
        return p["E1"] + p["K"] * np.exp(p["kappa"] * np.log(above))

    def start_values(self, x: Columns, y: Array) -> Values:
        below = float(np.min(x["loss0"]))
        # Floors from nearly 0 to nearly the least loss that was seen.
        grid = itertools.product(self.parameters[1].starts, below * np.linspace(0.02, 0.98, 25))
        return np.asarray([(1.0, kappa, e0, 1.0) for kappa, e0 in grid])

    def limits(self, x: Columns, y: Array) -> dict[str, tuple[float, float]]:
        # A floor at the least loss itself would put that row at ln 0.
        return {"E0": (0.0, float(np.min(x["loss0"])) * (1 - 1e-6)), "E1": (0.0, float(np.min(y)) * (1 - 1e-6))}

    def compute(self, x: Columns) -> Values:
        """C where the table has it; else a stand-in: compute at which the source loss would fall with exponent 0.05."""
        return super().compute(x) if "C" in x else np.asarray(x["loss0"], dtype=float) ** -20.0

    def first_stage(self, table: Table) -> tuple[Formula, Table]:
        """Floors from Kaplan fits where they are wanted and the table has N and D.

        A run whose loss lies below its floor has no logarithm; it is left out of the second stage.
        """
        law = self
        if self.floors == "kaplan" and {"N", "D"} <= set(table) and None in (self.E0, self.E1):
            source = Kaplan().fit(table.select({"N": "N", "D": "D", "loss": "loss0"}))
            target = Kaplan().fit(table.select({"N": "N", "D": "D", "loss": "loss"}))
            e0 = self.E0 if self.E0 is not None else source.params["E"]
            e1 = self.E1 if self.E1 is not None else target.params["E"]
            law = type(self)(E0=e0, E1=e1, floors="joint")
        if law.E1 is None or law.E0 is None:
            return law, table
        table = read_columns(law, table, with_target=True)
        return law, table.where((table.numbers("loss0") > law.E0) & (table.numbers("loss") > law.E1))


def translate(kaplan: Mapping[str, float], fit: Solved) -> dict[str, float]:
    """Constants of the Kaplan law on the target data.

    Args:
        kaplan: its constants A, B, E, alpha and beta on the source data.
        fit: a fit of ``LossToLoss`` from the source to the target.

    Example, with ``fitted(name)`` a law fitted to its own planted table:
        >>> moved = translate(fitted("kaplan").params, fitted("loss_to_loss"))
        >>> {name: f"{value:.3g}" for name, value in moved.items()}
        {'A': '3.16e+08', 'B': '4.1e+08', 'E': '1.3', 'alpha': '0.265', 'beta': '0.365'}
    """
    k, kappa = fit.params["K"], fit.params["kappa"]
    return {
        "A": kaplan["A"] * k ** (1.0 / (kappa * kaplan["alpha"])),
        "B": kaplan["B"] * k ** (1.0 / (kappa * kaplan["beta"])),
        "E": fit.params["E1"],
        "alpha": kappa * kaplan["alpha"],
        "beta": kappa * kaplan["beta"],
    }
