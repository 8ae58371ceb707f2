"""What budgets of imitation learning that are left out would have been foretold, from several windows below them.

The table is the authors' public one (princeton-nlp/il-scaling-in-games, experiment_data/nethack): a checkpoint a row,
with exp, tag (FLOPs of the checkpoint), params, samples, eval_loss and returns_mean. It is looked for as
data/seedmap/nethack_il_fit.csv below the folder that ISOFLOP_SHARED names (default: ../shared).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from isoflop.core.table import Table
from isoflop.laws import Chinchilla, Power

TABLE = Path(os.environ.get("ISOFLOP_SHARED", "../shared")) / "data" / "seedmap" / "nethack_il_fit.csv"
WINDOWS = (1e14, 1e15, 5e15, 1e16)
FITTED, FORETOLD = 5e16, 1e17
"""The windows' common end, and the least budget that is left out."""
PUBLISHED = 0.61


def frontier(c: np.ndarray, y: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Budgets, and a quantity of the run of least loss at each."""
    budgets = np.unique(c)
    return budgets, np.asarray([y[c == budget][np.argmin(loss[c == budget])] for budget in budgets])


def slope(c: np.ndarray, y: np.ndarray) -> float:
    """Exponent of a power law through the points."""
    return float(np.polyfit(np.log(c), np.log(y), 1)[0])


def main(out: str) -> None:
    table = Table.read_csv(TABLE)
    table = table.where(table.equal("exp", "iso_flop"))
    n, d, loss, returns = (table.numbers(name) for name in ("params", "samples", "eval_loss", "returns_mean"))
    c = np.asarray([float(tag) for tag in table.texts("tag")])
    values: dict[str, list[float]] = {"loss_error": [], "frontier_error": [], "size_exponent_off": []}
    notes = []
    for low in WINDOWS:
        rows, ahead = (c >= low) & (c <= FITTED), c >= FORETOLD
        fit = Chinchilla().fit({"N": n[rows], "D": d[rows], "loss": loss[rows]})
        off = fit.predict({"N": n[ahead], "D": d[ahead]}) / loss[ahead] - 1
        budgets, best = frontier(c[rows], loss[rows], loss[rows])
        curve = Power().fit({"C": budgets, "y": best})
        least = float(loss[c == c.max()].min())
        foretold = float(curve.predict({"C": [c.max()]})[0])
        exponent = slope(*frontier(c[rows], n[rows], loss[rows]))
        values["loss_error"].append(float(np.median(np.abs(off))))
        values["frontier_error"].append(abs(foretold / least - 1))
        values["size_exponent_off"].append(abs(exponent - PUBLISHED))
        notes.append(
            f"from {low:g} to {FITTED:g}: {rows.sum()} rows, loss off by {100 * np.median(off):+.1f} % in the median; "
            f"best loss at {c.max():g} FLOPs {foretold:.4f}, measured {least:.4f}; best size as C^{exponent:.2f}"
        )
    seen = returns > 0
    values["correlation"] = [float(np.corrcoef(np.log(loss[seen]), np.log(returns[seen]))[0, 1])]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])
