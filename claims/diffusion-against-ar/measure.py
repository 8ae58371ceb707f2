"""What writing 64 tokens behind 64 costs: a masked model without a cache against a cached autoregressive one.

Counted by the models' own formulas, which follow from shapes alone: they are the same for every seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from isoflop.core.registry import get
from isoflop.models.patterns.full import FullPattern

PROMPT, NEW, VOCAB, SEEDS = 64, 64, 1024, (1, 2, 3)


def main(out: str) -> None:
    part: Any = get("model", "transformer")
    model = part(
        d_model=64,
        layers=2,
        mixer={"name": "attention", "heads": 4},
        feed_forward={"name": "swiglu", "hidden": 176},
    )
    length = PROMPT + NEW
    # With a cache every token passes once, and sees those before it: as one causal forward pass over all of them.
    cached = model.work(1, length, VOCAB).forward.flops
    call = model.work(1, length, VOCAB, FullPattern()).forward.flops
    values = {"cost_one_a_call": NEW * call / cached, "cost_eight_a_call": NEW // 8 * call / cached}
    Path(out).write_text(json.dumps({"values": {name: [value] * len(SEEDS) for name, value in values.items()}}))


if __name__ == "__main__":
    main(sys.argv[1])
