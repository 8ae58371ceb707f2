"""GRACE: how well a teacher's responses suit a student, by the student's gradients on them (Panigrahi et al. 2025).

The file stands alone. A teacher is good if gradients on its responses to some prompts span those on others: the score
is the power of the second in the metric of the first, so that lower is better.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..core.errors import UsageError

Array = npt.NDArray[np.floating]


def score(
    gradients: Array,
    responses: int,
    *,
    splits: int = 10,
    test_fraction: float = 0.1,
    smoothing: float = 1e-3,
    normalize_test: bool = False,
) -> float:
    """Mean over splits of tr(K_train^-1 K_test), K the second moments of gradients.

    Args:
        gradients: (prompts * responses, dimensions), all responses to a prompt behind each other; project them first
            (``projected``) where there are many dimensions.
        responses: to each prompt.
        splits: of the prompts into train and test; number s is drawn by numpy's ``default_rng(s)``.
        test_fraction: share of the prompts that a split tests on, those at the end of its permutation.
        smoothing: each eigenvalue of K_train is moved so far to their mean.
        normalize_test: scale test gradients to length 1, as those of training are.

    Raises:
        UsageError: rows are not whole prompts, or a split would be empty.

    Example:
        >>> rows = np.random.default_rng(0).standard_normal((40, 3))
        >>> score(rows, responses=2, normalize_test=True) < 2 * 3
        True
    """
    prompts, rest = divmod(len(gradients), responses)
    if rest or gradients.ndim != 2:
        what = f"{len(gradients)} gradients are no whole number of prompts with {responses} responses each"
        raise UsageError(what, where="grace")
    tested = max(1, int(prompts * test_fraction))
    if tested >= prompts:
        raise UsageError(f"{prompts} prompts leave nothing to train on", where="grace", fix="give more prompts")
    if not np.isfinite(gradients).all():
        raise UsageError("a gradient is not finite", where="grace", fix="leave that response out")
    grouped = gradients.astype(np.float64).reshape(prompts, responses, -1)
    found = []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(prompts)
        train = _unit(grouped[order[:-tested]].reshape(-1, grouped.shape[2]))
        test: Array = grouped[order[-tested:]].reshape(-1, grouped.shape[2])
        if normalize_test:
            test = _unit(test)
        values, vectors = np.linalg.eigh(train.T @ train / len(train))
        values = (1 - smoothing) * values + smoothing * values.mean()
        power = np.square(test @ vectors).mean(0)
        found.append(float((power / values).sum()))
    return float(np.mean(found))


def _unit(rows: Array) -> Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def projected(gradients: Array, dimensions: int, seed: int = 0) -> Array:
    """Random signs over sqrt(``dimensions``): (rows, dimensions) whose inner products are about those of the rows."""
    signs = np.random.default_rng(seed).integers(0, 2, (gradients.shape[1], dimensions), dtype=np.int8)
    found: Array = (gradients @ (2.0 * signs - 1.0) / np.sqrt(dimensions)).astype(gradients.dtype)
    return found
