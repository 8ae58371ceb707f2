"""Error of a data pool whose utility wears off as it repeats (Goyal et al. 2024, arXiv 2404.07177)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Array, Columns, Parameter, Params, Values, floor
from ..law import Fit, Law

UNIT = 1e5
"""Samples are counted in this unit."""
SHARED = ("a", "d")
"""Constants that pools which are mixed have in common."""
# Half-lives are a few epochs: a sample seen this often teaches nothing more.
_MOST_EPOCHS = 200


@part
class Qqt(Law):
    """y = (a n_1)^-b prod_{k>=2} (n_k / n_(k-1))^(-b_k) + d, b_k = b 2^(-(k-1) / tau), n_k samples seen after epoch k.

    ``d`` is added last, as in the paper; the authors' program adds it before the product, so that it decays too.

    Use it to decide between a small pool of good samples, seen often, and a larger one of mixed quality: ``fit_pools``
    fits it to each pool, and ``best_pools`` finds how many to mix. Samples are counts; the error is a share in [0, 1].

    Example:
        >>> constants, seen = {"a": 1.0, "b": 0.3, "tau": 5.0, "d": 0.1}, np.asarray([1e6, 1e7, 1e8])
        >>> Qqt().predict(constants, {"seen": seen, "pool": np.full(3, 1e7)}).round(3).tolist()
        [0.601, 0.351, 0.26]
    """

    card: ClassVar[Card] = Card(
        summary="Error of one quality pool against samples seen, with a utility that halves every tau epochs.",
        paper="Goyal et al. 2024, arXiv 2404.07177",
        equation="y = (a n_1)^-b prod_k (n_k / n_(k-1))^(-b 2^(-(k-1)/tau)) + d",
        defaults="d = 0.1 held, squared error on a grid of a, b, tau",
        differs="d is added after the product; b is positive",
    )
    columns: ClassVar[dict[str, str]] = {"seen": "samples seen", "pool": "samples in the pool (one epoch)"}
    target: ClassVar[str] = "error"
    link: ClassVar[Any] = "identity"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("a", 1e-6, 1e3, tuple(np.geomspace(1e-4, 1.0, 9).tolist()), log=True),
        Parameter("b", 1e-3, 3.0, tuple(np.geomspace(0.01, 0.8, 10).tolist()), kind="exponent"),
        Parameter("tau", 0.1, 1e4, tuple(np.geomspace(0.7, 30.0, 6).tolist()), log=True),
        floor("d"),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return pool_error(p["a"], [p["b"]], [p["tau"]], p["d"], x["seen"], x["pool"])

    def varying(self) -> tuple[str, ...]:
        return ("seen",)

    def compute(self, x: Columns) -> Values:
        return np.asarray(x["seen"], dtype=float)


def pool_error(a: Any, b: Sequence[Any], tau: Sequence[Any], d: Any, seen: Array, pool: Array) -> Values:
    """Error of a mixture of p equal pools of ``pool`` samples each, one utility ``b`` and half-life ``tau`` a pool.

    Each pool comes round p times less often, so its half-life in epochs of the mixture is p tau, and an epoch has
    p times the samples; the mixture's utility is the mean of its pools' (the paper's theorem 1).

    Args:
        a: scale of the first pool's law.
        b: utility of each pool, best quality first.
        tau: half-life of each, in epochs.
        d: error that is left.
        seen: samples seen, (n,).
        pool: samples of each pool, (n,).

    Example:
        >>> seen, size = np.asarray([1e6, 1e8]), np.full(2, 1.28e7)
        >>> pool_error(0.3, [0.30, 0.20], [2.0, 6.0], 0.1, seen, size).round(3).tolist()
        [0.86, 0.356]
    """
    count = len(b)
    epoch = count * np.asarray(pool, dtype=float) / UNIT
    total = np.asarray(seen, dtype=float) / UNIT
    log_y: Any = 0.0
    before = np.minimum(total, epoch)
    log_y = -(sum(b) / count) * (np.log(a) + np.log(before))
    for k in range(1, min(_MOST_EPOCHS, int(np.ceil(np.max(total / epoch) - 1e-9)))):
        after = np.clip(total, before, (k + 1) * epoch)
        utility = sum(bi * np.exp(-np.log(2.0) * k / (count * ti)) for bi, ti in zip(b, tau, strict=True)) / count
        log_y = log_y - utility * np.log(after / before)
        before = after
    return np.asarray(np.exp(log_y) + d)


def fit_pools(tables: Sequence[Mapping[str, Any]], **given: Any) -> list[Fit]:
    """Fits of ``Qqt`` to each pool with one scale ``a`` and one floor ``d``, as mixtures have: those of the first pool.

    Fitted freely, each pool has a scale of its own, and a utility that means something beside that scale alone.

    Args:
        tables: of columns seen, pool and error, one a pool, best quality first.
        given: fields of ``isoflop.laws.Settings``.

    Example:
        >>> seen, pool = [2e6, 4e6, 8e6, 1.6e7, 3.2e7], [8e6] * 5
        >>> fits = fit_pools([{"seen": seen, "pool": pool, "error": error} for error in
        ...     ([0.50, 0.43, 0.37, 0.33, 0.31], [0.55, 0.48, 0.42, 0.37, 0.34])])
        >>> fits[0].params["a"] == fits[1].params["a"], fits[0].params["b"] > fits[1].params["b"]
        (True, True)
    """
    first = Qqt().fit(tables[0], **given)
    shared = {**given.get("fixed", {}), **{name: first.params[name] for name in SHARED}}
    return [first, *(Qqt().fit(table, **{**given, "fixed": shared}) for table in tables[1:])]


def best_pools(fits: Sequence[Any], seen: float, pool: float) -> tuple[int, list[float]]:
    """How many of the pools, best first, to train on for ``seen`` samples, and the error predicted for 1, 2, ... pools.

    Args:
        fits: of ``fit_pools``, one a pool, best quality first; ``a`` and ``d`` are the first's.
        seen: samples that will be seen.
        pool: samples of each pool.

    Example, with ``fitted(name)`` a law fitted to its own planted table:
        >>> count, errors = best_pools([fitted("qqt"), fitted("qqt")], seen=5e7, pool=1.28e7)
        >>> count, [round(error, 2) for error in errors]
        (2, [0.41, 0.39])
    """
    errors = []
    for count in range(1, len(fits) + 1):
        b = [fit.params["b"] for fit in fits[:count]]
        tau = [fit.params["tau"] for fit in fits[:count]]
        first = fits[0].params
        errors.append(float(pool_error(first["a"], b, tau, first["d"], np.asarray([seen]), np.asarray([pool]))[0]))
    return int(np.argmin(errors)) + 1, errors
