"""Whether a model's training state fits, before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.device import Device, physical_memory
from ..core.roles import TRAINING_BYTES, Shape, numel

if TYPE_CHECKING:
    from ..core.recipe import Recipe

LARGEST = 2**44
"""Bytes of training state (16 TiB) beyond which a recipe for another device is taken for a mistake."""


def beyond_memory(shapes: Sequence[Shape], recipe: Recipe, smaller: str = "a smaller d_model") -> list[str]:
    """The problem, as ``Part.check`` tells it, if parameters take more memory in training than there is; else none.

    Args:
        shapes: of all parameters.
        recipe: which says where they will lie.
        smaller: what to use instead, in words.
    """
    parameters, here = numel(shapes), Device.of(recipe.train.device).is_cpu
    wanted, present = TRAINING_BYTES * parameters, physical_memory() if here else LARGEST
    if wanted <= present:
        return []
    return [
        f"model: its {parameters} parameters take {wanted} bytes in training, but "
        f"{'this machine has' if here else 'at most'} {present}{'' if here else ' are believed'}; use {smaller}"
    ]
