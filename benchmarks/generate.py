"""Tokens a second of generation: ours beside transformers' ``generate``, with the same Llama.

    python benchmarks/generate.py [--shape demo middle large] [--repeats 7] [--json benchmarks/results/generate.json]

One thread, one process, CPU seconds. Both sides hold the same weights, prepared before (ours laid out, the peer's
cast), and write the same number of new tokens, greedily, from the same prompts; in fp32 the tokens must be equal.
transformers has its quicker one of two caches, the dynamic and the static. After a first, untimed turn of each side
(its seconds are kept as the warm-up, ours with the laying out), all take turns, and medians are compared. Beside them
stands the bound of memory: bytes of all weights that a step reads over the rate at which this machine sums a tensor of
as many bytes. Run it where transformers is installed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from isoflop.core.context import Context
from isoflop.core.files import write_json
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.decode.decoders.sample import Sample
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.hf.export import Ids, export
from isoflop.store.environment import environment

PROMPT, NEW = 16, 128
GATES = {1: 1.5, 8: 1.25}
"""Least ratio of our tokens a second to the peer's on the middle shape, by batch."""


@dataclass(frozen=True)
class Shape:
    """A Llama."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocab: int
    tied: bool


SHAPES = {
    "demo": Shape(2, 64, 4, 4, 176, 1024, False),
    "middle": Shape(6, 384, 6, 6, 1024, 8192, True),
    "large": Shape(30, 576, 9, 3, 1536, 49152, True),
}


def architecture(shape: Shape) -> TransformerPart:
    return TransformerPart.model_validate(
        {
            "d_model": shape.width,
            "layers": shape.layers,
            "mixer": {"name": "attention", "heads": shape.heads, "kv_heads": shape.kv_heads},
            "feed_forward": {"name": "swiglu", "hidden": shape.hidden},
            "tied": shape.tied,
            "embedding_scale": 1.0,
        }
    )


def ours(shape: Shape, precision: str) -> Any:
    ctx = Context(
        rng=Rng(0),
        cache=Path(),
        tokenizer=get("tokenizer", "bytes")(),  # type: ignore[arg-type]
        vocab_size=shape.vocab,
        batch=1,
        length=PROMPT + NEW,
        precision=precision,
    )
    return architecture(shape).build(ctx).requires_grad_(False)


def llama(shape: Shape, precision: str, weights: dict[str, torch.Tensor]) -> Any:
    """transformers' model with our weights."""
    from transformers import LlamaForCausalLM

    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "llama"
        export(architecture(shape), weights, directory, context=PROMPT + NEW, ids=Ids(), identity="benchmark")
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        return LlamaForCausalLM.from_pretrained(directory, dtype=kind).eval()


def sides(shape: Shape, precision: str, batch: int) -> dict[str, Callable[[], list[list[int]]]]:
    """Each side's way from the prompts to the new tokens."""
    model = ours(shape, precision)
    peer = llama(shape, precision, model.state_dict())
    prompts = torch.randint(shape.vocab, (batch, PROMPT), generator=torch.Generator().manual_seed(batch))
    mask, decoder = torch.ones_like(prompts), Sample(temperature=0)
    ready = functools.cache(model.prepared)  # at the first turn

    def theirs(cache: str | None) -> list[list[int]]:
        out = peer.generate(
            prompts,
            attention_mask=mask,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            cache_implementation=cache,
            disable_compile=True,
        )
        return out[:, PROMPT:].tolist()  # type: ignore[no-any-return]

    return {
        "ours": lambda: decoder.generate(ready(batch), prompts.tolist(), NEW, Rng(0)),
        "ours int8": lambda: decoder.generate(ready(batch, "int8"), prompts.tolist(), NEW, Rng(0)),
        "transformers dynamic": lambda: theirs("dynamic"),
        "transformers static": lambda: theirs("static"),
    }


def bandwidth(size: int) -> float:
    """Bytes a second at which this thread sums ``size`` bytes of fp32, the best of seven."""
    x = torch.ones(size // 4)
    times = []
    for _ in range(7):
        start = time.process_time()
        x.sum()
        times.append(time.process_time() - start)
    return size / min(times)


def measure(shape: Shape, precision: str, batch: int, repeats: int) -> dict[str, Any]:
    """Tokens a second of each side, the ratio to the peer's quicker cache, and the memory's bound."""
    warm, times, written = {}, {}, {}
    runs = sides(shape, precision, batch)
    for name, run in runs.items():
        start = time.process_time()
        written[name] = run()
        warm[name], times[name] = time.process_time() - start, list[float]()
        assert [len(row) for row in written[name]] == [NEW] * batch
    if precision == "fp32":
        assert written["ours"] == written["transformers dynamic"], "the two sides write different tokens"
    for turn in range(repeats):
        for name in list(runs) if turn % 2 else reversed(runs):
            start = time.process_time()
            runs[name]()
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(found) for name, found in times.items()}
    peer = min((name for name in medians if name.startswith("transformers")), key=medians.__getitem__)
    numbers = sum(p.numel() for p in ours(shape, precision).parameters()) - (not shape.tied) * shape.vocab * shape.width
    read = numbers * (2 if precision == "bf16" else 4)
    bound = NEW * read / bandwidth(read)
    return {
        "precision": precision,
        "batch": batch,
        "tokens_per_second": {name: batch * NEW / seconds for name, seconds in medians.items()},
        "warm_up_seconds": warm,
        "spread": {name: max(found) / min(found) for name, found in times.items()},
        "peer": peer,
        "ratio": medians[peer] / medians["ours"],
        "ratio_int8": medians[peer] / medians["ours int8"],
        "share_of_memory_bound": bound / medians["ours"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, load = [], os.getloadavg()[0]
    for name in arguments.shape:
        for precision in arguments.precision:
            for batch in arguments.batch:
                row = {"shape": name, **measure(SHAPES[name], precision, batch, arguments.repeats)}
                rows.append(row)
                rate = {side.removeprefix("transformers "): round(x) for side, x in row["tokens_per_second"].items()}
                gate = f"  gate {GATES[batch]}x" if name == "middle" and batch in GATES else ""
                print(
                    f"{name:7} {precision} B={batch}: {row['ratio']:.2f}x (int8 {row['ratio_int8']:.2f}x) "
                    f"{rate} tokens/s, warm-up {max(row['warm_up_seconds'].values()):.1f} s, "
                    f"{row['share_of_memory_bound']:.0%} of the memory's bound{gate}",
                    flush=True,
                )
    if arguments.json:
        from importlib.metadata import version

        result = {
            "environment": {**environment(), "transformers": version("transformers")},
            "load_before": load,
            "load_after": os.getloadavg()[0],
            "prompt": PROMPT,
            "new": NEW,
            "shapes": {name: asdict(shape) for name, shape in SHAPES.items()},
            "rows": rows,
        }
        write_json(arguments.json, json.loads(json.dumps(result, default=str)))


if __name__ == "__main__":
    main()
