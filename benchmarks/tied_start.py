"""How an embedding that is the head as well should start: candidates, each at its own best rate, widths and lengths.

    python benchmarks/tied_start.py [--widths 64 128 256] [--steps 100 400] [--seeds 1] [--candidates NAME ...]

The embedding's entries have standard deviation ``std``; vectors are multiplied by ``enter`` where they enter the
stream and by ``leave`` before the head; the last norm's gain starts at ``gain``. At the start a token's own logit is
then about std^2 width enter leave gain / rms(stream), the other logits' standard deviation std sqrt(width) leave gain.
Gains of alternating signs cancel the own logit to order 1 and leave everything else as large as it was. Adam's steps
have a size of their own, so that two candidates of the same function learn differently where ``std`` differs.

Rates are tuned with one seed: from the best rate of the width before, by factors of 2, until the best one has a worse
neighbour on both sides; other seeds then train at that rate. Compared are the means over all seeds at that rate. One
process, one thread, about an hour; runs that are done are read from ``--root``. The results go to
``results/tied_start.json``, where they replace those of the same candidate, width and length.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from isoflop.core.context import Context
from isoflop.core.errors import NumericsError
from isoflop.core.files import write_json
from isoflop.core.recipe import Recipe
from isoflop.core.registry import Card, part
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.layers import RmsNorm
from isoflop.models.transformer import Transformer
from isoflop.store.environment import environment
from isoflop.store.run import Run
from isoflop.train.run import train

RESULTS = Path(__file__).parent / "results" / "tied_start.json"
VOCAB, TUNING_SEED = 2048, 101
FIRST_RATE = 0.016
SETTINGS = (
    "source.heldout_bytes=32768",
    f"tokenizer.vocab_size={VOCAB}",
    "train.batch=4",
    "train.length=64",
    "train.evaluations=1",
    "train.keep=1",
    "model=tied_start",
)


class ScaledNorm(RmsNorm):
    """A norm whose output is multiplied by a constant."""

    factor = 1.0

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return super().forward(x, dtype) * self.factor


@part
class TiedStartPart(TransformerPart):
    """A tied Transformer with every scale of its embedding open."""

    name: ClassVar[str] = "tied_start"
    card = Card(summary="A tied Transformer whose scales are given: what the benchmark compares")

    tied: bool = True
    """Whether the embedding is the head; an untied head has the standard deviation width^-1/2."""
    embedding_std: PositiveFloat = 1.0
    """Standard deviation of the embedding's initial entries."""
    embedding_scale: PositiveFloat = 1.0
    """Factor on vectors that enter the stream."""
    logit_scale: PositiveFloat = 1.0
    """Factor on vectors before the head."""
    norm_gain: PositiveFloat = 1.0
    """Initial gain of the last norm."""
    alternate: bool = False
    """Whether every second of these gains starts negative."""

    def current_version(self) -> int:
        return 1  # all that the architecture's version could change is given by the fields

    @torch.no_grad()
    def build(self, ctx: Context) -> Transformer:
        model = super().build(ctx)
        model.scale = self.embedding_scale
        model.embedding.weight.mul_(self.embedding_std / model.embedding.std)
        norm = ScaledNorm(self.d_model, self.norm_eps)
        norm.factor = self.logit_scale
        norm.weight.fill_(self.norm_gain)
        if self.alternate:
            norm.weight[1::2].neg_()
        model.norm = norm
        return model


@dataclass(frozen=True)
class Candidate:
    """A way to scale an embedding: four numbers for a width, and two choices."""

    says: str
    std: Callable[[int], float]
    enter: Callable[[int], float] = lambda width: 1.0
    leave: Callable[[int], float] = lambda width: 1.0
    gain: Callable[[int], float] = lambda width: 1.0
    alternate: bool = False
    tied: bool = True

    def overrides(self, width: int) -> list[str]:
        return [
            f"model.embedding_std={self.std(width)!r}",
            f"model.embedding_scale={self.enter(width)!r}",
            f"model.logit_scale={self.leave(width)!r}",
            f"model.norm_gain={self.gain(width)!r}",
            f"model.alternate={str(self.alternate).lower()}",
            f"model.tied={str(self.tied).lower()}",
        ]


def root(width: int) -> float:
    return math.sqrt(width)


def small(width: int) -> float:
    return 1 / math.sqrt(width)


def half(width: int) -> float:
    """The gain with which a token's own logit is at most half of ln V: all other tokens together outweigh it."""
    return min(1.0, math.log(VOCAB) / 2 / math.sqrt(width))


CANDIDATES = {
    "root in": Candidate("std width^-1/2, times width^1/2 on entering (Gemma, T5)", std=small, enter=root),
    "none": Candidate("std width^-1/2, no factor (Llama's code with this std)", std=small),
    "none .02": Candidate("std .02, no factor (GPT-2, Llama, Qwen)", std=lambda width: 0.02),
    "root in, root out": Candidate("as root in, logits over width^1/2", std=small, enter=root, leave=small),
    "root in, gain": Candidate("as root in, last gain starts at width^-1/2", std=small, enter=root, gain=small),
    "root in, half": Candidate(
        "as root in, own logit starts at ln(V) / 2 by the last gain", std=small, enter=root, gain=half
    ),
    "root in, signs": Candidate(
        "as root in, every second last gain starts at -1", std=small, enter=root, alternate=True
    ),
    "width out": Candidate("std 1, logits over width (mu-parametrisation)", std=lambda w: 1.0, leave=lambda w: 1 / w),
    "untied": Candidate("a head of its own, for orientation", std=lambda w: 1.0, tied=False),
}


@dataclass(frozen=True)
class Row:
    """One run; ``early_loss`` is that of the first step that was recorded, in nats, ``fingerprint`` its text's."""

    candidate: str
    width: int
    steps: int
    rate: float
    seed: int
    hash: str
    fingerprint: str
    bits_per_byte: float | None
    early_loss: float
    flops: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/tied_start"))
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(given.out)
    for width in given.widths:
        for steps in given.steps:
            for candidate in given.candidates:
                tuning = tuned(given.root, candidate, width, steps, starting_rate(rows, candidate, steps))
                rate = min(tuning, key=score).rate
                rows = [row for row in rows if (row.candidate, row.width, row.steps) != (candidate, width, steps)]
                rows += tuning + [trained(given.root, candidate, width, steps, rate, seed) for seed in given.seeds]
                write(given.out, rows)
                print(line(summary(rows)[-1]), flush=True)


def starting_rate(rows: list[Row], candidate: str, steps: int) -> float:
    """The rate to climb from: the best of the nearest setting that is done."""
    done = [each for each in summary(rows) if each["candidate"] == candidate]
    alike = [each for each in done if each["steps"] == steps] or done
    return float(alike[-1]["rate"]) if alike else FIRST_RATE


def tuned(root: Path, candidate: str, width: int, steps: int, start: float) -> list[Row]:
    """Runs of the tuning seed at rates around the best one, climbing to it from ``start``."""
    tried: dict[float, Row] = {}

    def value(rate: float) -> float:
        if rate not in tried:
            tried[rate] = trained(root, candidate, width, steps, rate, TUNING_SEED)
        return score(tried[rate])

    best = start
    while True:
        better = [rate for rate in (best / 2, best * 2) if value(rate) < value(best)]
        if not better:
            return list(tried.values())
        best = min(better, key=value)


def score(row: Row) -> float:
    return math.inf if row.bits_per_byte is None else row.bits_per_byte


def trained(root: Path, candidate: str, width: int, steps: int, rate: float, seed: int) -> Row:
    recipe = Recipe.load(
        "small",
        *SETTINGS,
        f"model.d_model={width}",
        f"model.mixer.heads={width // 16}",
        *CANDIDATES[candidate].overrides(width),
        f"optimizer.lr={rate}",
        f"budget.steps={steps}",
        f"seed={seed}",
        "name=tied",
    )
    try:
        run = train(recipe, root, threads=1)
    except NumericsError:  # diverged: it ranks last
        run = Run.open(root, recipe)
    result = run.result
    return Row(
        candidate,
        width,
        steps,
        rate,
        seed,
        recipe.hash,
        result["fingerprint"],
        result.get("value"),
        run.metrics("step")[0]["loss"],
        result["flops"],
        result["seconds"],
    )


def summary(rows: list[Row]) -> list[dict[str, Any]]:
    """Each candidate, width and length at its best rate: mean and half range over the seeds."""
    found = []
    for candidate, width, steps in dict.fromkeys((row.candidate, row.width, row.steps) for row in rows):
        here = [row for row in rows if (row.candidate, row.width, row.steps) == (candidate, width, steps)]
        best = min((row for row in here if row.seed == TUNING_SEED), key=score)
        values = [score(row) for row in here if row.rate == best.rate]
        found.append(
            {
                "candidate": candidate,
                "width": width,
                "steps": steps,
                "rate": best.rate,
                "bits_per_byte": statistics.mean(values),
                "half_range": (max(values) - min(values)) / 2,
                "early_loss_above_uniform": best.early_loss - math.log(VOCAB),
            }
        )
    return found


def line(each: dict[str, Any]) -> str:
    return (
        f"{each['width']:>5} {each['steps']:>5}  {each['candidate']:<18} {each['rate']:<7} "
        f"{each['bits_per_byte']:.4f} +- {each['half_range']:.4f}  early {each['early_loss_above_uniform']:+.3f}"
    )


def read(path: Path) -> list[Row]:
    return [Row(**each) for each in json.loads(path.read_text())["runs"]] if path.exists() else []


def write(path: Path, rows: list[Row]) -> None:
    here = environment(threads=1)
    keep = ("commit", "dirty", "torch", "machine", "cpu", "threads")
    write_json(
        path,
        {
            "environment": {**{key: here[key] for key in keep}, "date": datetime.now(UTC).date().isoformat()},
            "settings": list(SETTINGS),
            "candidates": {name: candidate.says for name, candidate in CANDIDATES.items()},
            "summary": summary(rows),
            "runs": [asdict(row) for row in rows],
        },
    )


if __name__ == "__main__":
    main()
