"""Which quality to keep: how many pools, best first, to train on for a number of samples (QQT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...core.errors import UsageError
from ..forms.qqt import pool_error
from ..formula import Array, law_name
from .answer import Answer, digits, figure
from .draws import Basis
from .limits import check_positive


def pools(fits: Mapping[str, Basis], seen: float, pool: float) -> Answer:
    """Error of training on the best 1, 2, ... pools, and how many of them to keep.

    Args:
        fits: fits of ``qqt`` to each pool alone, with their draws, by name, best quality first.
        seen: samples that will be seen.
        pool: samples in each pool.

    Raises:
        UsageError: fewer than two pools, another law, numbers that are not positive.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = pools({"best": basis("qqt"), "rest": basis("qqt")}, 5e7, 1.28e7)
        >>> [figure.name for figure in made.figures][:3]
        ['pools to keep', 'share to keep', 'epochs']
    """
    check_positive(seen=seen, pool=pool)
    bases = list(fits.values())
    if len(bases) < 2 or any(law_name(basis.fit.law) != "qqt" for basis in bases):
        raise UsageError("qualities are compared by two fits of qqt or more", where="pools", fix="fit each pool alone")
    draws = min(len(basis.theta) for basis in bases)
    errors = np.stack([_error(bases[: count + 1], draws, seen, pool) for count in range(len(bases))])
    best = errors.argmin(0)
    kept = int(best[0])
    level, names = bases[0].level, list(fits)
    figures = [
        figure(f"error on the best {i + 1} ({names[i]} last)", errors[i], level, log=False) for i in range(len(bases))
    ]
    figures.insert(0, figure("pools to keep", best + 1.0, level, f"of {len(bases)}", log=False))
    figures.insert(1, figure("share to keep", (best + 1.0) / len(bases), level, log=False))
    figures.insert(2, figure("epochs", np.log(seen / ((best + 1.0) * pool)), level))
    sure = float(np.mean(best[1:] == kept))
    most = min(float(basis.fit.problem.x["seen"].max()) for basis in bases)
    warnings = [f"{100 * sure:.3g} % of what the constants may be agree on {kept + 1}"]
    warnings += [f"{seen / most:.3g} times more samples than the rows saw"] if seen > most else []
    warnings += [f"{name}: {text}" for name, basis in fits.items() for text in basis.vague]
    said = "pools are of one size; a mixture's utility is the mean of its pools', which come round the less often"
    question = f"which pools of {digits(pool)} samples to keep for {digits(seen)} samples"
    return Answer(question, tuple(figures), said, f"{digits(most)} samples seen", level, None, tuple(warnings))


def _error(bases: Sequence[Basis], draws: int, seen: float, pool: float) -> Array:
    """Error (k,) of the mixture of these pools; a and d are the first's."""
    natural = [basis.fit.law.to_natural(basis.theta[:draws]) for basis in bases]
    law = bases[0].fit.law
    column = {name: i for i, name in enumerate(law.names)}
    # Each pool's draws are its own: another order for each, the fitted constants first in all.
    mixed = [np.concatenate([values[:1], np.roll(values[1:], 37 * i, axis=0)]) for i, values in enumerate(natural)]
    b = [values[:, [column["b"]]] for values in mixed]
    tau = [values[:, [column["tau"]]] for values in mixed]
    a, d = mixed[0][:, [column["a"]]], mixed[0][:, [column["d"]]]
    found = pool_error(a, b, tau, d, np.asarray([seen]), np.asarray([pool]))
    return np.asarray(found)[:, 0]
