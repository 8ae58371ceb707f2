"""What ``isoflop sizes`` chooses, held against training: tokens a second of six shapes of 3M parameters.

Each repeat times the products of the six anew and chooses; then it times training steps of each, optimizer and all. The
shapes take turns within both, forth in one repeat and back in the next.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from isoflop.core.recipe import Recipe
from isoflop.models.product_rates import efficient, time_shapes
from isoflop.models.sizing import shapes_near
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.trial import MadeUp

PARAMETERS, SHAPES, REPEATS, TURNS, WARM, STEPS = 3e6, 6, 3, 5, 2, 9


def tokens_per_second(recipe: Recipe) -> float:
    """Of training steps on made-up ids, in processor seconds: whoever waits for the processor is not slow."""
    run = Run(Path("runs") / ".sizing", recipe.to_json())  # never written to
    loop = assemble(recipe, run, MadeUp(recipe.vocab_size))
    seconds = list[float]()
    for _ in range(WARM + STEPS):
        began = time.process_time()
        loop.train_step()
        seconds.append(time.process_time() - began)
    return recipe.train.batch * recipe.train.length / statistics.median(seconds[WARM:])


def main(out: str) -> None:
    torch.set_num_threads(1)
    asked = Recipe.load("small", "tokenizer.vocab_size=1024", "train.batch=8", "train.length=128")
    model: Any = asked.model
    parts = shapes_near(model, PARAMETERS, asked.vocab_size, SHAPES)
    assert len(parts) == SHAPES
    recipes = {part.d_model: asked.having(model=part) for part in parts}
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    loads = [os.getloadavg()[0]]
    for repeat in range(REPEATS):
        timed = time_shapes(parts, asked.vocab_size, batch=8, length=128, repeats=TURNS)
        chosen = efficient(timed)[0].part.d_model
        order = list(recipes) if repeat % 2 == 0 else list(reversed(recipes))
        trained = {width: tokens_per_second(recipes[width]) for width in order}
        for shape in timed:
            width = shape.part.d_model
            note(f"tokens_products_{width}", shape.tokens_per_second)
            note(f"tokens_trained_{width}", trained[width])
            note(f"rate_{width}", shape.rate)
        note("chosen", chosen)
        note("place", 1 + sum(other > trained[chosen] for other in trained.values()))
        note("share_of_best", trained[chosen] / max(trained.values()))
        note("over_mean", trained[chosen] * SHAPES / sum(trained.values()))
        print(f"repeat {repeat + 1}: {chosen} of { ({w: round(t) for w, t in trained.items()}) }", file=sys.stderr)
    shapes = ", ".join(f"{part.d_model} x {part.layers}" for part in parts)
    loads.append(os.getloadavg()[0])
    notes = [f"shapes, width x layers: {shapes}; load {loads[0]:.1f} before and {loads[1]:.1f} after"]
    axes = {"tokens": {"across": "width", "up": "tokens a second"}}
    Path(out).write_text(json.dumps({"values": values, "axes": axes, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])
