"""Tokens a second of filling in: ours beside LLaDA's published loop, unequal lengths batched or one by one, and caches.

    python benchmarks/diffusion_decode.py [--repeats 3] [--json benchmarks/results/diffusion_decode.json]
    python benchmarks/diffusion_decode.py --peer LLaDA/generate.py

One thread, one process, CPU seconds; the same model, greedy, blocks and steps alike, so the tokens must be equal. The
loop beside ours is restated here from Nie et al. 2025 (arXiv 2502.09992, algorithm 5) for many prompts of one length:
it recomputes the confidence of every position, and draws no noise at temperature 0. What batching gains depends on the
model's size (``SIZES``): a small one spends its time between products, a large one in them, whose vectors cost the same
side by side. With ``--peer`` the file that the
authors publish takes its place (prompt by prompt, where it takes one only). Sides take turns and medians are compared.
Beside speed stands the solve rate on Sudoku 4x4 of a model that is trained here for a minute, also with caches that are
approximate (``keep``), and what these save.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from isoflop.core.context import Context
from isoflop.core.contracts import Filling
from isoflop.core.files import write_json
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.decode.decoders.top_probability import TopProbabilityPart
from isoflop.decode.unmask import Unmask
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.patterns.blocks import BlocksPattern
from isoflop.models.patterns.full import FullPattern
from isoflop.store.environment import environment
from isoflop.store.run import Run
from isoflop.train.build import assemble

ROWS, NEW, BLOCK, STEPS = 16, 64, 32, 16
"""Rows of a batch, new tokens, tokens of a block, calls for each block."""
SIZES = {"0.04M": (32, 2), "0.18M": (64, 3), "0.87M": (128, 4)}
"""Width and layers of the models; the second is that of the puzzles below, the last that of all other timings."""
GATED, GATE = ("0.04M", "0.18M"), 3.0
"""Sizes at which batched decoding of unequal lengths, with nothing kept, is to be so many times one-by-one decoding."""


@torch.no_grad()
def llada(model: Any, prompts: Tensor, new: int, block: int, steps: int, mask: int) -> Tensor:
    """The published loop at temperature 0 with low-confidence remasking; (rows, prompt + new) ids."""
    x = torch.cat((prompts, prompts.new_full((len(prompts), new), mask)), 1)
    start = prompts.shape[1]
    for first in range(start, start + new, block):
        hidden = (x[:, first : first + block] == mask).sum(1)
        counts = hidden[:, None] // steps + (torch.arange(steps) < (hidden % steps)[:, None]).long()
        for step in range(steps):
            logits = model(x, FullPattern())
            logits[..., mask] = -torch.inf
            guess = logits.argmax(-1)
            sure = torch.softmax(logits.double(), -1).gather(-1, guess[..., None]).squeeze(-1)
            sure[:, first + block :] = -torch.inf
            sure = torch.where(x == mask, sure, -torch.inf)
            for row in range(len(x)):
                chosen = sure[row].topk(int(counts[row, step])).indices
                x[row, chosen] = guess[row, chosen]
    return x


def model_of(vocab: int, size: str = "0.87M") -> Any:
    """A random Transformer."""
    width, layers = SIZES[size]
    part = TransformerPart(d_model=width, layers=layers, mixer=get("mixer", "attention")(heads=4))  # type: ignore[arg-type]
    tokenizer: Any = get("tokenizer", "bytes")()
    return part.build(Context(Rng(0), Path(tempfile.gettempdir()), tokenizer, vocab, batch=1, length=256)).eval()


def medians(sides: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """CPU seconds of each side, in turns, and what each gave."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    given = {name: side() for name, side in sides.items()}  # untimed
    for _ in range(repeats):
        for name, side in sides.items():
            began = time.process_time()
            side()
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}, given


def peer(path: Path, model: Any, prompts: Tensor, mask: int) -> list[list[int]]:
    """What the published file writes."""
    spec = importlib.util.spec_from_file_location("llada_generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Theirs:
        device = torch.device("cpu")

        def __call__(self, x: Tensor, **unused: Any) -> Any:
            return SimpleNamespace(logits=model(x, FullPattern()).index_fill(-1, torch.tensor([mask]), -torch.inf))

    many = "attention_mask" in inspect.signature(module.generate).parameters
    given = [prompts] if many else prompts[:, None]
    settings = {"steps": STEPS * NEW // BLOCK, "gen_length": NEW, "block_length": BLOCK, "mask_id": mask}
    return [row for some in given for row in module.generate(Theirs(), some, **settings).tolist()]


def unequal(repeats: int, prompts: list[list[int]], model: Any, filling: Filling, **fields: Any) -> dict[str, Any]:
    """Prompts of unequal lengths, side by side and one by one."""

    def decoder(batch: int) -> Unmask:
        return Unmask(TopProbabilityPart(block=BLOCK, steps=STEPS, batch=batch, **fields), filling)

    both = {
        "batched": lambda: decoder(ROWS).generate(model, prompts, NEW, Rng(0)),
        "one by one": lambda: decoder(1).generate(model, prompts, NEW, Rng(0)),
    }
    seconds, found = medians(both, repeats)
    return {
        "tokens_per_second": {name: ROWS * NEW / value for name, value in seconds.items()},
        "batched_over_one_by_one": seconds["one by one"] / seconds["batched"],
        "equal_samples": sum(a == b for a, b in zip(found["batched"], found["one by one"], strict=True)) / ROWS,
    }


def speeds(repeats: int, path: Path | None) -> dict[str, Any]:
    """Ours beside the published loop, and unequal lengths."""
    vocab, mask = 258, 257
    model, filling = model_of(vocab), Filling(mask=mask, ids=mask, pattern=FullPattern())
    drawn = torch.randint(0, 256, (ROWS, 32), generator=torch.Generator().manual_seed(0))
    prompts = drawn.tolist()

    def ours(**fields: Any) -> list[list[int]]:
        decoder = Unmask(TopProbabilityPart(block=BLOCK, steps=STEPS, batch=ROWS, **fields), filling)
        return [[*p, *ids] for p, ids in zip(prompts, decoder.generate(model, prompts, NEW, Rng(0)), strict=True)]

    sides = {
        "ours": ours,
        "ours, keep before": lambda: ours(keep="before"),
        "ours, keep around": lambda: ours(keep="around"),
        "llada": lambda: llada(model, drawn, NEW, BLOCK, STEPS, mask).tolist(),
    }
    if path is not None:
        sides["llada, its file"] = lambda: peer(path, model, drawn, mask)
    seconds, given = medians(sides, repeats)
    mixed = [row[: 8 + 3 * i % 25] for i, row in enumerate(prompts)]
    blocks = Filling(mask=mask, ids=mask, pattern=BlocksPattern(size=BLOCK), block=BLOCK)
    return {
        "tokens_per_second": {name: ROWS * NEW / value for name, value in seconds.items()},
        "ours_over_llada": {name: seconds["llada"] / value for name, value in seconds.items()},
        "equal_tokens": {name: ids == given["llada"] for name, ids in given.items()},
        "unequal_lengths": {
            "nothing kept": unequal(repeats, mixed, model, filling),
            "keep before": unequal(repeats, mixed, model, filling, keep="before"),
            "keep around": unequal(repeats, mixed, model, filling, keep="around"),
            "a model of blocks, kept exactly": unequal(repeats, mixed, model, blocks),
        },
        "unequal_lengths_by_size": {size: unequal(repeats, mixed, model_of(vocab, size), filling) for size in SIZES},
    }


def solve_rates(steps: int, puzzles: int) -> dict[str, Any]:
    """Of both loops with one model, one cell a call: Sudoku in place has no prompt of one length, so "after"."""
    task = {"name": "sudoku", "size": 4, "layout": "after"}
    recipe = Recipe.from_json(
        {
            "source": {"name": "task", "task": task, "examples": 8000, "variants": 4, "heldout": puzzles},
            "tokenizer": {"name": "symbols", "symbols": "01234"},
            "model": {
                "name": "transformer",
                "d_model": 64,
                "layers": 3,
                "mixer": {"name": "attention", "heads": 4},
                "positions": 32,
            },
            "objective": "masked",
            "optimizer": {"name": "adamw", "lr": 0.003},
            "budget": {"steps": steps},
            "train": {"batch": 64, "length": 32},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        loop = assemble(recipe, Run.open(folder, recipe))
        for _ in range(steps):
            loop.train_step()
        level, filling = loop.parts.source.heldout()["easy"], recipe.objective.filling(recipe.vocab_size)
    assert filling is not None
    model = loop.parts.model
    prompts = [[token for token in row if token is not None] for row in level.templates()]  # type: ignore[attr-defined]

    def solved(found: list[list[int]]) -> float:
        texts = [puzzle.filled([level.tokenizer.decode(ids)]) for puzzle, ids in zip(level.puzzles, found, strict=True)]  # type: ignore[attr-defined]
        return sum(level.task.right(p, t) for p, t in zip(level.puzzles, texts, strict=True)) / len(texts)  # type: ignore[attr-defined]

    whole = Unmask(TopProbabilityPart(batch=100), filling).generate(model, prompts, 16, Rng(0))
    theirs = llada(model, torch.tensor(prompts), 16, 16, 16, filling.mask)[:, 16:].tolist()
    kept = []
    for block, per_call, keep in itertools.product((4, 8), (1, 2), (None, "before", "around")):
        decoder = Unmask(TopProbabilityPart(batch=100, block=block, per_call=per_call, keep=keep), filling)
        began = time.process_time()
        found = list(decoder.complete(model, prompts, 16, Rng(0)))
        seconds = time.process_time() - began
        plain = [each.ids for each in found] if keep is None else plain  # noqa: F821
        tokens = [a == b for one, two in zip(plain, found, strict=True) for a, b in zip(one, two.ids, strict=True)]
        row = {
            "block": block,
            "per_call": per_call,
            "keep": keep or "nothing",
            "solved": solved([f.ids for f in found]),
        }
        row |= {"tokens_per_second": 16 * len(prompts) / seconds, "equal_tokens": sum(tokens) / len(tokens)}
        kept.append({**row, "mflops_a_token": sum(f.cost.flops for f in found) / len(tokens) / 1e6})
    return {"steps": steps, "puzzles": len(prompts), "ours": solved(whole), "llada": solved(theirs), "kept": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="of the small Sudoku model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", type=Path, help="generate.py of LLaDA's authors")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = {"environment": environment(), **speeds(given.repeats, given.peer)}
    print(json.dumps({name: value for name, value in result.items() if name != "environment"}, indent=1), flush=True)
    result["solved"] = solve_rates(given.steps, 100)
    print(json.dumps(result["solved"], indent=1))
    if given.json:
        write_json(given.json, result)
    assert result["equal_tokens"]["ours"], "the two loops write other tokens"
    for size in GATED:
        ratio = result["unequal_lengths_by_size"][size]["batched_over_one_by_one"]
        assert ratio >= GATE, f"{size}: {ratio:.2f}, below {GATE}"


if __name__ == "__main__":
    main()
