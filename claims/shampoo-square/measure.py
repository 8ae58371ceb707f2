"""How near Shampoo's products come to a layer's second moment, on gradients of a small language model.

The model reads four symbols and predicts the next: embeddings, one hidden layer with tanh, a softmax. Its hidden
matrix W (24, 32) has per-sample gradients delta x', from which the exact second moment H of vec G (768 x 768) is made.
Compared with H, by cosine similarity: the best Kronecker product, the square of Shampoo's L^1/2 (x) R^1/2, that itself,
and H's diagonal. Labels are those of the text (the empirical Fisher) or drawn from the model (the Fisher, which is
Gauss-Newton's matrix); gradients are those of single samples or means of 64.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from isoflop.optim.theory import kronecker

SYMBOLS, BEFORE, WIDTH, HIDDEN = 64, 4, 8, 24
STEPS, BATCH, SAMPLES = (0, 300, 1500), 64, 8192
SEEDS = (1, 2, 3)


def text() -> np.ndarray:
    """Code of the standard library as indices of its most frequent symbols; 0 is any other."""
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))[:60]
    raw = b"".join(file.read_bytes() for file in files)[:1_000_000]
    known = {byte: i + 1 for i, (byte, _) in enumerate(Counter(raw).most_common(SYMBOLS - 1))}
    return np.array([known.get(byte, 0) for byte in raw])


def model(seed: int) -> list[torch.Tensor]:
    """Embedding, hidden matrix, head."""
    rng = np.random.default_rng(seed)
    shapes = (SYMBOLS, WIDTH), (HIDDEN, BEFORE * WIDTH), (SYMBOLS, HIDDEN)
    drawn = [rng.standard_normal(shape) / (1 if i == 0 else shape[1] ** 0.5) for i, shape in enumerate(shapes)]
    return [torch.tensor(each, requires_grad=True) for each in drawn]


def logits(weights: list[torch.Tensor], context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs of the hidden layer, its outputs, and the logits."""
    x = weights[0][context].flatten(1)
    h = torch.tanh(x @ weights[1].T)
    return x, h, h @ weights[2].T


def train(weights: list[torch.Tensor], symbols: np.ndarray, rng: np.random.Generator, steps: int) -> None:
    optimizer = torch.optim.Adam(weights, lr=3e-3)
    for _ in range(steps):
        context, target = drawn(symbols, rng, BATCH)
        loss = torch.nn.functional.cross_entropy(logits(weights, context)[2], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def drawn(symbols: np.ndarray, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    start = rng.integers(0, len(symbols) - BEFORE - 1, count)
    windows = symbols[start[:, None] + np.arange(BEFORE + 1)]
    return torch.tensor(windows[:, :-1]), torch.tensor(windows[:, -1])


def gradients(
    weights: list[torch.Tensor], symbols: np.ndarray, rng: np.random.Generator, sampled: bool, batch: int
) -> np.ndarray:
    """Gradients of the hidden matrix (N, 24, 32): of single samples, or means over ``batch`` of them."""
    with torch.no_grad():
        context, target = drawn(symbols, rng, SAMPLES * (batch if batch == 1 else 8))
        x, h, z = logits(weights, context)
        p = torch.softmax(z, 1)
        if sampled:
            u = torch.tensor(rng.random((len(p), 1)))
            target = torch.searchsorted(p.cumsum(1), u).flatten().clamp(max=SYMBOLS - 1)
        error = p - torch.nn.functional.one_hot(target, SYMBOLS)
        delta = (error @ weights[2]) * (1 - h.square())
        means = torch.einsum("nbi,nbj->nij", delta.view(-1, batch, HIDDEN), x.view(-1, batch, BEFORE * WIDTH)) / batch
        return np.asarray(means)


def cosines(g: np.ndarray) -> dict[str, float]:
    m, n = g.shape[1:]
    h = kronecker.second_moment(g)
    left, right = kronecker.grams(g)
    best = kronecker.optimal(h, m, n)
    one = kronecker.power_iteration(h, m, n, 1)
    exact = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(one, (left, right), strict=True))
    return {
        "optimal": kronecker.cosine(h, np.kron(*best)),
        "square": kronecker.cosine(h, np.kron(left, right)),
        "shampoo": kronecker.cosine(h, np.kron(kronecker.root(left), kronecker.root(right))),
        "diagonal": kronecker.diagonal_share(h),
        "power_iteration_error": float(exact),
    }


def main(out: str) -> None:
    symbols = text()
    values: dict[str, list[float]] = {}
    for seed in SEEDS:
        found: dict[str, list[float]] = {}
        for steps in STEPS:
            rng = np.random.default_rng([seed, steps])
            weights = model(seed)
            train(weights, symbols, rng, steps)
            for labels in ("real", "sampled"):
                for batch in (1, 64):
                    kind = f"{labels}_{'sample' if batch == 1 else 'batch'}"
                    for name, value in cosines(gradients(weights, symbols, rng, labels == "sampled", batch)).items():
                        found.setdefault(f"{kind}_{name}", []).append(value)
        for name, several in found.items():
            values.setdefault(name, []).append(float(np.mean(several)))
        for kind in ("real_sample", "sampled_sample", "real_batch", "sampled_batch"):
            gain = values[f"{kind}_square"][-1] - values[f"{kind}_shampoo"][-1]
            values.setdefault(f"{kind}_gain", []).append(gain)
            lack = values[f"{kind}_optimal"][-1] - values[f"{kind}_square"][-1]
            values.setdefault(f"{kind}_lack", []).append(lack)
        worst = max(max(each) for name, each in found.items() if name.endswith("power_iteration_error"))
        values.setdefault("power_iteration_error", []).append(worst)
    notes = [f"means over {len(STEPS)} moments of training: after {', '.join(map(str, STEPS))} steps"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])
