"""Do nominal 90 % prediction intervals hold beyond the data? Rolling extrapolation inside each real table.

    python benchmarks/fit_coverage.py ../shared/data [--out docs/fit_coverage.json]

Each table is forecast with its own law from rolling cuts in compute. The interval's two constants (how far the drift
measured inside a table is inflated, and the least drift) are chosen for each table on all the OTHER tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fit import provenance
from isoflop.core.registry import get
from isoflop.core.table import Table
from isoflop.laws import extrapolate, optima, pair
from isoflop.laws.comparison import SHARES
from isoflop.laws.tables import cuts

LEVEL = 0.9
INFLATIONS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
LEASTS = (0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.015)


def tables(data: Path) -> Iterator[tuple[str, Any, Table, dict[str, Any]]]:
    """Name, law, table and fit settings of every table that has a law and enough compute to roll over."""

    def read(name: str) -> Table:
        return Table.read_csv(data / "scaling" / name)

    def law(name: str, **fields: Any) -> Any:
        return get("law", name)(**fields)

    epoch = read("chinchilla/epoch_svg_points.csv")
    yield "chinchilla (Epoch's points)", law("chinchilla"), epoch.where(epoch["loss"] < np.sort(epoch["loss"])[-5]), {}
    yield "gemstones", law("chinchilla"), read("gemstones/hot.csv"), {"delta": 1e-4, "clusters": "run_name"}
    runs = read("overtraining/runs.csv")
    for (name,), group in runs.groups("train_dataset"):
        yield f"over-training {name}, loss", law("overtraining"), group, {"columns": {"loss": "loss_c4_val"}}
        columns = {"loss": "loss_c4_val", "error": "err_avg17", "C": "flops"}
        yield f"over-training {name}, error", law("overtraining_error"), group, {"columns": columns}
    sweep = read("loss_to_loss/sweep.csv").rename({"iso_flop": "C"})
    for (name,), group in sweep.groups("data"):
        yield f"loss-to-loss sweep {name}", law("kaplan"), group, {"columns": {"loss": "own_val_loss"}}
    for source, target in (("fineweb_edu", "proof_pile_2"), ("slimpajama", "starcoder")):
        joined = pair(sweep, source, target, loss="own_val_loss", match=("D",))
        yield f"loss-to-loss {source} to {target}", law("loss_to_loss"), joined, {}
    repeated = read("data_constrained/runs.csv")
    yield "data-constrained", law("data_constrained", base="fit"), repeated, {"columns": {"U": "unique_tokens"}}
    steps = read("step_law/dense_lr_bs_loss.csv")
    columns = {"loss": "smooth_loss", "batch": "batch_tokens"}
    yield "step law, rate", law("step_law"), steps, {"columns": columns}
    yield "step law, batch", law("step_law", of="batch"), steps, {"columns": columns}
    sizes = read("critical_batch_size/steps_to_target.csv")
    sizes = sizes.with_columns(N=1e6 * sizes["N_millions"])
    yield "critical batch", law("critical_batch"), sizes, {"columns": {"B": "batch_size", "steps": "steps_to_target"}}
    sweeps = read("porian/isoflop_points_openwebtext2.csv")
    for key, group in sweeps.groups("hparams", "warmup", "decay", "param_count"):
        yield f"optimal size {' '.join(key)}", law("power"), optima(group, budget="flops"), {"columns": {"y": "N"}}
    rates = read("misfitting/final_losses_lr_sweep.csv")
    best = [cell.where(cell["loss"] == np.min(cell["loss"])) for _, cell in rates.groups("N", "D")]
    yield "misfitting, best rates", law("chinchilla"), Table.from_records([r for t in best for r in t.records()]), {}
    for (name,), group in read("isoflops/isoflop_points.csv").groups("experiment"):
        yield f"isoflops {name}", law("chinchilla"), group.where(group["outlier"] == "False"), {}
    yield "farseer", law("farseer"), read("active_design/farseer_train.csv"), {}
    games = Table.read_csv(data / "seedmap" / "nethack_il_fit.csv")
    games = games.where(games["exp"] == "iso_flop").rename({"params": "N", "samples": "D", "eval_loss": "loss"})
    games = games.with_columns(C=6 * games["N"] * games["D"])
    yield "imitation, loss", law("chinchilla"), games, {}
    best = [cell.where(cell["returns_mean"] == np.max(cell["returns_mean"])) for _, cell in games.groups("tag")]
    frontier = Table.from_records([r for t in best for r in t.records()])
    yield "imitation, best returns", law("imitation"), frontier, {"columns": {"returns": "returns_mean"}}


def forecasts(law: Any, table: Table, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Per cut: errors in link space beside the parts of their interval."""
    settings = dict(settings)
    columns = settings.pop("columns", {})
    for new, old in columns.items():
        table = table.with_columns(**{new: table[old]})
    table = law.prepare(table)
    c = law.compute({name: np.asarray(table[name], dtype=float) for name in (*law.columns, "C") if name in table})
    out = []
    for cut in cuts(c, SHARES):
        below = c <= cut * (1 + 1e-9)
        if below.sum() < len(law.parameters) - len(law.held) + 2 or below.all():
            continue
        fit = law.fit(table.where(below), **settings)
        p = extrapolate.predict_interval(fit, table.where(~below), LEVEL, inflation=0.0, least=0.0)
        y = np.asarray(table[law.target], dtype=float)[~below]
        link = fit.problem.link
        out.append(
            {
                "error": np.abs(fit.law.linked(p.value, link) - fit.law.linked(y, link)),
                "fixed": np.sqrt(p.noise**2 + p.parameters**2),
                "ahead": extrapolate.efolds_beyond(fit, fit.columns_of(table.where(~below))),
                "rate": extrapolate.inner_rate(fit, LEVEL),
                "unit": extrapolate.unit(fit),
                "limit": extrapolate.quantile(fit, LEVEL),
                "scale": 1.0 / extrapolate.unit(fit),
            }
        )
    return out


def scores(made: list[dict[str, Any]], inflation: float, least: float) -> tuple[float, float, float]:
    """(coverage, relative width, relative interval score) of a table, each cut weighing the same."""
    rows = []
    for f in made:
        floor = least * f["unit"]
        rate = 3.0 * floor if f["rate"] is None else np.hypot(inflation * f["rate"], floor)
        reach = f["limit"] * np.sqrt(f["fixed"] ** 2 + (rate * f["ahead"]) ** 2)
        miss = np.maximum(f["error"] - reach, 0.0)
        parts = (f["error"] <= reach, 2 * reach * f["scale"], (2 * reach + 2 / (1 - LEVEL) * miss) * f["scale"])
        rows.append([np.mean(np.nan_to_num(v, nan=0.0, posinf=1e3)) for v in parts])
    return tuple(np.mean(rows, axis=0).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    made = {}
    for name, law, table, settings in tables(given.data):
        found = forecasts(law, table, settings)
        if found:
            made[name] = found
    grid = list(itertools.product(INFLATIONS, LEASTS))
    coverage = np.asarray([[scores(found, *choice)[0] for choice in grid] for found in made.values()])
    loss = np.asarray([[scores(found, *choice)[2] for choice in grid] for found in made.values()])
    loss = np.log(np.maximum(loss, 1e-12)) - np.log(np.maximum(loss.min(1, keepdims=True), 1e-12))

    def best(rows: Any) -> int:
        """Of the choices that cover the level on average, the one of the lowest interval scores."""
        enough = coverage[rows].mean(0) >= LEVEL
        return int(np.flatnonzero(enough)[np.argmin(loss[rows].mean(0)[enough])])

    names, out = list(made), []
    for i, name in enumerate(names):
        choice = grid[best([j for j in range(len(names)) if j != i])]
        cover, width, points = scores(made[name], *choice)
        shown = {"table": name, "cuts": len(made[name]), "inflation": choice[0], "least": choice[1]}
        out.append({**shown, "coverage": round(cover, 4), "width": round(width, 5), "interval_score": round(points, 5)})
        figures = f"{100 * cover:6.1f} %  width {100 * width:8.2f} %  score {100 * points:8.2f} %"
        print(f"{name:<48}{len(made[name]):>3} cuts {figures}  {choice}")
    overall = float(np.mean([row["coverage"] for row in out]))
    chosen = grid[best(list(range(len(names))))]
    plain = float(np.mean([scores(found, 0.0, 0.0)[0] for found in made.values()]))
    print(f"overall {100 * overall:.1f} % (goal 80-97); without discrepancy {100 * plain:.1f} %; all choose {chosen}")
    if given.out:
        result = {
            "level": LEVEL,
            "overall": overall,
            "without_discrepancy": plain,
            "chosen": chosen,
            **provenance(),
            "tables": out,
        }
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
