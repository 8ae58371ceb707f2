"""Size and tokens of a model that will answer many requests: the least FLOPs of training and answering together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.errors import UsageError
from ..fit import Solved
from ..formula import Array, law_name
from .answer import Answer, digits, figure
from .cost import TrainingCost, answering
from .draws import Basis, shifted
from .limits import FURTHEST, check_positive, looked_at, size_column, spans
from .minimum import best_sizes, losses, vertex
from .reach import check_floor, crossings

_DRAWS = 512  # each needs the tokens of every size
# Points of the two grids; parabolas through three neighbours place the minimum far more finely.
_SIZES, _TOKENS = 81, 121
_SMALLER, _LARGER = np.log(300.0), np.log(3.0)  # than the cheapest model to train: answering only makes it smaller


@dataclass(frozen=True)
class Life:
    """What a model will be asked.

    Answering costs in proportion to the size, training is paid once: the more requests, the smaller the model should
    be.

    Attributes:
        requests: over its whole life.
        tokens: a request, read and written.
        flops_per_token: of answering, measured on a model of ``flops_at`` parameters; None: 2 N.
        flops_at: its size.
        discount: what a FLOP of answering costs beside one of training, e.g. 0.5 at half the precision.

    Example:
        >>> print(Life(requests=1e9, tokens=800).said)
        a token of a request costs 2 N FLOPs
    """

    requests: float
    tokens: float
    flops_per_token: float | None = None
    flops_at: float | None = None
    discount: float = 1.0

    @property
    def said(self) -> str:
        each = "2 N FLOPs" if self.flops_per_token is None else f"{digits(self.flops_per_token)} FLOPs at "
        each += "" if self.flops_at is None else f"N = {digits(self.flops_at)}, in proportion to N"
        price = "" if self.discount == 1.0 else f", each at {self.discount:g} of a training FLOP"
        return f"a token of a request costs {each}{price}"


def lifetime(basis: Basis, loss: float, life: Life) -> Answer:
    """(N, D) that reach a loss and answer the requests for the least FLOPs.

    Args:
        basis: a fit of a law of size and tokens, with its draws.
        loss: the loss that the model must have.
        life: what it will be asked.

    Raises:
        UsageError: numbers that are not positive; a loss below the law's floor, or out of reach of 100 times the rows.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = lifetime(basis("chinchilla"), 2.3, Life(1e10, 1000))
        >>> made["N"].value < made["N of the cheapest training"].value
        True
    """
    fit, level, cost = basis.fit, basis.level, basis.cost
    check_positive(loss=loss, requests=life.requests, tokens_per_request=life.tokens, discount=life.discount)
    target = float(fit.law.linked(np.asarray(loss), fit.problem.link))
    check_floor(fit, loss, target)
    alone = _middle(fit, target, cost)
    z = np.linspace(alone - _SMALLER, alone + _LARGER, _SIZES)
    served = life.requests * life.tokens * life.discount * answering(np.exp(z), life.flops_per_token, life.flops_at)
    theta = basis.theta[: 1 + _DRAWS]
    tokens = _tokens(fit, theta[:1], z, np.asarray([target]), cost)
    first = _least(z, np.log(cost.flops(np.exp(z), np.exp(tokens)) + served))[0][0]
    planned = float(cost.flops(np.exp(first), np.exp(np.interp(first, z, tokens[0]))))
    tokens = _tokens(fit, theta, z, shifted(basis, target, planned, len(theta)), cost)
    with np.errstate(over="ignore"):
        training = cost.flops(np.exp(z), np.exp(tokens))
    place, total = _least(z, np.log(training + served))
    trained, least = _least(z, np.log(training))
    if not np.isfinite(place[0]):
        raise UsageError(
            f"loss {loss:g} with {digits(life.requests)} requests has its best size at the edge of what is searched",
            where="plan",
            fix="ask for a higher loss or fewer requests",
        )
    d = np.asarray(
        [np.interp(at, z, row) if np.isfinite(at) else np.inf for at, row in zip(place, tokens, strict=True)]
    )
    n, t = float(np.exp(place[0])), float(np.exp(d[0]))
    compute = float(cost.flops(n, t))
    warnings, end = looked_at(fit, cost, {"C": compute, "N": n, "D": t, "D/N": t / n})
    spent = np.log(cost.factor) + cost.power * place + d
    plain = np.log(np.exp(least) + np.exp(np.minimum(_at(z, np.log(served), trained), 700.0)))
    figures = (
        figure("N", place, level, "parameters"),
        figure("D", d, level, "tokens"),
        figure("D/N", d - place, level, "tokens a parameter"),
        figure("C", spent, level, "FLOPs", "training"),
        figure("C of the whole life", total, level, "FLOPs"),
        figure("N of the cheapest training", trained, level, "parameters"),
        figure("saved against that model", -np.expm1(total - plain), level, "of the whole life", log=False),
    )
    question = f"loss {digits(loss)} for {digits(life.requests)} requests of {digits(life.tokens)} tokens"
    said = f"{law_name(fit.law)} holds far from its best sizes; {cost.said}; {life.said}"
    return Answer(question, figures, said, end, level, None, warnings)


def _middle(fit: Solved, target: float, cost: TrainingCost) -> float:
    """ln N of the cheapest training run of that loss.

    Raises:
        UsageError: none within 100 times the rows' compute.
    """
    low, high = (np.log(end) for end in spans(fit, cost)["C"])
    grid = np.linspace(low - np.log(FURTHEST), high + np.log(FURTHEST), 97)
    made = [best_sizes(fit, fit.theta[None], float(np.exp(c)), cost, rough=True) for c in grid]
    at = crossings(np.asarray([[value[0] for _, value in made]]), grid, np.asarray([target]))[0]
    if not np.isfinite(at):
        raise UsageError(
            f"the loss is not reached within {FURTHEST:g} times the rows' compute",
            where="loss",
            fix="ask for a higher one",
        )
    return float(best_sizes(fit, fit.theta[None], float(np.exp(at)), cost)[0][0])


def _tokens(fit: Solved, theta: Array, z: Array, target: Array, cost: TrainingCost) -> Array:
    """ln D (k, m) that models of size e^z, (m,), need for losses (k,) in link space; infinite where none suffices."""
    known = spans(fit, cost)["D"]
    grid = np.linspace(np.log(known[0] / 1e4), np.log(known[1] * 1e4), _TOKENS)
    column = size_column(fit)
    out = np.empty((len(theta), len(z)))
    for i, at in enumerate(z):
        d = np.exp(grid)
        values = losses(fit, theta, {column: np.exp(np.full(len(d), at)), "D": d, "U": d})
        out[:, i] = crossings(values, grid, target)
    return out


def _least(z: Array, values: Array) -> tuple[Array, Array]:
    """(place (k,), value (k,)) of the least of each row (k, m) over evenly spaced z; infinite at an edge."""
    i = values.argmin(1)
    inside = (i > 0) & (i < len(z) - 1) & np.isfinite(values.min(1))
    i = np.clip(i, 1, len(z) - 2)
    rows = np.arange(len(values))
    left, middle, right = values[rows, i - 1], values[rows, i], values[rows, i + 1]
    left = np.where(np.isfinite(left), left, middle)  # the neighbour that no tokens bring to the loss
    shift = vertex(left, middle, right)
    at = np.where(inside, z[i] + shift * (z[1] - z[0]), np.inf)
    return at, np.where(inside, middle - 0.25 * (left - right) * shift, np.inf)


def _at(z: Array, values: Array, place: Array) -> Array:
    """The curve (m,) at places (k,); infinite ones stay so."""
    return np.where(np.isfinite(place), np.interp(np.nan_to_num(place, posinf=z[0]), z, values), np.inf)
