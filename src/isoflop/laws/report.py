"""A fit as text: nothing that a reader must know is left for them to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .checks import law_name
from .sensitivities import sensitivity

if TYPE_CHECKING:
    from .fit import Fit


def report(fit: Fit, level: float = 0.95) -> str:
    """The text of ``Fit.report``; a fit that did not converge prints no constants."""
    card, settings = type(fit.law).card, fit.settings
    head = f"{law_name(fit.law)}: {card.equation}" if card.equation else law_name(fit.law)
    size = f"delta {settings.delta:g}, " if settings.loss in ("huber", "asymmetric") else ""
    size += f"tau {settings.tau:g}, " if "pinball" in settings.loss else ""
    lines = [
        head,
        f"{fit.rows} rows; {settings.loss}, {size}residuals in {settings.link or fit.law.link} space, {_summed(fit)}",
    ]
    c = fit.certificate
    lines.append(
        f"objective {fit.objective:.8g}; {100 * c.share:.0f} % of {c.starts} starts (grid: {c.grid}) at the optimum; "
        f"gradient {c.gradient:.1e}, condition {c.condition:.1e}"
    )
    lines += [f"! {warning}" for warning in fit.warnings]
    if not fit.converged:
        return "\n".join(lines)
    found = fit.intervals(level)
    lines += ["", f"{'constant':<10}{'value':>14}{'low':>14}{'high':>14}   {100 * level:g} % profile interval"]
    for name, value in fit.params.items():
        if name not in found:
            lines.append(f"{name:<10}{value:>14.6g}{'held':>14}")
            continue
        i = found[name]
        verdict = "" if i.identified else f"   UNIDENTIFIED: {i.reason}"
        lines.append(f"{name:<10}{value:>14.6g}{i.low:>14.6g}{i.high:>14.6g}{verdict}")
    if not fit.law.likelihood:
        r = fit.residuals
        typical, worst = np.median(np.abs(r)), int(np.argmax(np.abs(r)))
        unit = "relative" if fit.problem.link == "log" else "absolute"
        lines += [
            "",
            f"residuals ({unit}): median {typical:.3g}, largest {r[worst]:+.3g} in row {worst + 1}",
            f"R^2 {fit.r_squared:.4f}",
        ]
    lines += ["", "sensitivity", *_table(fit)]
    return "\n".join(lines)


def _summed(fit: Fit) -> str:
    weights, clusters = fit.settings.weights, fit.settings.clusters
    told = "summed" if weights is None else f"summed with the relative weights {weights}"
    return told if clusters is None else f"{told}; {fit.spare + len(fit.problem.free)} clusters of {clusters}"


def _table(fit: Fit) -> list[str]:
    names = [fit.law.names[j] for j in fit.problem.free]
    width = max([10, *(len(name) + 2 for name in names)])
    lines = [f"{'':<28}{'rows':>6}" + "".join(f"{name:>{width}}" for name in names)]
    for variant in sensitivity(fit):
        if variant.failed:
            lines.append(f"{variant.choice:<28}{variant.rows:>6}  {variant.failed}")
        else:
            lines.append(
                f"{variant.choice:<28}{variant.rows:>6}" + "".join(f"{variant.params[n]:>{width}.4g}" for n in names)
            )
    return lines
