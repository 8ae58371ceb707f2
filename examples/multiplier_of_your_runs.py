"""How much more compute would your baseline have needed? From a table of runs made anywhere, with no isoflop run.

    python examples/multiplier_of_your_runs.py

Per seed, the baseline's ladder of budgets is inverted at the quality that the method reached; beyond the ladder there
is only a bound. The interval is Student's t over paired seeds, and includes how wrong the curve between budgets may be.
"""

from isoflop import Table
from isoflop.lab.multiplier import estimate, interpolation_error, reach

BASELINE = Table(  # three seeds, each run in full at four budgets
    {
        "seed": [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3],
        "flops": [1e12, 2e12, 4e12, 8e12] * 3,
        "loss": [3.10, 2.80, 2.56, 2.37, 3.07, 2.81, 2.55, 2.38, 3.12, 2.82, 2.58, 2.37],
    }
)
METHOD = {1: (1.1e12, 2.71), 2: (1.1e12, 2.69), 3: (1.1e12, 2.72)}  # seed -> FLOPs spent, loss reached


def main() -> None:
    multipliers, ladders = [], []
    for (seed,), ladder in BASELINE.groups("seed"):
        spent, reached = METHOD[seed]
        needed, censored = reach(ladder["flops"], ladder["loss"], reached)
        assert not censored, "outside the baseline's ladder: only a bound could be given"
        multipliers.append(needed / spent)
        ladders.append((ladder["flops"], ladder["loss"]))
    found = estimate(multipliers, error=interpolation_error(ladders))
    interval = f"[{found.low:.2f}, {found.high:.2f}] at 95 %"
    print(f"the baseline needs {found.value:.2f}x the compute {interval}, p = {found.p:.2g}")


if __name__ == "__main__":
    main()
