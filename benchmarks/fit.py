"""Speed of the global Chinchilla fit and its bootstrap, beside the usual SciPy multi-start, in one run.

    python benchmarks/fit.py [--table points.csv] [--starts 40] [--out benchmarks/fit.json]

The table has columns N, D, loss; without one, 240 points are planted. The multi-start is the published procedure (4,500
L-BFGS-B starts on a grid, numerical gradient); it is timed on a random sample of its starts and scaled up.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

from isoflop.core.table import Table
from isoflop.laws import Chinchilla
from isoflop.laws.simulation import simulate

PLANTED = {"A": 480.0, "B": 2100.0, "E": 1.82, "alpha": 0.347, "beta": 0.367}
DELTA = 1e-3


def points() -> Table:
    """240 points like those of the published figure."""
    rng = np.random.default_rng(0)
    c, multiple = np.exp(rng.uniform(np.log(6e18), np.log(3e21), 240)), np.exp(rng.uniform(np.log(1), np.log(300), 240))
    n = np.sqrt(c / 6 / multiple)
    return simulate(Chinchilla(), PLANTED, Table({"N": n, "D": c / 6 / n}), 0.005)


def timed(function: Any, repeats: int) -> tuple[Any, float, float]:
    """(result, CPU seconds, wall seconds) of the fastest of ``repeats`` calls."""
    best, result = (np.inf, np.inf), None
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        result = function()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    return result, *best


def multi_start(table: Table, count: int) -> list[float]:
    """Objectives reached from ``count`` of the 4,500 published starts, drawn without replacement."""
    n, d, y = (np.log(np.asarray(table[name])) for name in ("N", "D", "loss"))

    def objective(theta: Any) -> float:
        a, b, e, alpha, beta = theta
        predicted = logsumexp(np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)]), axis=0)
        return float(huber(DELTA, predicted - y).sum())

    exponents, floors, scales = np.arange(0, 2.5, 0.5), np.arange(-1, 1.5, 0.5), np.arange(0, 30, 5)
    starts = np.asarray(list(itertools.product(scales, scales, floors, exponents, exponents)))
    chosen = np.random.default_rng(0).choice(len(starts), count, replace=False)
    return [float(minimize(objective, starts[i], method="L-BFGS-B").fun) for i in chosen]


def provenance() -> dict[str, str]:
    """Machine, versions, commit and date of a result."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return {
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores {cpu}".strip(),
        "versions": f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}",
        "commit": commit.stdout.strip(),
        "date": date.today().isoformat(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    table = Table.read_csv(given.table) if given.table else points()
    Chinchilla().fit(table, delta=DELTA)  # imports
    fit, fit_cpu, fit_wall = timed(lambda: Chinchilla().fit(table, delta=DELTA), 5)
    samples, boot_cpu, boot_wall = timed(lambda: fit.bootstrap(4000), 1)
    reached, peer_cpu, peer_wall = timed(lambda: multi_start(table, given.starts), 1)
    found = float(np.mean(np.asarray(reached) <= fit.objective * 1.001))
    result = {
        "points": fit.rows,
        "objective": fit.objective,
        "share_of_our_starts_at_the_optimum": fit.certificate.share,
        "fit_cpu_s": round(fit_cpu, 4),
        "fit_wall_s": round(fit_wall, 4),
        "bootstraps": 4000 - samples.failed,
        "bootstrap_cpu_s": round(boot_cpu, 3),
        "bootstrap_wall_s": round(boot_wall, 3),
        "scipy_starts_timed": given.starts,
        "scipy_cpu_s_for_4500": round(peer_cpu / given.starts * 4500, 1),
        "scipy_wall_s_for_4500": round(peer_wall / given.starts * 4500, 1),
        "scipy_share_of_starts_at_the_optimum": found,
        "scipy_best_objective": min(reached),
        "times_faster_cpu": round(peer_cpu / given.starts * 4500 / fit_cpu),
        **provenance(),
    }
    for name, value in result.items():
        print(f"{name:<40}{value}")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
