"""Seconds of a recurrent block's forward: by tiles, position by position, and an ordinary block of the same widths.

    python benchmarks/recurrent.py [--smoke] [--repeats 9] [--json benchmarks/results/recurrent.json]

One thread, fp32, without gradient: width 256, 4 heads, batch 8, SwiGLU. ``sequential`` does all that ``tiled`` does,
but attends at each position to all before it, with the quicker of torch's fused attention and two plain products; keys
and values are kept as those read them fastest. Forms take turns; reported are medians of the processor's seconds, and
medians of the turns' ratios. ``traffic`` is what the ledger says is moved between positions, in bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from isoflop.core.context import Context
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.models.kernels import decoding
from isoflop.models.recurrence import RecurrentCache, Steps, recur, traffic
from isoflop.models.transformer import AroundMixer, Block
from optim_step import environment

BATCH, WIDTH, HEADS, HIDDEN = 8, 256, 4, 688


def blocks(length: int) -> dict[str, Block]:
    """A recurrent and an ordinary block, their weights drawn."""
    tokenizer: Any = get("tokenizer", "bytes")()
    ctx = Context(rng=Rng(0), cache=Path(), tokenizer=tokenizer, vocab_size=257, batch=BATCH, length=length)
    made = {}
    for mixer in ("recurrent", "attention"):
        model: Any = get("model", "transformer")(
            d_model=WIDTH,
            layers=1,
            mixer={"name": mixer, "heads": HEADS},
            feed_forward={"name": "swiglu", "hidden": HIDDEN},
        )
        made[mixer] = next(iter(model.build(ctx).blocks))
    return made


def fused(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query of each head over its keys, (batch * heads, 1, d), by torch's fused attention."""
    split = (BATCH, HEADS)
    q, keys, values = (x.unflatten(0, split) for x in (q, keys, values))
    return F.scaled_dot_product_attention(q, keys, values, scale=1.0).flatten(0, 1)


def plain(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same by two products; scores of unit queries and keys need no maximum."""
    weights = torch.bmm(q, keys.transpose(1, 2)).exp_()
    return torch.bmm(weights, values).div_(weights.sum(-1, keepdim=True))


def sequential(x: Tensor, steps: Steps, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Position by position: each one's own key and value stand in its place until its output has given others."""
    q, keys, values = (each.contiguous() for each in steps.opens(x))
    out = torch.empty_like(x)
    for t in range(x.shape[1]):
        at, seen = slice(t, t + 1), slice(t + 1)
        out[:, at] = steps.closes(x[:, at], attend(q[:, at], keys[:, seen], values[:, seen]))
        keys[:, at], values[:, at] = steps.keeps(out[:, at])
    return out


def seconds(act: Callable[[], Any]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


@decoding()
def measure(length: int, repeats: int) -> dict[str, Any]:
    """Medians of one length, and how far the forms are apart."""
    made, x = blocks(length), torch.randn(BATCH, length, WIDTH, generator=torch.Generator().manual_seed(0))
    recurrent, ordinary = made["recurrent"], made["attention"]
    products = recurrent.products()
    steps = recurrent.mixer._steps(AroundMixer(recurrent, products[1]), products[0])
    head = WIDTH // HEADS
    forms: dict[str, Callable[[], Tensor]] = {
        "tiled": lambda: recur(x, steps, RecurrentCache(BATCH, HEADS, length, head, like=x)),
        "sequential, fused": lambda: sequential(x, steps, fused),
        "sequential, plain": lambda: sequential(x, steps, plain),
        "ordinary": lambda: ordinary(x),
    }
    apart = max(float((forms["tiled"]() - forms[f"sequential, {each}"]()).abs().max()) for each in ("fused", "plain"))
    spent: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats + 1):
        for name in sorted(forms, reverse=bool(turn % 2)):
            taken = seconds(forms[name])
            if turn:
                spent[name].append(taken)
    quicker = min(("sequential, fused", "sequential, plain"), key=lambda name: statistics.median(spent[name]))
    spent["sequential"] = spent[quicker]
    ratios = {
        f"{one} / {other}": statistics.median(a / b for a, b in zip(spent[one], spent[other], strict=True))
        for one, other in (("sequential", "tiled"), ("tiled", "ordinary"))
    }
    vectors = {"tiled": traffic(length), "sequential": traffic(length, tiled=False)}
    return {
        "seconds": {name: statistics.median(times) for name, times in spent.items()},
        **ratios,
        "apart": apart,
        "traffic": {name: 4 * BATCH * WIDTH * count for name, count in vectors.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="short lengths, one repeat")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lengths, repeats = ([16], 1) if args.smoke else (args.lengths, args.repeats)
    found = {"environment": environment(), "repeats": repeats}
    found["lengths"] = {str(length): measure(length, repeats) for length in lengths}
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
