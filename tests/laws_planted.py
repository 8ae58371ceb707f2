"""One planted table a law: known constants, the columns of a plausible sweep, the size of its noise."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isoflop.core.registry import get
from isoflop.laws.law import Law

Columns = dict[str, Any]


@dataclass(frozen=True)
class Planted:
    params: dict[str, float]
    x: Columns
    noise: float
    fields: dict[str, Any] = field(default_factory=dict)


def grid(**axes: Any) -> Columns:
    """The product of the axes as columns."""
    rows = np.asarray(list(itertools.product(*axes.values())), dtype=float)
    return {name: rows[:, i] for i, name in enumerate(axes)}


def scattered(count: int, seed: int, **ranges: tuple[float, float]) -> Columns:
    """Columns drawn log-uniformly."""
    rng = np.random.default_rng(seed)
    return {name: np.exp(rng.uniform(np.log(a), np.log(b), count)) for name, (a, b) in ranges.items()}


SWEEP = grid(N=np.geomspace(2e7, 5e9, 8), D=np.geomspace(5e8, 2e11, 8))
CHINCHILLA = {"A": 480.0, "B": 2140.0, "E": 1.82, "alpha": 0.347, "beta": 0.367}


def _qat() -> Columns:
    x = grid(
        N=np.geomspace(8e7, 2e9, 4),
        D=np.geomspace(2e9, 5e11, 5),
        share=(0.05, 0.15, 0.3, 0.5, 0.8),
        bits=(1.0, 2.0, 4.0, 6.0),
    )
    return {"N": x["N"], "bits": x["bits"], "D_qat": x["D"] * x["share"], "D_fp": x["D"] * (1 - x["share"])}


PLANTED: dict[str, Planted] = {
    "average_n": Planted(
        CHINCHILLA, {"N_avg": SWEEP["N"], "D": SWEEP["D"]}, 0.004
    ),
    "chinchilla": Planted(CHINCHILLA, SWEEP, 0.004),
    "critical_batch": Planted({"c": 93.2, "gamma": 0.468}, {"N": np.geomspace(5e7, 5e9, 12)}, 0.03),
    "data_constrained": Planted(
        {"A": 520.8, "B": 1487.7, "E": 1.869, "alpha": 0.35266, "R_D": 15.0, "R_N": 5.3},
        grid(N=np.geomspace(1e8, 8e9, 7), D=np.geomspace(5e9, 2e11, 6), U=(1e8, 4e8, 1.5e9, 1e10)),
        0.004,
        {"base": "fit"},
    ),
    "emergence": Planted(
        {"N0": 2e7, "k": 1.5, "m": 0.7, "g": 0.05, "f": 0.1, "sd1": 0.06, "sd0": 0.04},
        {"N": np.repeat(np.geomspace(2e6, 2e8, 6), 50)},
        0.0,
    ),
    "experts": Planted(
        {"A": 1.26, "E": 1.47, "a": 0.18, "b": 0.063, "c": 0.003},
        grid(N=np.geomspace(1.6e7, 1.3e9, 8), X=2.0 ** np.arange(0, 10)),
        0.001,
    ),
    "farseer": Planted(
        {"exp_S": 0.45, "exp_Q": 130.0, "s": -0.12, "q": 0.13, "B": -1.1, "b": -0.17, "A": -0.2, "a": 0.05, "E": -1.18},
        grid(N=np.geomspace(1e8, 8e9, 12), D=np.geomspace(1e9, 4e11, 14)),
        0.001,
    ),
    "frontier": Planted(
        {"y0": 0.1, "s": 0.7, "b": 2.5, "z0": 23.5}, {"C": np.geomspace(3e21, 3e25, 120)}, 0.01, {"ridge_weight": 0.0}
    ),
    "imitation": Planted({"R_max": 5000.0, "C0": 1e17, "a": 0.7}, {"C": np.geomspace(1e14, 3e18, 40)}, 0.05),
    "infinite_compute": Planted(
        {"A": 1.3e8, "B": 30.0, "E": 3.17, "alpha": 1.02, "beta": 0.25},
        grid(N=np.geomspace(1.5e8, 1.4e9, 5), K=(1.0, 2.0, 3.0, 5.0, 8.0)),
        0.001,
    ),
    "kaplan": Planted({"A": 2e9, "B": 1.5e9, "E": 1.2, "alpha": 0.25, "beta": 0.35}, SWEEP, 0.004),
    "loss_to_loss": Planted(
        {"K": 0.6, "kappa": 1.07, "E0": 1.9, "E1": 1.3},
        {"loss0": np.linspace(2.2, 3.8, 60)},
        0.002,
        {"E0": 1.9, "E1": 1.3},
    ),
    "mist": Planted(
        {**CHINCHILLA, "c_lr": 0.03, "c_b": 0.02, "k": -6.9, "n": -0.7, "d": 0.3, "k_b": 12.5, "d_b": 0.57},
        scattered(300, 5, N=(2e7, 3e9), D=(1e9, 2e11), lr=(1e-4, 1e-2), batch=(3e4, 4e6)),
        0.004,
    ),
    "overtraining": Planted({"a": 212.0, "b": 367.0, "E": 1.84, "eta": 0.136}, SWEEP, 0.01),
    "overtraining_error": Planted({"eps": 0.857, "k": 2.2, "gamma": 0.71}, {"loss": np.linspace(2.2, 6.0, 40)}, 0.005),
    "power": Planted({"A": 0.1, "a": 0.5}, {"C": np.geomspace(1e17, 1e21, 20)}, 0.05),
    "power_floor": Planted({"A": 300.0, "E": 1.7, "a": 0.12}, {"C": np.geomspace(1e17, 1e23, 40)}, 0.003),
    "qat_fraction": Planted({"a": 6.73}, grid(N=(1e8, 1e9), D=np.geomspace(1e10, 1e12, 8), bits=(2.0, 4.0)), 0.05),
    "qat_loss": Planted(
        {
            **CHINCHILLA, "theta": 0.4, "kappa": 0.9, "phi": 6.0, "chi": 0.6, "psi": 0.1, "omega": 0.35,
            "lam": 0.8, "mu": 0.35, "nu": 0.06, "xi": -0.25, "rho": 0.5,
        },
        _qat(),
        0.0005,
    ),
    "qqt": Planted(
        {"a": 0.3, "b": 0.25, "tau": 4.0, "d": 0.1},
        {"seen": np.geomspace(1e6, 6.4e8, 60), "pool": np.full(60, 1.28e7)},
        0.003,
    ),
    "vocabulary": Planted(
        {"A": 40.0, "B": 300.0, "C": 2500.0, "E": -5.0, "a": 0.25, "b": 0.7, "c": 0.4, "g": 0.12},
        grid(N=np.geomspace(3e7, 1e9, 6), V=np.geomspace(1000, 64000, 6), H=np.geomspace(2e8, 2e11, 6)),
        0.002,
    ),
    "step_law": Planted(
        {"c": 1.79, "n": -0.713, "d": 0.307}, grid(N=np.geomspace(6e7, 1e9, 5), D=np.geomspace(2e9, 1e11, 5)), 0.1
    ),
}  # fmt: skip


def law(name: str) -> Law:
    made = get("law", name)(**PLANTED[name].fields)
    assert isinstance(made, Law)
    return made


def targets(name: str, tables: int, seed: int = 0, noise: float | None = None) -> Any:
    """(tables, n) planted targets; of a likelihood law drawn from its own distribution."""
    from isoflop.laws.simulation import planted

    case = PLANTED[name]
    if name == "emergence":
        return _seeds(case, tables, seed)
    return planted(law(name), case.params, case.x, case.noise if noise is None else noise, tables, seed)


def _seeds(case: Planted, tables: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    p, n = case.params, case.x["N"]
    chance = 1 / (1 + np.exp(-p["k"] * np.log(n / p["N0"])))
    up = p["m"] * (n / p["N0"]) ** p["g"] + p["sd1"] * rng.standard_normal((tables, len(n)))
    down = p["f"] + p["sd0"] * rng.standard_normal((tables, len(n)))
    return np.where(rng.random((tables, len(n))) < chance, up, down)
