"""MatFormer: four nested widths against four models trained apart at equal total FLOPs, mixed widths, and drafts.

``python measure.py OUT [--scale gpu]`` trains below ``runs``. For each seed: one nested model, whose every step draws a
width, and for each width a model of its own for a quarter of the steps, so that both spend the same. Rates are searched
on a seed of its own, the nested model's by the mean over its widths. Sub-models are cut out by ``slice``, as
``isoflop compress RUN --with '{name = "slice", ...}' --name SMALL`` does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.compress.transforms.slice import SlicePart
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.decode.decoders.sample import Sample
from isoflop.decode.decoders.speculative import Speculative
from isoflop.pipelines.compressed_runs import compress_to_run
from isoflop.store.run import Run
from isoflop.train.restore import restore, trained
from isoflop.train.run import train

SEEDS, TUNING, RATES, ROOT = (1, 2, 3), 101, (0.008, 0.016, 0.032, 0.064), Path("runs")
WIDTHS = (22, 44, 88, 176)
PROMPTS, PROMPT, NEW, AHEAD = 48, 32, 48, 4
SCALES: dict[str, dict[str, Any]] = {
    "cpu": {"width": 64, "layers": 2, "steps": 800, "factor": 1, "train": {"batch": 8, "length": 128}},
    "gpu": {
        "width": 512,
        "layers": 8,
        "steps": 16_000,
        "factor": 8,
        "train": {"batch": 64, "length": 512, "device": "cuda"},
    },
}


def recipe_of(scale: dict[str, Any], seed: int, rate: float, width: int | None) -> Recipe:
    """The nested model, or with ``width`` the plain one of that width, for its share of the steps."""
    widths = [each * scale["factor"] for each in WIDTHS]
    plain = {"name": "swiglu", "hidden": (width or 0) * scale["factor"]}
    heads = {"name": "attention", "heads": max(4, scale["width"] // 64)}
    return Recipe.from_json(
        {
            "name": f"matformer-{width or 'nested'}",
            "seed": seed,
            "source": {"name": "stdlib", "heldout_bytes": 65536},
            "tokenizer": {"name": "bpe", "vocab_size": 1024},
            "model": {
                "name": "transformer",
                "d_model": scale["width"],
                "layers": scale["layers"],
                "mixer": heads,
                "feed_forward": plain if width else {"name": "nested", "widths": widths},
            },
            "optimizer": {"name": "adamw", "lr": rate},
            "schedule": "cosine",
            "budget": {"steps": scale["steps"] // (len(WIDTHS) if width else 1)},
            "train": {**scale["train"], "evaluations": 1},
        }
    )


def value_of(run: Run) -> float:
    return float(run.result["value"])


def cut(run: Run, scale: dict[str, Any], widths: tuple[int, ...]) -> tuple[str, float]:
    """The run of a nested model's cut to these widths, one for each layer or one for all, and its bits per byte."""
    name = "-".join([run.path.name, *map(str, widths)])
    sizes = tuple(width * scale["factor"] for width in widths)
    part = SlicePart(hidden_widths=sizes[0] if len(sizes) == 1 else sizes)
    made = compress_to_run(run, [part], ROOT, name)
    assert made.after is not None
    return name, made.after


def mixes(layers: int) -> list[tuple[int, ...]]:
    """Widths of the layers, ascending from one model to the next: later layers grow first."""
    found = [(WIDTHS[0],) * layers]
    for wider in WIDTHS[1:]:
        for layer in range(layers - 1, -1, -1):
            found.append((*found[-1][:layer], wider, *found[-1][layer + 1 :]))
    return found


def acceptance(model: Any, draft: Any, prompts: list[list[int]]) -> float:
    """Share of drafted tokens that the model accepts."""
    decoder = Speculative(draft, AHEAD, law=Sample(), batch=16)
    found = list(decoder.complete(model, prompts, NEW, Rng(0)))
    return float(np.mean([each.figures["acceptance"] for each in found]))


def prompts_of(run: Run) -> list[list[int]]:
    """Pieces of the held-out text."""
    held_out = restore(run, device="cpu").parts.source.heldout()
    pieces = [row for text in held_out.values() for batch in text.windows(PROMPT, 64) for row in batch.inputs.tolist()]
    return pieces[:: max(1, len(pieces) // PROMPTS)][:PROMPTS]


def searched(scale: dict[str, Any]) -> dict[int | None, float]:
    """The best rate of the nested model (None) and of each width's own."""
    found: dict[int | None, float] = {}
    for width in (None, *WIDTHS):
        values = []
        for rate in RATES:
            run = train(recipe_of(scale, TUNING, rate, width), ROOT)
            each = [value_of(run)] if width else [cut(run, scale, (w,))[1] for w in WIDTHS]
            values.append(float(np.mean(each)))
        found[width] = RATES[int(np.argmin(values))]
        print(f"rates of {width or 'nested'}: {dict(zip(RATES, values, strict=True))}", file=sys.stderr)
    return found


def main(out: str, scale: dict[str, Any]) -> None:
    rates, values = searched(scale), dict[str, list[float]]()

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    for seed in SEEDS:
        nested = train(recipe_of(scale, seed, rates[None], None), ROOT)
        apart = {width: train(recipe_of(scale, seed, rates[width], width), ROOT) for width in WIDTHS}
        for width in WIDTHS:
            bits = cut(nested, scale, (width,))[1]
            note(f"bits_nested_{width}", bits)
            note(f"bits_apart_{width}", value_of(apart[width]))
            note(f"gap_{width}", bits - value_of(apart[width]))
        chain = [cut(nested, scale, widths)[1] for widths in mixes(scale["layers"])]
        note("mix_rise", max(later - earlier for earlier, later in itertools.pairwise(chain)))
        whole, narrow = trained(nested, device="cpu").model, trained(apart[44], device="cpu").model
        prompts = prompts_of(nested)
        note("acceptance_nested", acceptance(whole, 0.25, prompts))
        note("acceptance_apart", acceptance(whole, narrow, prompts))
        note("acceptance_gain", values["acceptance_nested"][-1] - values["acceptance_apart"][-1])
        spent = sum(run.result["flops"] for run in apart.values())
        note("flops_nested_over_apart", nested.result["flops"] / spent)
        print(f"seed {seed}: { ({k: round(v[-1], 4) for k, v in values.items()}) }", file=sys.stderr)
    notes = [f"rate of {width or 'nested'}: {rate}" for width, rate in rates.items()]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    given = parser.parse_args()
    main(given.out, SCALES[given.scale])
