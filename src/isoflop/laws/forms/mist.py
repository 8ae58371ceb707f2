"""Loss from size, tokens and mis-set hyper-parameters, with priors on where their optima lie (after MIST)."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Array, Columns, Parameter, Params, Values, coefficient, exponent, floor
from ..law import Law


@part
class Mist(Law):
    """Chinchilla's law with penalties c_lr (ln lr - ln lr*)^2 and c_b (ln batch - ln batch*)^2 for mis-set runs.

    The optima are ln lr* = k + n ln(N / N_mid) + d ln(D / D_mid) and ln batch* = k_b + d_b ln(D / D_mid), with
    N_mid = 1e9 and D_mid = 1e10. So runs off their best rate need not be thrown away, and the first three terms are
    the law of well-tuned ones. The exponents of the optima have weak normal priors.

    Use it for a table whose runs were not all tuned: lr and batch are columns, and what a wrong one costs is fitted
    with the rest. It does not replace tuning: where no run is near its optimum, the optimum is the prior's. All columns
    > 0.

    Example:
        >>> constants = {"A": 482.0, "B": 2085.0, "E": 1.82, "alpha": 0.348, "beta": 0.366, "c_lr": 0.02, "c_b": 0.01}
        >>> constants |= {"k": -7.0, "n": -0.7, "d": 0.3, "k_b": 13.0, "d_b": 0.55}
        >>> runs = {"N": 1e9, "D": 1e10, "lr": np.asarray([5e-4, 1e-3, 4e-3]), "batch": 5e5}
        >>> Mist().predict(constants, runs).round(3).tolist()
        [2.639, 2.632, 2.676]
    """

    card: ClassVar[Card] = Card(
        summary="Chinchilla's form plus penalties for a wrong learning rate and batch; nuisance constants have priors.",
        paper="Wadell et al. 2025, MIST, arXiv 2510.18900",
        equation="L = E + A/N^alpha + B/D^beta + c_lr ln(lr/lr*(N,D))^2 + c_b ln(batch/batch*(D))^2",
        differs="maximum of the posterior with profile intervals instead of sampling; priors of our choice",
    )
    columns: ClassVar[dict[str, str]] = {
        "N": "parameters",
        "D": "training tokens",
        "lr": "peak learning rate",
        "batch": "batch size, tokens",
    }
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A"),
        coefficient("B"),
        floor("E"),
        coefficient("c_lr", 1e-9, 1e3),
        coefficient("c_b", 1e-9, 1e3),
        exponent("alpha"),
        exponent("beta"),
        Parameter("k", -30.0, 10.0),
        Parameter("n", -3.0, 3.0, prior=(-0.7, 0.5)),
        Parameter("d", -3.0, 3.0, prior=(0.3, 0.5)),
        Parameter("k_b", -10.0, 40.0),
        Parameter("d_b", -3.0, 3.0, prior=(0.55, 0.5)),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return self._terms(p, x)[0]

    def gradient(self, p: Params, x: Columns) -> tuple[Array, dict[str, Array]]:
        y, (n, d, off_n, off_d, by_size, by_data, rate, batch) = self._terms(p, x)
        by_rate, by_batch = -2.0 * p["c_lr"] * rate, -2.0 * p["c_b"] * batch
        return y, {
            "A": by_size,
            "B": by_data,
            "E": np.ones_like(p["E"]),
            "c_lr": rate**2,
            "c_b": batch**2,
            "alpha": -p["A"] * by_size * n,
            "beta": -p["B"] * by_data * d,
            "k": by_rate,
            "n": by_rate * off_n,
            "d": by_rate * off_d,
            "k_b": by_batch,
            "d_b": by_batch * off_d,
        }

    @staticmethod
    def _terms(p: Params, x: Columns) -> tuple[Array, tuple[Array, ...]]:
        n, d = np.log(x["N"]), np.log(x["D"])
        off_n, off_d = n - np.log(1e9), d - np.log(1e10)
        rate = np.log(x["lr"]) - (p["k"] + p["n"] * off_n + p["d"] * off_d)
        batch = np.log(x["batch"]) - (p["k_b"] + p["d_b"] * off_d)
        by_size, by_data = np.exp(-p["alpha"] * n), np.exp(-p["beta"] * d)
        y = p["E"] + p["A"] * by_size + p["B"] * by_data + p["c_lr"] * rate**2 + p["c_b"] * batch**2
        return y, (n, d, off_n, off_d, by_size, by_data, rate, batch)

    def start_values(self, x: Columns, y: Array) -> Values:
        # Optima lie among what was tried; the exponents' starts are about the means of their priors.
        rates = np.quantile(np.log(x["lr"]), (0.25, 0.5, 0.75))
        batches = np.quantile(np.log(x["batch"]), (0.25, 0.5, 0.75))
        grid = itertools.product((0.2, 0.45), (0.2, 0.45), rates, (-0.5,), (0.2,), batches, (0.5,))
        return np.asarray([(1.0, 1.0, 1.0, 1.0, 1.0, *row) for row in grid])
