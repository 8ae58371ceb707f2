"""Scores of twenty seeds at each of four widths on lengths beyond training: are there two groups?

Two tasks. ``count`` lists the numbers between two given ones, a token each; ``addition`` adds two numbers written from
their last digit. To each digit's vector that of its place is added, the same in all three numbers; places begin
anywhere, so that those of longer sums have been seen. The score of a seed is the share of longer puzzles that it solves
wholly, each token being its likeliest one.

The models are decoder Transformers with rotary positions whose seeds are trained at once, as one stack of weights: each
seed has its own start and its own puzzles, and no seed meets another's.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from isoflop.core.rng import Rng
from isoflop.laws.forms.emergence import bimodality

SEEDS, LAYERS, HEADS, TESTS, UP = 20, 2, 2, 200, 0.5
NUMBERS, PLACES = 40, 12


Rows = tuple[np.ndarray, np.ndarray, int]
"""Tokens (..., length), what is added to each (0: nothing), and where the answer begins."""


def counting(size: tuple[int, ...], length: int, draw: np.random.Generator) -> Rows:
    """Rows first, last, a mark, then the numbers from first to last and an end."""
    first = draw.integers(0, NUMBERS - length + 1, size)[..., None]
    mark, end = np.full_like(first, NUMBERS), np.full_like(first, NUMBERS + 1)
    rows = np.concatenate([first, first + length - 1, mark, first + np.arange(length), end], -1)
    return rows, np.zeros_like(rows), 3


def adding(size: tuple[int, ...], length: int, draw: np.random.Generator) -> Rows:
    """Rows a + b = c, the last digit first; to each digit its place is added, the places beginning anywhere."""
    plus, equals = 10, 11
    a, b = draw.integers(0, 10, (2, *size, length))
    c, carry = [], np.zeros(size, int)
    for i in range(length):
        total = a[..., i] + b[..., i] + carry
        c.append(total % 10)
        carry = total // 10
    sign = np.zeros((*size, 1), int)
    rows = np.concatenate([a, sign + plus, b, sign + equals, np.stack([*c, carry], -1)], -1)
    places = 1 + draw.integers(0, PLACES - length, size)[..., None] + np.arange(length + 1)
    given = places[..., :length]
    return rows, np.concatenate([given, sign, given, sign, places], -1), 2 * length + 2


@dataclass(frozen=True)
class Task:
    """What is learnt: its puzzles, lengths in training and beyond, and how long."""

    rows: Callable[[tuple[int, ...], int, np.random.Generator], Rows]
    tokens: int
    trained: int
    beyond: int
    widths: tuple[int, ...]
    steps: int
    batch: int
    lr: float = 0.01


TASKS = {
    "count": Task(counting, NUMBERS + 2, 10, 12, (8, 12, 16, 32), 1500, 32),
    "addition": Task(adding, 12, 3, 4, (12, 16, 24, 32), 4000, 32, 0.005),
}


class Stack(torch.nn.Module):
    """As many Transformers as seeds, each matrix (seeds, rows, columns)."""

    def __init__(self, seeds: int, tokens: int, width: int, draw: torch.Generator) -> None:
        super().__init__()
        self.width = width

        def matrix(rows: int, columns: int, scale: float) -> torch.nn.Parameter:
            return torch.nn.Parameter(scale * torch.randn(seeds, rows, columns, generator=draw))

        inner, out = width**-0.5, (2 * LAYERS) ** -0.5
        self.embedding, self.head = matrix(tokens, width, 1.0), matrix(width, tokens, inner)
        self.places = matrix(PLACES + 1, width, 1.0)
        self.layers = torch.nn.ParameterList()
        for _ in range(LAYERS):
            self.layers.extend([matrix(width, 3 * width, inner), matrix(width, width, inner * out)])
            self.layers.extend([matrix(width, 4 * width, inner), matrix(4 * width, width, inner * out / 2)])

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """(seeds, rows, length) tokens and places -> (seeds, rows, length, tokens) logits."""
        seeds, rows, length = x.shape
        own = torch.arange(seeds)[:, None, None]
        h = F.embedding(x + own * self.embedding.shape[1], self.embedding.flatten(0, 1))
        there = F.embedding(places + own * (PLACES + 1), self.places.flatten(0, 1))
        h = (h + there * (places > 0)[..., None]).view(seeds, rows * length, self.width)
        cos, sin = self._turns(length)
        for i in range(0, len(self.layers), 4):
            to_qkv, to_out, up, down = self.layers[i : i + 4]
            qkv = torch.bmm(F.rms_norm(h, (self.width,)), to_qkv).view(seeds * rows, length, 3, HEADS, -1)
            q, k, v = (each.transpose(1, 2) for each in qkv.unbind(2))
            q, k = (each * cos + torch.cat([-each.chunk(2, -1)[1], each.chunk(2, -1)[0]], -1) * sin for each in (q, k))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
            h = h + torch.bmm(mixed.reshape(seeds, rows * length, self.width), to_out)
            h = h + torch.bmm(F.relu(torch.bmm(F.rms_norm(h, (self.width,)), up)).square(), down)
        return torch.bmm(F.rms_norm(h, (self.width,)), self.head).view(seeds, rows, length, -1)

    def _turns(self, length: int) -> tuple[Tensor, Tensor]:
        half = self.width // HEADS // 2
        angles = torch.arange(length)[:, None] * 10_000.0 ** -(torch.arange(half) / half)
        return torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def losses(model: Stack, puzzles: Rows) -> tuple[Tensor, Tensor]:
    """Mean nats a token of the answer, one a seed, and which rows are wholly right, (seeds, rows)."""
    x, places, begin = torch.from_numpy(puzzles[0]), torch.from_numpy(puzzles[1]), puzzles[2]
    logits, wanted = model(x[..., :-1], places[..., :-1])[:, :, begin - 1 :], x[..., begin:]
    nats = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view(wanted.shape)
    return nats.mean((1, 2)), (logits.argmax(-1) == wanted).all(-1)


def trained(task: Task, width: int) -> dict[str, np.ndarray]:
    """What each seed reaches: its score as trained and beyond, and its nats a token beyond."""
    draw = Rng(width)("puzzles").at()
    model = Stack(SEEDS, task.tokens, width, torch.Generator().manual_seed(width))
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(task.steps):
        for group in optimizer.param_groups:  # a warm-up, then half a cosine
            group["lr"] = task.lr * min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / task.steps))
        length = int(draw.integers(1, task.trained + 1))
        loss, _ = losses(model, task.rows((SEEDS, task.batch), length, draw))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    with torch.no_grad():
        _, known = losses(model, task.rows((SEEDS, TESTS), task.trained, draw))
        nats, right = losses(model, task.rows((SEEDS, TESTS), task.beyond, draw))
    shares = {"known": known.double().mean(1), "score": right.double().mean(1), "nats": nats.double()}
    return {name: each.numpy() for name, each in shares.items()}


def chance(found: dict[str, np.ndarray]) -> float:
    """The p-value of two groups against one at a width: the larger of the scores' and the losses'.

    Scores have an atom at nought, which two normals describe better than one even where there are no two groups; losses
    have none.
    """
    each = [found["score"], found["nats"]]
    return max(bimodality(one, samples=999)[1] if np.ptp(one) > 0 else 1.0 for one in each)


def told(name: str, task: Task, found: dict[int, dict[str, np.ndarray]]) -> tuple[dict[str, list[float]], list[str]]:
    """A task's values, and what else to say of it."""
    widths = np.asarray(task.widths, float)
    scores = np.asarray([found[width]["score"] for width in task.widths])
    chances = {width: chance(found[width]) for width in task.widths}
    ups, best = (scores > UP).mean(1), scores.max(1)
    trend = stats.kendalltau(np.repeat(widths, SEEDS), (scores > UP).ravel(), alternative="greater").pvalue
    values = {f"score_{name}_{width}": each["score"].tolist() for width, each in found.items()}
    values |= {f"nats_{name}_{width}": each["nats"].tolist() for width, each in found.items()}
    values[f"two_groups_{name}"] = [min(1.0, len(widths) * min(chances.values()))]
    values[f"rises_{name}"] = [1.0 if math.isnan(trend) else float(trend)]
    values[f"abrupt_{name}"] = [float(np.diff(best).max() - np.diff(ups).max())]
    notes = []
    for width in task.widths:
        up, down = scores[task.widths.index(width)], found[width]["known"]
        said = f"{name}, width {width}: {(up > UP).sum()} of {SEEDS} seeds above {UP}, best {up.max():.2f}"
        given = f"{up[up > UP].mean():.2f}" if (up > UP).any() else "none"
        notes.append(f"{said}, mean of those {given}; as trained {down.mean():.2f}; two groups p {chances[width]:.3g}")
    for low, high in pairwise(task.widths):
        distance = stats.wasserstein_distance(found[low]["score"], found[high]["score"])
        notes.append(f"{name}: the scores' distributions at {low} and {high} are {distance:.3f} apart (Wasserstein)")
    return values, notes


def main(out: str) -> None:
    values, notes = dict[str, list[float]](), list[str]()
    for name, task in TASKS.items():
        found = {}
        for width in task.widths:
            found[width] = trained(task, width)
            print(name, width, np.sort(found[width]["score"]).tolist(), flush=True)
        more, said = told(name, task, found)
        values |= more
        notes += said
    axes = {
        "score": {"across": "width", "up": "share of longer puzzles solved"},
        "nats": {"across": "width", "up": "nats a token on longer puzzles"},
    }
    Path(out).write_text(json.dumps({"values": values, "notes": notes, "axes": axes}))


if __name__ == "__main__":
    main(sys.argv[1])
