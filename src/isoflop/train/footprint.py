"""What a trained model takes in use: bits of a weight, and FLOPs of a token."""

from __future__ import annotations

from fractions import Fraction

from ..core.recipe import Recipe
from ..core.roles import numel

PLAIN = 16.0
"""Bits of a weight that is not rounded: it can be used as bf16."""


def footprint(recipe: Recipe, horizon: int) -> dict[str, float]:
    """By name: ``bits_per_weight``, the mean over the model's matrices, and ``inference_flops`` of a token.

    FLOPs are those of a forward pass of the training's length, what the masks of the run's end skip left out. Zeros
    are stored as other numbers are, so bits do not count them.

    Args:
        recipe: of the run.
        horizon: its steps; 0 where they were not known.
    """
    treatment, vocab, length = recipe.policy.treatment, recipe.vocab_size, recipe.train.length
    matrices = [shape for shape in recipe.model.shapes(vocab) if len(shape.shape) == 2]
    parts = [(shape, treatment.of(shape)) for shape in matrices]
    bits = sum(numel([shape]) * (PLAIN if part is None else part.bits_in_use or PLAIN) for shape, part in parts)
    _, last = treatment.stages(horizon or 1)[-1]
    model = recipe.model.treated(treatment.priced(last))
    forward = model.work(1, length, vocab, recipe.objective.pattern).forward.flops
    return {"bits_per_weight": bits / numel(matrices), "inference_flops": float(Fraction(forward, length))}
