"""Published decisions made again with intervals, and plans from cheap runs scored on dear ones.

    python benchmarks/plan_published.py DATA --out benchmarks/plan_published.json

DATA is the folder of the public tables. A plan's regret: the law is fitted to the cheapest 60 % of an isoFLOP sweep and
asked for the best size at each dearer budget; the loss there, interpolated between that budget's runs, is compared with
the least of the interpolation. Budgets whose runs do not reach the planned size are counted apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fit import provenance
from isoflop.core.files import write_json
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, DataConstrained, Overtraining, fit_table
from isoflop.laws.grouping import alike

SHARE = 0.6


def published(data: Path) -> Iterator[dict[str, Any]]:
    points = data / "chinchilla" / "epoch_svg_points.csv"
    epoch = fit_table(points, "chinchilla", drop_highest=5).fit
    for said, fit in (
        ("240 points (Epoch's rule)", epoch),
        ("all 245 points", Chinchilla().fit(Table.read_csv(points))),
    ):
        made = fit.plan(compute=5.88e23)
        yield _row(f"tokens a parameter at 5.88e23 FLOPs, {said}", "20; 70B parameters on 1.4T tokens", made["D/N"])
        yield _row(f"parameters at 5.88e23 FLOPs, {said}", "7.0e10", made["N"])
    runs = Table.read_csv(data / "overtraining" / "runs.csv")
    runs = runs.where(runs.equal("train_dataset", "redpajama_original") | runs.equal("train_dataset", "redpajama"))
    small = runs["flops"] < 1e21
    fit = Overtraining().fit(runs.where(small).select({"N": "N", "D": "D", "loss": "loss_c4_val"}))
    large = runs.where(runs["token_mult"] == 640).sort("N")
    n, d, y = (float(large[name][-1]) for name in ("N", "D", "loss_c4_val"))
    made = fit.plan(params=n, tokens=d)
    yield _row("loss of 1.4B parameters on 900B tokens, from runs below 1e21 FLOPs", f"measured {y:.4f}", made["loss"])
    rows = Table.read_csv(data / "data_constrained" / "runs.csv")
    rows = rows.where([str(value) == "True" for value in rows["in_published_fit"]])
    repeats = DataConstrained().fit(rows, columns={"U": "unique_tokens"}).plan(unique=1e10)
    for name, theirs in (
        ("4 epochs, as fresh tokens", "nearly free"),
        ("worth of a token in epoch 16", "falling, 0.38 by R_D* = 15.4"),
        ("worth of a token in epoch 40", "nearly nothing, 0.08 by R_D* = 15.4"),
        ("epochs to stop at: a tenth left", "16 to 40"),
    ):
        yield _row(name, theirs, repeats[name], "; ".join(repeats.answers[0].warnings))


def _row(decision: str, theirs: str, figure: Any, note: str = "") -> dict[str, Any]:
    ends = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {"decision": decision, "published": theirs, **{k: float(v) for k, v in ends.items()}, "note": note}


def sweeps(data: Path) -> Iterator[tuple[str, Table]]:
    """isoFLOP tables with N, D, C and loss."""
    points = Table.read_csv(data / "isoflops" / "isoflop_points.csv")
    points = points.where([str(value) == "False" for value in points["outlier"]])
    for name in dict.fromkeys(points["experiment"].tolist()):
        yield (
            name,
            points.where(points["experiment"] == name).select({"N": "N", "D": "D", "B": "budget", "loss": "loss"}),
        )
    runs = Table.read_csv(data / "loss_to_loss" / "sweep.csv")
    for name in dict.fromkeys(runs["data"].tolist()):
        columns = {"N": "N", "D": "D", "B": "iso_flop", "loss": "own_val_loss"}
        yield f"loss-to-loss {name}", runs.where(runs["data"] == name).select(columns)
    porian = Table.read_csv(data / "porian" / "isoflop_points_openwebtext2.csv")
    for keys, table in porian.groups("hparams", "warmup", "decay", "param_count"):
        yield f"porian {' '.join(keys)}", table.select({"N": "N", "D": "D", "B": "flops", "loss": "loss"})


def regret(table: Table) -> dict[str, Any]:
    """Mean regret over the budgets above the cheapest rows, relative to the loss."""
    cut = np.quantile(table["B"], SHARE)
    fit = Chinchilla().fit(table.where(table["B"] <= cut).select(["N", "D", "loss"]))
    label, found, outside, hits = alike(table["B"]), [], 0, []
    for group in range(int(label.max()) + 1):
        rows = table.where(label == group).sort("N")
        budget = float(np.median(rows["B"]))
        if budget <= cut or rows.rows < 4:
            continue
        made = fit.plan(compute=float(np.median(6 * rows["N"] * rows["D"])))["N"]
        z, y = np.log(rows["N"]), np.asarray(rows["loss"])
        if not z[0] <= np.log(made.value) <= z[-1]:
            outside += 1
            continue
        best = float(np.exp(z[y.argmin()]))
        found.append(float(np.interp(np.log(made.value), z, y) / y.min() - 1.0))
        hits.append(made.low <= best <= made.high)
    return {
        "budgets": len(found),
        "outside": outside,
        "regret": float(np.mean(found)) if found else None,
        "worst": float(np.max(found)) if found else None,
        "best measured size inside": float(np.mean(hits)) if hits else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    decisions, plans = [], []
    for row in published(asked.data):
        decisions.append(row)
        print(
            f"{row['decision']}: {row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}]; published {row['published']}"
        )
    for name, table in sweeps(asked.data):
        plans.append({"table": name, **regret(table)})
        print(plans[-1], flush=True)
    if asked.out:
        write_json(asked.out, {**provenance(), "decisions": decisions, "plans": plans})


if __name__ == "__main__":
    main()
