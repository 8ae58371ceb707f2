"""Networks boosted unit by unit beside the same network trained at once, on two tables that are drawn.

``waveform`` (Breiman et al. 1984, CART, section 2.6.2): 21 columns, three classes; a row mixes two of three triangles
by a uniform share, with unit noise. ``ringnorm`` (Breiman 1996, Bias, variance and arcing classifiers): 20 columns, one
class N(0, 4 I), the other N(a, I), all of a's components 1 / sqrt(20). 500 rows are trained on and 5,000 tested; seeds
draw rows and initial weights.

Both networks have ``UNITS`` logistic units. At once, all weights minimise the cross-entropy and alpha times their
squares by L-BFGS, from initial weights by the same rule (Glorot's, of all units at once). Each gets six trials on two
tuning seeds, whose means choose.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from isoflop.models.boosting import BoostedClassifier

UNITS, TRAIN, TEST = 100, 500, 5000
SEEDS, TUNING = (1, 2, 3, 4, 5), (101, 102)
BOOSTED = [{"learning_rate": rate, "subsample": share} for rate, share in product((0.1, 0.3, 1.0), (0.5, 1.0))]
AT_ONCE = [{"alpha": alpha} for alpha in (0.0001, 0.01, 0.1, 1.0, 10.0, 100.0)]
Table = tuple[np.ndarray, np.ndarray]


def waveform(draw: np.random.Generator, rows: int) -> Table:
    places = np.arange(21)
    waves = np.stack([np.maximum(6 - abs(places - peak), 0) for peak in (6, 14, 10)])
    y, share = draw.integers(0, 3, rows), draw.random((rows, 1))
    pairs = np.array([(0, 1), (0, 2), (1, 2)])[y]
    mixed = share * waves[pairs[:, 0]] + (1 - share) * waves[pairs[:, 1]]
    return mixed + draw.standard_normal((rows, 21)), y


def ringnorm(draw: np.random.Generator, rows: int) -> Table:
    y, noise = draw.integers(0, 2, rows), draw.standard_normal((rows, 20))
    return np.where(y[:, None] == 0, 2 * noise, noise + 20**-0.5), y


TABLES = {"waveform": waveform, "ringnorm": ringnorm}


def drawn(table: str, seed: int) -> tuple[Table, Table]:
    """Rows to train on and to test, columns brought to the training rows' scale."""
    draw = np.random.default_rng([seed, sorted(TABLES).index(table)])
    (x, y), (held, wanted) = TABLES[table](draw, TRAIN), TABLES[table](draw, TEST)
    mean, scale = x.mean(0), x.std(0)
    return ((x - mean) / scale, y), ((held - mean) / scale, wanted)


def at_once(train: Table, test: Table, seed: int, alpha: float) -> tuple[float, int]:
    """Accuracy of a network of all units, trained together, in points; and the FLOPs of its products in training."""
    x, y = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    classes, draw = int(y.max()) + 1, np.random.default_rng(seed)
    sizes = [(x.shape[1], UNITS), (1, UNITS), (UNITS, classes), (1, classes)]
    bounds = [(2 / (x.shape[1] + UNITS)) ** 0.5] * 2 + [(2 / (UNITS + classes)) ** 0.5] * 2
    start = np.concatenate([draw.uniform(-b, b, size).ravel() for b, size in zip(bounds, sizes, strict=True)])
    places = np.cumsum([0, *(a * b for a, b in sizes)])

    def apart(flat: torch.Tensor) -> list[torch.Tensor]:
        return [flat[a:b].view(size) for a, b, size in zip(places[:-1], places[1:], sizes, strict=True)]

    def output(weights: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        w, b, v, c = weights
        return torch.sigmoid(rows @ w + b) @ v + c

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        given = torch.from_numpy(flat.copy()).requires_grad_()
        weights = apart(given)
        loss = torch.nn.functional.cross_entropy(output(weights, x), y)
        loss = loss + alpha / (2 * len(x)) * (weights[0].square().sum() + weights[2].square().sum())
        loss.backward()
        return loss.item(), given.grad.numpy()

    solved = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    guess = output(apart(torch.from_numpy(solved.x)), torch.from_numpy(test[0])).argmax(1).numpy()
    flops = solved.nfev * len(x) * UNITS * (4 * x.shape[1] + 6 * classes)
    return 100 * float((guess == test[1]).mean()), int(flops)


def boosted(train: Table, seed: int, fields: dict[str, Any]) -> BoostedClassifier:
    return BoostedClassifier(UNITS, random_state=seed, **fields).fit(*train)


def points(model: BoostedClassifier, test: Table) -> float:
    return 100 * model.score(*test)


def measured(table: str, notes: list[str]) -> dict[str, list[float]]:
    tuning = [(seed, *drawn(table, seed)) for seed in TUNING]
    ours = max(
        BOOSTED, key=lambda fields: sum(points(boosted(train, seed, fields), test) for seed, train, test in tuning)
    )
    theirs = max(
        AT_ONCE, key=lambda fields: sum(at_once(train, test, seed, **fields)[0] for seed, train, test in tuning)
    )
    notes.append(f"{table}: boosted with {ours}, at once with {theirs}")
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        train, test = drawn(table, seed)
        model, (joint, flops) = boosted(train, seed, ours), at_once(train, test, seed, **theirs)
        whole, half = points(model, test), points(model.truncate(UNITS // 2), test)
        row = {
            "boosted": whole,
            "at_once": joint,
            "over_joint": whole - joint,
            "half_loses": whole - half,
            "rises": float(np.diff(model.losses_).max()),
            "flops_over_joint": model.cost_.flops / flops,
        }
        for name, each in row.items():
            found.setdefault(f"{table}_{name}", []).append(each)
    return found


def main(out: str) -> None:
    torch.set_num_threads(1)
    notes: list[str] = []
    values = {name: each for table in TABLES for name, each in measured(table, notes).items()}
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])
