"""Tiny parts named "toy" that stand for the real ones where only the recipe's machinery is tested. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from isoflop.core import registry
from isoflop.core.contracts import (
    AveragingPart,
    Cacheable,
    MetricPart,
    MixerPart,
    ModelPart,
    ObjectivePart,
    OptimizerPart,
    SchedulePart,
    SourcePart,
    TokenizerPart,
)
from isoflop.core.recipe import Recipe
from isoflop.core.registry import Card, Part
from isoflop.core.slots import MixerSlot

TEXT = """
name = "first"
seed = 3
tokenizer = "toy"
objective = "toy"
schedule = "toy"
metrics = ["toy"]

[source]
name = "toy"
folder = "texts"

[model]
name = "toy"
width = 16

[optimizer]
name = "toy"
lr = 1e-3

[budget]
steps = 10

[train]
keep = 2
"""


class Inert(Part):
    """None of these parts is ever built."""

    card: ClassVar[Card] = Card(summary="Stands for a part.")

    def build(self, ctx: Any, *more: Any) -> Any:
        raise NotImplementedError

    def cost(self, shapes: Any) -> Any:
        raise NotImplementedError

    work = steps = shapes = state_bytes = cost


class ToySource(Inert, SourcePart):
    folder: str = "."
    weights: dict[str, PositiveFloat] = {}


class ToyTokenizer(Inert, TokenizerPart):
    vocabulary: ClassVar[int] = 257


class ToyMixer(Inert, MixerPart):
    window: PositiveInt = 4


class ToyModel(Inert, ModelPart):
    width: PositiveInt = 8
    heads: PositiveInt = 2
    tied: bool = False
    mixer: MixerSlot = ToyMixer()

    def check(self, recipe: Recipe) -> list[str]:
        fits = self.width % self.heads == 0
        return [] if fits else [f"model.width: {self.width} is no multiple of model.heads {self.heads}"]


class ToyObjective(Inert, ObjectivePart):
    pass


class PickyObjective(Inert, ObjectivePart):
    name: ClassVar[str] = "picky"
    needs: ClassVar[dict[str, frozenset[type]]] = {"model": frozenset({Cacheable})}


class ToyOptimizer(Inert, OptimizerPart):
    lr: PositiveFloat = 1e-2
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: NonNegativeFloat = 0.0
    search: ClassVar[dict[str, tuple[float, ...]]] = {"lr": (1e-3, 2e-3)}


class OtherOptimizer(Inert, OptimizerPart):
    name: ClassVar[str] = "toytwo"
    momentum: NonNegativeFloat = 0.9


class ToySchedule(Inert, SchedulePart):
    def factor(self, t: int, horizon: int) -> float:
        return 1.0


class ToyAveraging(Inert, AveragingPart):
    decay: NonNegativeFloat = 0.99


class ToyMetric(Inert, MetricPart):
    weight: PositiveFloat = 1.0


PARTS: tuple[type[Part], ...] = (
    ToySource,
    ToyTokenizer,
    ToyMixer,
    ToyModel,
    ToyObjective,
    PickyObjective,
    ToyOptimizer,
    OtherOptimizer,
    ToySchedule,
    ToyAveraging,
    ToyMetric,
)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """The parts are legal inside, and gone afterwards, so that no contract suite meets them."""
    for cls in PARTS:
        registry.part(cls)
    try:
        yield
    finally:
        for cls in PARTS:
            del registry._registered[cls.slot][cls.name]


def recipe(*overrides: str) -> Recipe:
    """The recipe of ``TEXT`` with overrides."""
    return Recipe.from_toml(TEXT, *overrides)
