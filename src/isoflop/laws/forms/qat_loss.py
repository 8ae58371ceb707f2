"""Loss of a model that is trained in full precision, then quantisation-aware (compute-optimal QAT)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...core.registry import Card, part
from ...ledger.conventions import six_nd
from ..formula import Columns, Parameter, Params, Values, coefficient, exponent, floor
from ..law import Law


@part
class QatLoss(Law):
    """L = E + A/N^alpha + B/D^beta + theta 2^(-kappa b) + phi 2^(-chi b)/(N^psi S_q^omega)
    + lam 2^(-mu b)/(N^nu S_f^xi S_q^rho), with S_q, S_f the QAT and full-precision tokens a parameter byte.

    The sign of xi is free: more full-precision training may make the switch harder.

    Use it with a sweep that varies bits and both phases' tokens: it alone among the laws here predicts the loss of any
    division, so that it also tells bits against parameters. Sixteen constants need some hundred runs. ``plan`` finds
    the best share with it.

    Example:
        >>> constants = dict(A=482.0, B=2085.0, E=1.82, alpha=0.348, beta=0.366, theta=0.1, kappa=1.0, phi=3.0, chi=0.7)
        >>> constants |= dict(psi=0.1, omega=0.4, lam=1.0, mu=1.0, nu=0.1, xi=0.2, rho=0.3)
        >>> run = {"N": 1e9, "D_fp": 1.5e10, "D_qat": 5e9}
        >>> [round(float(QatLoss().predict(constants, {**run, "bits": bits})), 3) for bits in (2, 4, 8)]
        [2.603, 2.559, 2.534]
    """

    card: ClassVar[Card] = Card(
        summary="Loss after a full-precision and a quantisation-aware phase, for any bit width.",
        paper="Dremov et al. 2025, arXiv 2509.22935",
        equation="L = chinchilla(N, D) + theta 2^(-kappa b) + phi 2^(-chi b) / (N^psi S_q^omega)"
        " + lam 2^(-mu b) / (N^nu S_f^xi S_q^rho)",
        defaults="757 runs, 86M-2.2B parameters, 1, 2, 4 and 6 bits",
        differs="our reading of a form that summaries print differently; the sign of xi is free",
    )
    columns: ClassVar[dict[str, str]] = {
        "N": "parameters",
        "D_fp": "full-precision tokens",
        "D_qat": "quantisation-aware tokens",
        "bits": "bits a weight",
    }
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A"),
        coefficient("B"),
        floor("E"),
        coefficient("theta"),
        coefficient("phi"),
        coefficient("lam"),
        exponent("alpha", starts=(0.25, 0.4)),
        exponent("beta", starts=(0.25, 0.4)),
        exponent("kappa", 1e-3, 5.0, (0.5, 1.5)),
        exponent("chi", 1e-3, 5.0, (0.5, 1.5)),
        exponent("psi", -2.0, 2.0, (0.2,)),
        exponent("omega", -2.0, 3.0, (0.2, 0.6)),
        exponent("mu", 1e-3, 5.0, (0.5, 1.5)),
        exponent("nu", -2.0, 2.0, (0.2,)),
        exponent("xi", -3.0, 3.0, (-0.3, 0.3)),
        exponent("rho", -2.0, 3.0, (0.3, 0.8)),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        n, two, size = np.log(x["N"]), np.log(2.0) * x["bits"], np.log(x["N"] * x["bits"] / 8.0)
        quantised, full = np.log(x["D_qat"]) - size, np.log(x["D_fp"]) - size
        tokens = np.log(x["D_qat"] + x["D_fp"])
        return (
            p["E"]
            + p["A"] * np.exp(-p["alpha"] * n)
            + p["B"] * np.exp(-p["beta"] * tokens)
            + p["theta"] * np.exp(-p["kappa"] * two)
            + p["phi"] * np.exp(-p["chi"] * two - p["psi"] * n - p["omega"] * quantised)
            + p["lam"] * np.exp(-p["mu"] * two - p["nu"] * n - p["xi"] * full - p["rho"] * quantised)
        )

    def compute(self, x: Columns) -> Values:
        return six_nd(np.asarray(x["N"], dtype=float), np.asarray(x["D_fp"] + x["D_qat"], dtype=float))
