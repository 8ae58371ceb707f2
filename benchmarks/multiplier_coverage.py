"""Do the multiplier's nominal 95 % intervals hold? Simulated studies with a planted multiplier.

    python benchmarks/multiplier_coverage.py [--studies 4000] [--out benchmarks/multiplier_coverage.json]

A study is n seeds of a baseline on K rungs of factor 2 and of an arm at the second rung (at the lowest where the arm
would reach beyond the ladder), every run with its own normal noise. Studies with a censored seed print a bound and no
interval: they are left out, and their share is given. Straight lines between the rungs, without an error of their own,
are measured on the same studies.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fit import provenance
from isoflop.core.significance import LEVEL, half_width
from isoflop.lab import ladder

Array = npt.NDArray[np.float64]
Curve = Callable[[Array], Array]
EXPONENTS = (0.15, 0.3, 0.45, 0.6)
NOISE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
TRUE = (1.0, 1.25, 1.5, 3.0)
SEEDS = (3, 5, 8)
RUNGS = (3, 4, 5)
WANTED = (0.93, 0.97)
SEVERAL: dict[str, Curve] = {  # of u = log x, from the lowest rung on
    "x^-.2 and x^-.8 together": lambda u: 1.8 + 0.8 * np.exp(-0.2 * u) + 0.5 * np.exp(-0.8 * u),
    "x^-.1 and x^-1 together": lambda u: 1.5 + np.exp(-0.1 * u) + 0.4 * np.exp(-u),
    "straight in log x": lambda u: 3.0 - 0.2 * u,
    "sigmoid in log x": lambda u: 2.0 + 1.2 / (1 + np.exp(1.5 * (u - 1))),
    "a bend within one rung": lambda u: 3.0 - 0.35 * u + 0.05 * np.log1p(np.exp(4 * (u - 0.9))),
}


def power(exponent: float) -> Curve:
    return lambda u: 1.8 + 1.2 * np.exp(-exponent * u)


def studies(curve: Curve, sd: float, true: float, rungs: int, count: int) -> Iterator[dict[str, Any]]:
    """Coverage, bias and share of studies with an interval for each number of seeds; seeds are those of the most."""
    rng = np.random.default_rng([rungs, round(1e6 * sd)])
    u, most = np.arange(rungs) * np.log(2.0), max(SEEDS)
    cost = u[1] if u[1] + np.log(true) < u[-1] - 1e-9 else u[0]
    base = curve(u) + sd * rng.standard_normal((count, most, rungs))
    arm = curve(cost + np.log(true)) + sd * rng.standard_normal((count, most))
    reached, side = ladder.invert(u, base, arm)
    straight = chords(u, base, arm) - cost - np.log(true)
    off = reached - cost - np.log(true)
    for n in SEEDS:
        whole = ~np.any(side[:, :n], axis=1)
        if not whole.any():
            continue
        error = ladder.interpolation_error(u, base[whole, :n])
        mean, plain = off[whole, :n].mean(axis=1), straight[whole, :n]
        yield {
            "rungs": rungs,
            "sd": sd,
            "true": true,
            "seeds": n,
            "coverage": float(np.mean(np.abs(mean) <= half_width(off[whole, :n], LEVEL, error))),
            "without_error": float(np.mean(np.abs(mean) <= half_width(off[whole, :n]))),
            "chord": float(np.mean(np.abs(plain.mean(axis=1)) <= half_width(plain))),
            "bias": float(np.mean(mean)),
            "chord_bias": float(np.mean(plain)),
            "error": float(np.median(error)),
            "with_interval": float(np.mean(whole)),
        }


def chords(u: Array, y: Array, target: Array) -> Array:
    """Inversion by straight lines between isotonic rungs, as results were made before cubics."""
    fitted = ladder.isotonic(y)
    gap = np.clip(np.sum(fitted > target[..., None], axis=-1), 1, len(u) - 1)
    high, low = (np.take_along_axis(fitted, k[..., None], -1)[..., 0] for k in (gap - 1, gap))
    share = np.clip((high - target) / np.maximum(high - low, 1e-300), 0.0, 1.0)
    return u[gap - 1] + share * (u[gap] - u[gap - 1])


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Lowest, mean and highest coverage, and the largest bias, of cells."""
    coverage = [cell["coverage"] for cell in cells]
    return {
        "cells": len(cells),
        "lowest": round(min(coverage), 4),
        "mean": round(float(np.mean(coverage)), 4),
        "highest": round(max(coverage), 4),
        "without_error_lowest": round(min(cell["without_error"] for cell in cells), 4),
        "chord_lowest": round(min(cell["chord"] for cell in cells), 4),
        "bias": round(max((cell["bias"] for cell in cells), key=abs), 5),
        "chord_bias": round(max((cell["chord_bias"] for cell in cells), key=abs), 5),
        "with_interval": round(min(cell["with_interval"] for cell in cells), 4),
    }


def grouped(cells: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """A summary for every value of the keys."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[key] for key in keys), []).append(cell)
    return [{**dict(zip(keys, key, strict=True)), **summary(members)} for key, members in groups.items()]


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(title)
    for row in rows:
        named = ", ".join(f"{k} {v}" for k, v in row.items() if k in ("curve", "rungs", "seeds", "sd", "exponent"))
        spread = f"{100 * row['lowest']:.1f} to {100 * row['highest']:.1f} %, mean {100 * row['mean']:.1f} %"
        rest = f"bias {100 * row['bias']:+.2f} %, straight lines from {100 * row['chord_lowest']:.1f} %"
        print(f"  {named or 'all'}: {spread}; {rest}; with an interval from {100 * row['with_interval']:.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    powers, others = [], []
    for exponent, rungs, sd, true in itertools.product(EXPONENTS, RUNGS, NOISE, TRUE):
        powers += [{"exponent": exponent, **c} for c in studies(power(exponent), sd, true, rungs, given.studies)]
    for (name, curve), rungs, sd, true in itertools.product(SEVERAL.items(), RUNGS, (0.001, 0.003, 0.01), TRUE[1:]):
        others += [{"curve": name, **c} for c in studies(curve, sd, true, rungs, given.studies)]
    seen = [cell for cell in powers if cell["with_interval"] >= 0.5]
    outside = [cell for cell in powers if not WANTED[0] <= cell["coverage"] <= WANTED[1]]
    result = {
        "level": LEVEL,
        "studies": given.studies,
        **provenance(),
        "powers": grouped(powers)[0],
        "powers_mostly_with_interval": grouped(seen)[0],
        "powers_by_rungs_seeds_noise": grouped(powers, "rungs", "seeds", "sd"),
        "powers_outside": [{k: round(v, 4) for k, v in cell.items()} for cell in outside],
        "others": grouped(others, "curve", "rungs"),
    }
    show("power laws", [result["powers"]])
    show("power laws, at least half of the studies with an interval", [result["powers_mostly_with_interval"]])
    show("by rungs", grouped(seen, "rungs"))
    show("by rungs and noise", grouped(seen, "rungs", "sd"))
    print(f"outside {100 * WANTED[0]:.0f} to {100 * WANTED[1]:.0f} %: {len(outside)} of {len(powers)}")
    for cell in outside:
        print("  " + ", ".join(f"{key} {value:.4g}" for key, value in cell.items()))
    show("other curves", result["others"])
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
