"""Scores over seeds that split in two: P(success) moves smoothly with scale (distributional scaling of emergence)."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from ...core.errors import DataError, UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.table import Table
from ..arguments import check_level
from ..formula import Array, Columns, Parameter, Params, Values, exponent
from ..law import Law
from ..tables import check_finite


@part
class Emergence(Law):
    """A seed succeeds with P = sigma(k ln(N / N0)); successes score normally around m (N / N0)^g, failures around f.

    A likelihood law: fitted to all seeds at once, none averaged away. ``predict`` gives the mean score.

    Use it where seeds of one size fall into two groups, some having learnt the task and some not: a mean over seeds
    then describes neither. It needs many seeds a size (``seeds_needed`` says how many, ``bimodality`` whether there are
    two groups at all). N > 0; scores in any unit.

    Example:
        >>> constants = {"N0": 1e8, "k": 2.0, "m": 0.8, "g": 0.0, "f": 0.25, "sd1": 0.05, "sd0": 0.05}
        >>> [round(float(Emergence().predict(constants, {"N": size})), 3) for size in (1e7, 1e8, 1e9)]
        [0.255, 0.525, 0.795]
    """

    card: ClassVar[Card] = Card(
        summary="A two-component mixture over seeds: the chance of success and the score given success, apart.",
        paper="Zhao et al. 2025, arXiv 2502.17356",
        equation="p(y | N) = P normal(m (N/N0)^g, sd1) + (1 - P) normal(f, sd0), P = sigma(k ln(N / N0))",
        differs="the authors report histograms and distances between them; the mixture is ours",
    )
    columns: ClassVar[dict[str, str]] = {"N": "scale: parameters, width or depth"}
    target: ClassVar[str] = "score"
    link: ClassVar[Any] = "identity"
    likelihood: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {"starts": 16}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("N0", 1e-12, 1e30, log=True),
        exponent("k", 0.01, 100.0),
        Parameter("m", -1e6, 1e6),
        Parameter("g", -5.0, 5.0, kind="exponent"),
        Parameter("f", -1e6, 1e6),
        Parameter("sd1", 1e-9, 1e6, log=True),
        Parameter("sd0", 1e-9, 1e6, log=True),
    )

    def success(self, p: Params, x: Columns) -> Values:
        """P(success), (k, n)."""
        return 1.0 / (1.0 + np.exp(-p["k"] * (np.log(x["N"]) - np.log(p["N0"]))))

    def given_success(self, p: Params, x: Columns) -> Values:
        """Mean score of the seeds that succeed, (k, n)."""
        return p["m"] * np.exp(p["g"] * (np.log(x["N"]) - np.log(p["N0"])))

    def predict(self, p: Params, x: Columns) -> Values:
        chance = self.success(p, x)
        return chance * self.given_success(p, x) + (1.0 - chance) * p["f"]

    def nll(self, p: Params, x: Columns, y: Array) -> Values:
        z = p["k"] * (np.log(x["N"]) - np.log(p["N0"]))
        up = _log_normal(y, self.given_success(p, x), p["sd1"]) - _softplus(-z)
        down = _log_normal(y, p["f"], p["sd0"]) - _softplus(z)
        top = np.maximum(np.real(up), np.real(down))
        return -(top + np.log(np.exp(up - top) + np.exp(down - top)))

    def limits(self, x: Columns, y: Array) -> dict[str, tuple[float, float]]:
        low, high = float(y.min()), float(y.max())
        span = high - low
        return {
            "N0": (float(x["N"].min()) / 10.0, float(x["N"].max()) * 10.0),
            "m": (low, high + span),
            "f": (low - span, high),
            # A component narrower than a thousandth of the scores would be one seed with an infinite likelihood.
            "sd1": (1e-3 * span, span),
            "sd0": (1e-3 * span, span),
        }

    def start_values(self, x: Columns, y: Array) -> Values:
        # The turn lies somewhere among the sizes; levels are the outer tenths of the scores, widths shares of their
        # span.
        sizes = np.exp(np.quantile(np.log(x["N"]), (0.2, 0.4, 0.6, 0.8)))
        low, high = np.quantile(y, (0.1, 0.9))
        wide = 0.15 * float(np.ptp(y))
        grid = itertools.product(sizes, (0.5, 2.0, 6.0), (1.0,), (0.0,), (1.0,), (wide / 3, wide), (wide / 3, wide))
        return np.asarray([(n0, k, high, g, low, a, b) for n0, k, _, g, _, a, b in grid])


def bimodality(scores: Array, *, samples: int = 200, seed: int = 0) -> tuple[float, float]:
    """(statistic, p-value) of two normal components against one, by the likelihood ratio and a parametric bootstrap.

    A test before a law: where one normal describes the scores of a size as well as two, ``Emergence`` has nothing to
    fit.

    Args:
        scores: one a seed, (n,), n >= 10, in any unit.
        samples: tables of the null hypothesis; the p-value is at least 1 / (1 + samples).
        seed: of those tables.

    Raises:
        DataError: fewer than 10 scores, scores that do not vary, or that are no finite numbers.

    Example:
        >>> scores = np.concatenate([np.linspace(0.1, 0.2, 10), np.linspace(0.8, 0.9, 10)])
        >>> bimodality(scores, samples=50)[1] < 0.05, bimodality(np.linspace(0.1, 0.9, 20), samples=50)[1] > 0.05
        (True, True)
    """
    y = Table({"scores": scores}).numbers("scores")
    check_finite("scores", y, fix="leave out seeds that failed")
    if len(y) < 10 or np.ptp(y) == 0:
        raise DataError(f"{len(y)} scores cannot show two modes", where="bimodality", fix="run at least 10 seeds")
    null = Rng(seed)("bimodality").at().normal(y.mean(), y.std(), (samples, len(y)))
    ratio = _mixture_ratio(np.concatenate([y[None], null]))
    return float(ratio[0]), float((1 + (ratio[1:] >= ratio[0]).sum()) / (1 + samples))


def seeds_needed(chance: float, width: float, level: float = 0.95) -> int:
    """Seeds after which the interval of P(success) = ``chance`` is at most ``width`` wide.

    The normal approximation; near 0 and 1 it asks for too few.

    Args:
        chance: the probability of success that is expected.
        width: of the interval, a share.
        level: level of the interval, a share.

    Raises:
        UsageError: a chance, width or level that is no share.

    Example:
        >>> seeds_needed(0.5, 0.2), seeds_needed(0.9, 0.2)
        (97, 35)
    """
    check_level(level)
    if not (0 <= chance <= 1 and 0 < width <= 1):
        raise UsageError(
            f"chance {chance:g}, width {width:g}", where="seeds_needed", fix="give shares, e.g. 0.5 and 0.2"
        )
    z = float(stats.norm.ppf(0.5 + level / 2))
    return int(np.ceil(chance * (1.0 - chance) * (2.0 * z / width) ** 2))


def _mixture_ratio(y: Array) -> Values:
    """2 (log-likelihood of two components - of one), (k,), for each row of y (k, n); by expectation-maximisation."""
    mean, sd = y.mean(-1, keepdims=True), y.std(-1, keepdims=True)
    single = _log_normal(y, mean, sd).sum(-1)
    best = np.full(len(y), -np.inf)
    for cut in (0.25, 0.5, 0.75):
        member = (y > np.quantile(y, cut, axis=-1, keepdims=True)).astype(float)
        for _ in range(100):
            weights = np.stack([1.0 - member, member])
            total = np.maximum(weights.sum(-1, keepdims=True), 1e-9)
            centre = (weights * y).sum(-1, keepdims=True) / total
            spread = np.sqrt((weights * (y - centre) ** 2).sum(-1, keepdims=True) / total)
            spread = np.maximum(spread, 0.05 * sd)  # a component on one point has no likelihood
            share = np.clip(total / y.shape[-1], 1e-9, 1.0)
            parts = np.log(share) + _log_normal(y, centre, spread)
            both = np.logaddexp(parts[0], parts[1])
            member = np.exp(parts[1] - both)
        best = np.maximum(best, both.sum(-1))
    return np.asarray(2.0 * (best - single))


def _log_normal(y: Array, mean: Any, sd: Any) -> Values:
    return -0.5 * ((y - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2.0 * np.pi)


def _softplus(z: Array) -> Values:
    """ln(1 + e^z) for complex z as well."""
    top = np.maximum(np.real(z), 0.0)
    return top + np.log(np.exp(-top) + np.exp(z - top))
