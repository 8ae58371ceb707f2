"""Which runs next, rehearsed on the four tasks of a public benchmark of budgeted design, beside the published scores.

    python benchmarks/plan_next.py DATA --out benchmarks/plan_next.json

DATA is the folder of the benchmark's tables ({task}_train.csv, {task}_test.csv). The published figures are those of
arXiv 2604.22753 (mean test R^2 over its laws and ten repeats); ours are one law a task and no chance.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from fit import provenance
from isoflop.core.files import write_json
from isoflop.core.table import Table
from isoflop.laws.plan.next_runs import pool_of
from isoflop.laws.plan.rehearsal import rehearse
from isoflop.laws.verb import law_named

TASKS = {
    "vocab": (
        "vocabulary",
        {"N": "non_vocab_parameters", "V": "vocab_size", "H": "num_characters", "loss": "unigram_normalized_loss"},
        {0.05: 0.98, 0.10: 0.98},
    ),
    "moe": (
        "experts",
        {"N": "dense_parameter_count", "X": "num_experts", "loss": "loss_validation"},
        {0.05: 0.65, 0.10: 0.83},
    ),
    "sparsity": ("chinchilla", {"N": "N_active", "D": "D2", "loss": "loss"}, {0.35: 0.44, 0.50: 0.53}),
    "farseer": ("farseer", {"N": "N", "D": "D", "loss": "loss"}, {0.05: 0.88, 0.10: 0.93}),
}
COSTS = {
    "vocab": lambda t: t["non_vocab_parameters"] * t["num_characters"],
    "moe": lambda t: t["dense_parameter_count"] * t["num_experts"],
    "sparsity": lambda t: 6 * t["N_dense"] * t["D1"] + 6 * t["N_active"] * t["D2"],
    "farseer": lambda t: 6 * t["N"] * t["D"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    for task, (name, columns, published) in TASKS.items():
        train, test = (Table.read_csv(asked.data / f"{task}_{part}.csv") for part in ("train", "test"))
        priced = train.select(columns).with_columns(cost=COSTS[task](train))
        law = law_named(name)
        pool = pool_of(law, priced, test.select(columns), measured=True)
        for budget, theirs in published.items():
            begun = time.process_time()
            made = rehearse(pool, np.asarray(test[columns["loss"]], dtype=float), budget)
            seconds = time.process_time() - begun
            rows.append({"task": task, "published": theirs, **vars(made), "cpu_seconds": round(seconds, 1)})
            print(f"{task:<10}{made}; published {theirs:.2f}; {seconds:.1f} CPU s", flush=True)
    if asked.out:
        write_json(asked.out, {**provenance(), "rows": rows})


if __name__ == "__main__":
    main()
