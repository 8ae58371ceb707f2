"""A fit as text: nothing that a reader must know is left for them to ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .fit import Solved
from .formula import law_name
from .intervals import Interval, intervals
from .sensitivities import Variant, sensitivity


def report(fit: Solved, level: float = 0.95, variants: Sequence[Variant] | None = None) -> str:
    """Everything that must be known of a fit, as text; one that did not converge prints no constants.

    Args:
        fit: the fit.
        level: level of the intervals, a share.
        variants: what ``sensitivity`` gives, where it is at hand.

    Example:
        >>> from isoflop.laws import Power
        >>> fit = Power().fit({"C": [1.0, 2.0, 4.0, 8.0], "y": [1.0, 2.1, 3.9, 8.2]})
        >>> print(report(fit).splitlines()[0])
        power: y = A C^a
    """
    lines = _heading(fit)
    if not fit.converged:
        return "\n".join(lines)
    lines += ["", *_constants(fit, level)]
    if not fit.law.likelihood:
        lines += ["", *_residuals(fit)]
    variants = sensitivity(fit) if variants is None else variants
    return "\n".join([*lines, "", "sensitivity", *_sensitivity(fit, variants)])


def _heading(fit: Solved) -> list[str]:
    """The law, how it was fitted, the certificate and all warnings."""
    equation, settings, certificate = type(fit.law).card.equation, fit.settings, fit.certificate
    size = f"delta {settings.delta:g}, " if settings.loss in ("huber", "asymmetric") else ""
    size += f"tau {settings.tau:g}, " if "pinball" in settings.loss else ""
    link = settings.link or fit.law.link
    return [
        f"{law_name(fit.law)}: {equation}" if equation else law_name(fit.law),
        f"{fit.rows} rows; {settings.loss}, {size}residuals in {link} space, {_summation(fit)}",
        f"objective {fit.objective:.8g}; {100 * certificate.share:.0f} % of {certificate.starts} starts "
        f"(grid: {certificate.grid}) at the optimum; gradient {certificate.gradient:.1e}, "
        f"condition {certificate.condition:.1e}",
        *(f"! {warning}" for warning in fit.warnings),
    ]


def _summation(fit: Solved) -> str:
    """How the rows enter the objective: their weights and clusters."""
    weights, clusters = fit.settings.weights, fit.settings.clusters
    summation = "summed" if weights is None else f"summed with the relative weights {weights}"
    if clusters is None:
        return summation
    return f"{summation}; {fit.degrees_of_freedom + len(fit.problem.free)} clusters of {clusters}"


def _constants(fit: Solved, level: float) -> list[str]:
    known = intervals(fit, level)
    lines = [f"{'constant':<10}{'value':>14}{'low':>14}{'high':>14}   {100 * level:g} % profile interval"]
    return lines + [_constant(name, value, known.get(name)) for name, value in fit.params.items()]


def _constant(name: str, value: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{name:<10}{value:>14.6g}{'held':>14}"
    verdict = "" if interval.identified else f"   UNIDENTIFIED: {interval.reason}"
    return f"{name:<10}{value:>14.6g}{interval.low:>14.6g}{interval.high:>14.6g}{verdict}"


def _residuals(fit: Solved) -> list[str]:
    residuals = fit.residuals
    typical, worst = np.median(np.abs(residuals)), int(np.argmax(np.abs(residuals)))
    unit = "relative" if fit.problem.link == "log" else "absolute"
    return [
        f"residuals ({unit}): median {typical:.3g}, largest {residuals[worst]:+.3g} in row {worst + 1}",
        f"R^2 {fit.r_squared:.4f}",
    ]


def _sensitivity(fit: Solved, variants: Sequence[Variant]) -> list[str]:
    """One line a refit under another choice: its rows and constants, or why it has none."""
    names = [fit.law.names[j] for j in fit.problem.free]
    width = max([10, *(len(name) + 2 for name in names)])
    lines = [f"{'':<28}{'rows':>6}" + "".join(f"{name:>{width}}" for name in names)]
    for variant in variants:
        constants = (f"{variant.params[name]:>{width}.4g}" for name in names if not variant.failed)
        result = f"  {variant.failed}" if variant.failed else "".join(constants)
        lines.append(f"{variant.choice:<28}{variant.rows:>6}{result}")
    return lines
