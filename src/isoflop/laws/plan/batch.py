"""The batch: where more data parallelism stops paying, what it buys in time and costs in compute, and its rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...core.errors import UsageError
from ..fit import Solved
from ..formula import Array, law_name
from .answer import Answer, Figure, Plan, digits, figure
from .draws import Basis
from .limits import FURTHEST, check_positive

_TIMES = (0.25, 1.0, 4.0)  # of the critical batch, at which time and compute are shown


def critical(basis: Basis, size: float) -> Answer:
    """Critical batch at N, and time against compute around it.

    Steps to a loss are a + b / B, so beside the fewest steps a run takes 1 + (b / a) / B of them, and beside the fewest
    samples 1 + B / (b / a); b / a follows from the critical batch, whose overhead the law defines.

    Args:
        basis: a fit of ``critical_batch``, with its draws.
        size: N, parameters.

    Raises:
        UsageError: another law; a size that is not positive, or too far outside the rows.

    Example, with ``basis(law)`` the draws of a fit:
        >>> round(critical(basis("critical_batch"), 1e9)["critical batch"].value, -2)
        2300.0
    """
    fit = basis.fit
    if law_name(fit.law) != "critical_batch":
        raise UsageError(f"{law_name(fit.law)} knows no critical batch", where="plan", fix="fit critical_batch")
    check_positive(params=size)
    warnings, end = inside(fit, {"N": size})
    values = predicted(basis, {"N": size})
    base, overhead = getattr(fit.law, "base", 0.0), getattr(fit.law, "overhead", 0.2)
    noise = np.log(np.maximum(np.exp(values) - (1.0 + overhead) * base, 1e-300) / overhead)
    level, unit = basis.level, "sequences"
    figures = [figure("critical batch", values, level, unit), figure("b / a", noise, level, unit)]
    for times in _TIMES:
        batch = times * float(np.exp(values[0]))
        apart = np.exp(noise) / batch
        name = f"batch {digits(batch)}"
        figures.append(figure(f"{name}: steps", 1.0 + apart, basis.level, "of the fewest", log=False))
        figures.append(figure(f"{name}: samples", 1.0 + 1.0 / apart, basis.level, "of the fewest", log=False))
    said = "steps to a loss fall as a + b / B at each size; every batch has its own best rate; constants' error only"
    question = f"critical batch of N = {digits(size)} parameters"
    return Answer(question, tuple(figures), said, end, basis.level, None, (*warnings, *basis.vague))


def tuned(basis: Basis, size: float, tokens: float) -> Answer:
    """Best learning rate, or batch, of a run.

    Args:
        basis: a fit of ``step_law``, with its draws.
        size: N, as the table counts it.
        tokens: D.

    Raises:
        UsageError: another law; numbers that are not positive, or too far outside the rows.

    Example, with ``basis(law)`` the draws of a fit:
        >>> f"{tuned(basis('step_law'), 5e8, 3e10)['learning rate'].value:.1e}"
        '1.9e-03'
    """
    fit = basis.fit
    if law_name(fit.law) != "step_law":
        raise UsageError(f"{law_name(fit.law)} knows no best rate or batch", where="plan", fix="fit step_law")
    check_positive(params=size, tokens=tokens)
    warnings, end = inside(fit, {"N": size, "D": tokens})
    of = {"lr": ("learning rate", ""), "batch": ("batch", "tokens")}[getattr(fit.law, "of", "lr")]
    found = figure(of[0], predicted(basis, {"N": size, "D": tokens}), basis.level, of[1])
    said = "schedule, optimizer and the other of rate and batch are the table's; constants' error only"
    question = f"best {of[0]} of N = {digits(size)} on D = {digits(tokens)} tokens"
    return Answer(question, (found,), said, end, basis.level, None, (*warnings, *basis.vague))


def together(plan: Plan, bases: Mapping[str, Basis], size: float, tokens: float) -> Plan:
    """A plan with the batch and the learning rate of its run behind it, in one answer.

    Their intervals hold what the constants of their own laws may be and, where the plan chose N and D, what those may
    be: a larger model and a lower rate go together.

    Args:
        plan: the plan.
        bases: fits of ``critical_batch`` or ``step_law`` with their draws, by where they come from.
        size: N of the planned run.
        tokens: D of it.

    Raises:
        UsageError: another law; a run too far outside the rows.

    Example, with ``basis(law)`` the draws of a fit, ``fitted(law)`` a fit:
        >>> made = together(fitted("chinchilla").plan(compute=1e20), {"rates.csv": basis("step_law")}, 1e9, 1.7e10)
        >>> made.answers[-1].figures[0].name
        'learning rate'
    """
    chosen = [a.region for a in plan.answers if a.region is not None and {"N", "D"} <= set(a.region.names)]
    level = plan.answers[0].level
    figures, said, ends, warned = list[Figure](), list[str](), list[str](), list[str]()
    for file, basis in bases.items():
        alone = critical(basis, size) if law_name(basis.fit.law) == "critical_batch" else tuned(basis, size, tokens)
        first = alone.figures[0]
        if chosen:
            logs = chosen[-1].draws(len(basis.theta) - 1)
            at = {name: logs[:, chosen[-1].names.index(name)] for name in ("N", "D")}
            first = figure(first.name, _each(basis, at), level, first.unit)
        figures.append(replace(first, note=file))
        if first.name == "batch":
            figures.append(Figure("steps", tokens / first.value, tokens / first.high, tokens / first.low, note=file))
        ends.append(alone.beyond)
        said.append(alone.assumption)
        warned += alone.warnings
    question = f"batch and learning rate of N = {digits(size)} on D = {digits(tokens)} tokens"
    answer = Answer(
        question,
        tuple(figures),
        "; ".join(dict.fromkeys(said)),
        "; ".join(dict.fromkeys(ends)),
        level,
        None,
        tuple(dict.fromkeys(warned)),
    )
    return replace(plan, answers=(*plan.answers, answer))


def _each(basis: Basis, at: Mapping[str, Array]) -> Array:
    """Draws (k,) of the logarithm of what a law expects, each at its own place of (k,) logarithms."""
    fit, found = basis.fit, list[Array]()
    for block in np.array_split(np.arange(len(basis.theta)), max(1, len(basis.theta) // 64)):
        columns = {name: np.exp(at[name][block]) for name in fit.law.columns}
        link = np.diagonal(fit.law.value(basis.theta[block], columns, fit.problem.link))
        found.append(np.log(np.maximum(fit.law.unlinked(link, fit.problem.link), 1e-300)))
    return np.concatenate(found)


def predicted(basis: Basis, at: dict[str, float]) -> Array:
    """Draws (k,) of the logarithm of what a law expects at one place."""
    fit = basis.fit
    columns = {name: np.asarray([at[name]], dtype=float) for name in fit.law.columns}
    link = fit.law.value(basis.theta, columns, fit.problem.link)
    values = np.broadcast_to(fit.law.unlinked(link, fit.problem.link), (len(basis.theta), 1))[:, 0]
    return np.asarray(np.log(np.maximum(values, 1e-300)))


def inside(fit: Solved, at: dict[str, float]) -> tuple[tuple[str, ...], str]:
    """(warnings, "do not use beyond") of a place by the law's own columns.

    Raises:
        UsageError: a column more than 100 times outside the rows.
    """
    warnings, ends = [], []
    for name, value in at.items():
        low, high = float(fit.problem.x[name].min()), float(fit.problem.x[name].max())
        ends.append(f"{name} {digits(low / FURTHEST)} to {digits(high * FURTHEST)}")
        factor = max(value / high, low / value)
        if factor > FURTHEST:
            raise UsageError(
                f"{name} = {digits(value)} lies a factor {factor:.3g} outside the fitted rows",
                where="plan",
                fix="stay nearer",
            )
        if factor > 1.0 + 1e-9:
            warnings.append(f"{name} = {digits(value)} lies a factor {factor:.3g} outside the fitted rows")
    return tuple(warnings), "; ".join(ends)
