"""Loss with an exponent in tokens that depends on size (Li et al. 2025, "Farseer", arXiv 2506.10972)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Array, Columns, Parameter, Params, Values, coefficient
from ..law import Law

_MIDDLE = 1e9


@part
class Farseer(Law):
    """L = e^S e^(s c(N, q)) + e^Q e^(B c(N, b)) D^(-e^(A c(N, a) + E)) with c(N, k) = ((N / 1e9)^k - 1) / k.

    The authors' form L = exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + E)) with its powers centred at 1e9
    parameters, where c is ln(N / 1e9) for k -> 0: the same family, but its constants do not run off together.
    ``published`` gives the authors' constants.

    Use it with many runs over a wide range of sizes, where ``Chinchilla``'s exponents visibly change with size; nine
    constants on fewer than some thirty runs are not identified. N, D > 0; L > 0.

    Example:
        >>> constants = dict(exp_S=1.2, exp_Q=60.0, s=-0.05, q=0.1, B=-0.2, b=0.1, A=0.05, a=0.1, E=-1.9)
        >>> round(float(Farseer().predict(constants, {"N": 1e9, "D": 2e10})), 3), round(published(constants)["A"], 4)
        (2.928, 0.0629)
    """

    card: ClassVar[Card] = Card(
        summary="Loss from parameters and tokens; floor, prefactor and exponent all move with size.",
        paper="Li et al. 2025, arXiv 2506.10972",
        equation="L = exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + E))",
        differs="powers are centred at 1e9 parameters; all nine constants are fitted at once",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters", "D": "training tokens"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("exp_S", 1e-12, 1e12),
        coefficient("exp_Q", 1e-30, 1e60),
        Parameter("s", -20.0, 20.0, kind="exponent"),
        Parameter("q", -2.0, 2.0),
        Parameter("B", -50.0, 50.0, kind="exponent"),
        Parameter("b", -2.0, 2.0),
        Parameter("A", -20.0, 20.0, kind="exponent"),
        Parameter("a", -2.0, 2.0),
        Parameter("E", -20.0, 5.0),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return self._terms(p, x)[0]

    def gradient(self, p: Params, x: Columns) -> tuple[Array, dict[str, Array]]:
        y, (u, d, first, second, rate) = self._terms(p, x)
        by_rate = -second * d * rate
        return y, {
            "exp_S": first / p["exp_S"],
            "exp_Q": second / p["exp_Q"],
            "s": first * _centred(u, p["q"]),
            "q": first * p["s"] * _by_power(u, p["q"]),
            "B": second * _centred(u, p["b"]),
            "b": second * p["B"] * _by_power(u, p["b"]),
            "A": by_rate * _centred(u, p["a"]),
            "a": by_rate * p["A"] * _by_power(u, p["a"]),
            "E": by_rate,
        }

    @staticmethod
    def _terms(p: Params, x: Columns) -> tuple[Array, tuple[Array, ...]]:
        u, d = np.log(x["N"] / _MIDDLE), np.log(x["D"])
        rate = np.exp(p["A"] * _centred(u, p["a"]) + p["E"])
        first = p["exp_S"] * np.exp(p["s"] * _centred(u, p["q"]))
        second = p["exp_Q"] * np.exp(p["B"] * _centred(u, p["b"]) - rate * d)
        return first + second, (u, d, first, second, rate)

    def start_values(self, x: Columns, y: Array) -> Values:
        """Powers on a grid, slopes by what floor, prefactor and exponent may do over the sizes of the table."""
        u = np.log(x["N"] / _MIDDLE)
        width = float(np.ptp(u)) or 1.0
        # Few values each, or the product would be too long: powers near the authors', changes over the table of any
        # size.
        grid = itertools.product(
            (0.2,), (-0.2,), (0.1,), (-0.8, -0.3, -0.05), (-3.0, -1.0, 0.0, 1.0), (-0.6, -0.2, 0.2), (0.2, 0.3, 0.45)
        )
        rows = [
            (1.0, 1.0, fall / width, q, change / width, b, drift / width, a, np.log(rate))
            for q, b, a, fall, change, drift, rate in grid
        ]
        return np.asarray(rows)


def published(params: Mapping[str, float]) -> dict[str, float]:
    """The authors' constants s, q, S, B, b, Q, A, a, E from a fit's.

    Args:
        params: a fit's constants by name (``fit.params``).

    Example:
        >>> fitted = dict(exp_S=1.2, exp_Q=60.0, s=-0.05, q=0.1, B=-0.2, b=0.1, A=0.05, a=0.1, E=-1.9)
        >>> sorted(published(fitted)), round(published(fitted)["S"], 3)
        (['A', 'B', 'E', 'Q', 'S', 'a', 'b', 'q', 's'], 0.682)
    """
    out: dict[str, float] = {}
    pairs: tuple[tuple[str, str, str, Any], ...] = (
        ("s", "q", "S", np.log(params["exp_S"])),
        ("B", "b", "Q", np.log(params["exp_Q"])),
        ("A", "a", "E", params["E"]),
    )
    for slope, power, offset, value in pairs:
        k = params[power]
        out[slope] = float(params[slope] / k * _MIDDLE**-k)
        out[power] = k
        out[offset] = float(value - params[slope] / k)
    return out


def _centred(u: Array, k: Array) -> Values:
    """(e^(k u) - 1) / k, and u at k = 0."""
    small = np.abs(np.real(k)) < 1e-8
    safe = np.where(small, 1.0, k)
    return np.where(small, u * (1.0 + 0.5 * k * u), np.expm1(safe * u) / safe)


def _by_power(u: Array, k: Array) -> Values:
    """Derivative of ``_centred`` by k; its series near 0, where the quotient would cancel."""
    small = np.abs(k) < 1e-3
    safe = np.where(small, 1.0, k)
    return np.where(small, u**2 / 2 + k * u**3 / 3, (u * np.exp(safe * u) - np.expm1(safe * u) / safe) / safe)
