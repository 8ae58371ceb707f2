"""The five orders on 9x9 with 6M parameters in ten minutes of one GPU, puzzles included; ``--scale gpu`` takes hours.

    python claims/mdm-order/ten_minutes.py found.json

Three seeds train for a minute each, whatever number of steps that is; 640 puzzles are dug for them, each in 100 forms
(digits renamed, lines and bands moved), and 100 easy and 100 hard ones are held out, hard being those on which a search
has to branch. The published rates stand beside what is found. It is no run of the claim, whose bars are of 6x6.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from measure import ORDERS, SCALES, SEEDS, minus, rates, recipe_of

from isoflop.store.environment import environment
from isoflop.train.restore import restore
from isoflop.train.run import train

FORMS, HELD_OUT = 100, 100
PUBLISHED = {"random": (0.0688, 0.0362), "top": (0.1851, 0.0944), "margin": (0.8949, 0.4988)}
"""Kim et al. 2025, arXiv 2502.06768: Sudoku and hard Sudoku."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each seed")
    parser.add_argument("--size", type=int, default=9, choices=(4, 6, 9))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--examples", type=int, default=64_000)
    parser.add_argument("--root", default="runs/mdm-order-ten-minutes")
    given = parser.parse_args()
    own = {"size": given.size, "device": given.device, "examples": given.examples}
    changes = [f"source.variants={FORMS}", f"source.heldout={HELD_OUT}", "optimizer.lr=0.001"]
    changes += ["schedule=constant", f"budget={{seconds={given.seconds}}}"]
    table: dict[str, dict[str, list[float]]] = {order: {} for order in ORDERS}
    steps = []
    for seed in SEEDS:
        recipe = recipe_of({**SCALES["gpu"], **own}, seed, {"steps": 1}).with_(*changes)
        run = train(recipe, Path(given.root))
        steps.append(run.status.step)
        session = restore(run)
        for order, decoder in ORDERS.items():
            for level, rate in rates(session, decoder, HELD_OUT).items():
                table[order].setdefault(level, []).append(rate)
        print(seed, steps[-1], {order: levels["easy"][-1] for order, levels in table.items()}, flush=True)
    for order, levels in table.items():
        ours = ", ".join(f"{level} {statistics.mean(found):.1%}" for level, found in levels.items())
        theirs = ", ".join(f"{rate:.2%}" for rate in PUBLISHED.get(order, ()))
        print(f"{order}: {ours}" + (f" (published: {theirs})" if theirs else ""))
    difference = minus(table["margin"]["easy"], table["random"]["easy"])
    found = {"steps": steps, "solved": table, "margin_over_random": difference, "environment": environment()}
    given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
