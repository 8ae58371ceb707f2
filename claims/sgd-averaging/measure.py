"""SGD with a constant rate on linear regression, simulated, against the exact risk and against the simple bound.

The exact risk of the last iterate and of averages of iterates follows from recursions of second moments
(``isoflop.optim.theory.linear_regression``); the bound is the plain one of bias and variance (head and tail of the
spectrum at 1 / (rate steps)). What is simulated knows neither.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from isoflop.optim.theory.linear_regression import LinearRegression, tail_weights

DIMENSIONS, STEPS, RUNS, BATCH, RATE, NOISE = 100, 1000, 4000, 1, 0.3, 0.25
LENGTHS = (250, 500, 1000, 2000, 4000)
SEEDS = (1, 2, 3)
FRACTIONS = {"last": 0.0, "tail_half": 0.5, "whole": 1.0}


def simulated(problem: LinearRegression, seed: int) -> dict[str, float]:
    """Mean excess risks over runs: of the last iterate, of the mean of the last half, of the mean of all."""
    rng = np.random.default_rng(seed)
    n = len(problem.spectrum)
    scale = np.sqrt(problem.spectrum)
    e = np.tile(problem.offset, (RUNS, 1))
    sums = {name: np.zeros((RUNS, n)) for name in FRACTIONS}
    weights = {name: tail_weights(STEPS, share or 1 / (STEPS + 1)) for name, share in FRACTIONS.items()}
    for t in range(STEPS + 1):
        for name, w in weights.items():
            if w[t]:
                sums[name] += w[t] * e
        if t < STEPS:
            x = rng.standard_normal((RUNS, n)) * scale
            residual = np.einsum("ij,ij->i", x, e) - np.sqrt(problem.noise) * rng.standard_normal(RUNS)
            e -= RATE * residual[:, None] * x
    return {name: float(problem.risk(total**2).mean()) for name, total in sums.items()}


def bound(problem: LinearRegression, steps: int) -> float:
    """Bias and variance of the mean of ``steps`` iterates, head and tail of the spectrum apart, without constants."""
    head = problem.spectrum >= 1 / (RATE * steps)
    squares = problem.offset**2
    bias = (squares[head] / problem.spectrum[head]).sum() / (RATE * steps) ** 2
    bias += (problem.spectrum[~head] * squares[~head]).sum()
    variance = problem.noise * (head.sum() / steps + steps * RATE**2 * (problem.spectrum[~head] ** 2).sum())
    return float(bias + variance)


def slope(x: tuple[int, ...], y: list[float]) -> float:
    """Exponent of a power law through the points."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main(out: str) -> None:
    problem = LinearRegression.power_law(DIMENSIONS, capacity=1.5, source=2.0, noise=NOISE)
    exact = {
        name: problem.risk_of_average([RATE] * STEPS, BATCH, tail_weights(STEPS, share or 1 / (STEPS + 1)))
        for name, share in FRACTIONS.items()
    }
    values: dict[str, list[float]] = {}
    for seed in SEEDS:
        for name, risk in simulated(problem, seed).items():
            values.setdefault(f"{name}_error", []).append(abs(risk / exact[name] - 1))
            values.setdefault(f"{name}_simulated", []).append(risk)
            values.setdefault(f"{name}_exact", []).append(exact[name])
    tails = [problem.risk_of_average([RATE] * t, BATCH, tail_weights(t, 0.5)) for t in LENGTHS]
    bounds = [bound(problem, t) for t in LENGTHS]
    values["slope_difference"] = [abs(slope(LENGTHS, tails) - slope(LENGTHS, bounds))] * len(SEEDS)
    values["over_bound"] = [max(tail / b for tail, b in zip(tails, bounds, strict=True))] * len(SEEDS)
    pairs = zip(values["last_simulated"], values["tail_half_simulated"], strict=True)
    values["averaging_gain"] = [last / tail for last, tail in pairs]
    notes = [
        f"{DIMENSIONS} dimensions, spectrum i^-1.5, {STEPS} steps of one sample at rate {RATE}, {RUNS} runs a seed",
        f"tail averages' exact risks after {LENGTHS}: {', '.join(f'{t:.3g}' for t in tails)}; "
        f"bounds: {', '.join(f'{b:.3g}' for b in bounds)}",
    ]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])
