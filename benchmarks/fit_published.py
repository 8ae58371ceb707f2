"""Published fits made again from their raw tables: ours beside the published figure.

    python benchmarks/fit_published.py ../shared/data [NAME ...] [--out benchmarks/fit_published.json]

Without names all are made; `--list` names them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fit import provenance
from isoflop.core.errors import UsageError, nearest
from isoflop.core.registry import get
from isoflop.core.table import Table
from isoflop.laws import compare, optima, pair

Row = tuple[str, float, float | str]
"""What, ours, published."""


def law(name: str, **fields: Any) -> Any:
    return get("law", name)(**fields)


def epoch(data: Path) -> Iterator[Row]:
    table = Table.read_csv(data / "chinchilla/epoch_svg_points.csv")
    fit = law("chinchilla").fit(table.where(table["loss"] < np.sort(table["loss"])[-5]), loss="huber", delta=1e-3)
    yield "objective", fit.objective, 1.0182741e-3
    published = {"A": 477.84, "B": 2143.86, "E": 1.81724, "alpha": 0.347313, "beta": 0.367183}
    for name, value in published.items():
        yield name, fit.params[name], value
    draw = np.random.RandomState(42)
    samples = fit.bootstrap(rows=np.asarray([draw.choice(fit.rows, fit.rows) for _ in range(4000)]))
    for name, value in {"A": 124.52, "B": 1293.28, "E": 0.02566, "alpha": 0.01540, "beta": 0.02060}.items():
        yield f"standard error of {name}", samples.errors[name], value


def gemstones(data: Path) -> Iterator[Row]:
    fit = law("chinchilla").fit(Table.read_csv(data / "gemstones/hot.csv"), delta=1e-4)
    yield "objective", fit.objective, 2.076018e-4
    yield "alpha", fit.params["alpha"], 0.29892
    yield "beta", fit.params["beta"], 0.69283


def data_constrained(data: Path) -> Iterator[Row]:
    table = Table.read_csv(data / "data_constrained/runs.csv")
    fit = law("data_constrained").fit(table.where(table["in_published_fit"] == "True"), columns={"U": "unique_tokens"})
    yield "objective", fit.objective, 0.0121151
    found = fit.intervals()
    for name, value in {"R_D": 15.387756, "R_N": 5.309743}.items():
        yield f"{name} ({found[name].verdict})", fit.params[name], value


def frontier(data: Path) -> Iterator[Row]:
    table = Table.read_csv(data / "prescriptive/epoch_benchmarks_points_MATH_level_5.csv")
    fit = law("frontier").fit(table, columns={"C": "training_compute_flop"})
    yield "MATH level 5: mean objective", fit.objective / fit.rows, 0.00972
    table = Table.read_csv(data / "prescriptive/epoch_benchmarks_points_GPQA_diamond.csv")
    curve = Table.read_csv(data / "prescriptive/epoch_benchmarks_published_curve_GPQA_diamond.csv")
    fit = law("frontier").fit(table, columns={"C": "training_compute_flop"})
    ours = fit.predict({"C": curve["training_compute_flop"]})
    for i in (0, len(ours) // 2, -1):
        yield (
            f"GPQA diamond: score at {curve['training_compute_flop'][i]:.2e}",
            float(ours[i]),
            float(curve["y_hat"][i]),
        )


def overtraining(data: Path) -> Iterator[Row]:
    runs = Table.read_csv(data / "overtraining/runs.csv")
    runs = runs.where(runs["train_dataset"] == "redpajama")
    size, multiple = runs["N"], runs["token_mult"]
    small = ((multiple == 20) & (size < 1e9)) | ((multiple == 320) & (size < 2e7))
    loss = law("overtraining").fit(runs.where(small), columns={"loss": "loss_c4_val"})
    more = runs.where(small | ((multiple == 20) & (size < 2e9)))
    downstream = law("overtraining_error").fit(more, columns={"loss": "loss_c4_val", "error": "err_avg17"})
    for name, chosen, of_loss, of_error in (
        ("1.4B, 640 tokens a parameter", (multiple == 640) & (size > 1e9), 0.7103, 3.6365),
        ("6.9B, 20 tokens a parameter", (multiple == 20) & (size > 5e9), 0.7320, 0.0464),
    ):
        target = runs.where(chosen)
        predicted = loss.predict(target)
        error = downstream.predict({"loss": predicted})
        yield f"{name}: loss error %", 100 * abs(float(predicted[0] / target["loss_c4_val"][0]) - 1), of_loss
        yield f"{name}: downstream error %", 100 * abs(float(error[0] / target["err_avg17"][0]) - 1), of_error


def porian(data: Path) -> Iterator[Row]:
    points = Table.read_csv(data / "porian/isoflop_points_openwebtext2.csv")
    published = iter((0.870, 0.700, 0.602, 0.569, 0.518))
    for key, group in points.groups("hparams", "warmup", "decay", "param_count"):
        fit = law("power").fit(optima(group, budget="flops"), columns={"y": "N"})
        yield f"size exponent, {' '.join(key)}", fit.params["a"], next(published)


def critical_batch(data: Path) -> Iterator[Row]:
    steps = Table.read_csv(data / "critical_batch_size/steps_to_target.csv")
    steps = steps.with_columns(N=1e6 * steps["N_millions"])
    fit = law("critical_batch").fit(steps, columns={"B": "batch_size", "steps": "steps_to_target"})
    yield "c (fit of logarithms)", fit.params["c"], 93.20
    yield "gamma (fit of logarithms)", fit.params["gamma"], 0.468
    plain = law("critical_batch").fit(fit.table, link="identity")
    yield "c (plain fit)", plain.params["c"], 99.506
    yield "gamma (plain fit)", plain.params["gamma"], 0.45764


def loss_to_loss(data: Path) -> Iterator[Row]:
    sweep = Table.read_csv(data / "loss_to_loss/sweep.csv")
    for row in Table.read_csv(data / "loss_to_loss/published_curve_fits.csv").records():
        name = row["loss_name"].removeprefix("eval/").removesuffix("/CrossEntropyLoss").replace("_100b_val", "_val")
        column = "own_val_loss" if name == "val_loss" else "val_" + name.removesuffix("_val")
        if column in sweep:
            form = "kaplan" if row["is_kaplan_form"] == "True" else "chinchilla"
            fit = law(form).fit(sweep.where(sweep["data"] == row["data"]), columns={"loss": column})
            yield f"{form} on {row['data']}, {column}: mean objective", fit.objective / fit.rows, row["loss"]
            yield f"{form} on {row['data']}, {column}: E", fit.params["E"], row["E"]


def transfer(data: Path) -> Iterator[Row]:
    small, large = (Table.read_csv(data / f"loss_to_loss/{name}.csv") for name in ("sweep", "extrapolation_1e21"))
    runs = Table.from_records(small.records() + large.records()).rename({"iso_flop": "C"})
    for source, target in (("fineweb_edu", "proof_pile_2"), ("proof_pile_2", "fineweb_edu")):
        joined = pair(runs, source, target, loss="own_val_loss", match=("D",))
        result = compare(joined, [law("chinchilla"), law("kaplan"), law("loss_to_loss")], cutoffs=[5e19])
        for rank, score in enumerate(result.scores, 1):
            yield f"{source} to {target} at 1e21: rank {rank}, {score.law}, error %", 100 * score.error, ""


def farseer(data: Path) -> Iterator[Row]:
    train, test = (Table.read_csv(data / f"active_design/farseer_{part}.csv") for part in ("train", "test"))
    for name, published in (("farseer", 0.476), ("chinchilla", 2.9)):
        fit = law(name).fit(train)
        yield f"{name}: test error %", float(100 * np.mean(np.abs(fit.predict(test) / test["loss"] - 1))), published


def step_law(data: Path) -> Iterator[Row]:
    runs = Table.read_csv(data / "step_law/dense_lr_bs_loss.csv")
    columns = {"loss": "smooth_loss", "batch": "batch_tokens"}
    for near in (0.0, 0.0025):
        rate = law("step_law", near=near).fit(runs, columns=columns).params
        batch = law("step_law", of="batch", near=near).fit(runs, columns=columns).params
        yield f"rate by N (within {near:.2%} of the best)", rate["n"], -0.713
        yield f"rate by D (within {near:.2%} of the best)", rate["d"], 0.307
        yield f"batch by D (within {near:.2%} of the best)", batch["d"], 0.571


ALL: dict[str, Callable[[Path], Iterator[Row]]] = {
    f.__name__: f
    for f in (
        epoch, gemstones, data_constrained, frontier, overtraining, porian,
        critical_batch, loss_to_loss, transfer, farseer, step_law,
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.list:
        print("\n".join(ALL))
        return
    for name in given.names:
        if name not in ALL:
            raise SystemExit(str(UsageError(f"no published fit is named {name!r}", fix=nearest(name, ALL))))
    made: dict[str, list[dict[str, Any]]] = {}
    for name in given.names or ALL:
        begin = time.process_time()
        rows = list(ALL[name](given.data / "scaling"))
        print(f"{name}  ({time.process_time() - begin:.1f} CPU s){'':<30}ours        published")
        for what, ours, published in rows:
            shown = published if isinstance(published, str) else f"{published:.7g}"
            print(f"    {what:<70}{ours:>14.7g}{shown:>14}")
        made[name] = [{"what": what, "ours": ours, "published": published or None} for what, ours, published in rows]
    if given.out:
        given.out.write_text(json.dumps({**provenance(), "fits": made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
