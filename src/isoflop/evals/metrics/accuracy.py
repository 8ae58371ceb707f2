"""Accuracy of the next token of held-out text: how often the likeliest one is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import PositiveInt

from ...core.context import Context
from ...core.contracts import Draws, HeldOut, Measurement, MetricPart, Predicts, Subject
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.rng import Rng
from ..pooling import over_domains, ratio_error


class Accuracy:
    """Share of the held-out tokens that are the objective's likeliest ones, in windows of ``length`` tokens.

    It depends on the tokenizer: larger tokens are harder to guess, so accuracies compare models of one tokenizer. The
    value is the mean over domains, weighted by their tokens; its standard error takes windows for independent.

    Example, with ``model`` a Transformer over bytes and ``ctx`` its context:
        >>> from isoflop.data.loader import heldout_of
        >>> from isoflop.objectives.losses.next_token import NextTokenPart
        >>> subject = Subject(model, NextTokenPart().build(ctx), ctx)
        >>> metric, text = Accuracy(length=8, batch=2, device="cpu"), heldout_of("abc", ctx.tokenizer)
        >>> metric.measure(subject, {"text": text}, Rng(0)).n
        4
    """

    def __init__(self, length: int, batch: int, device: str) -> None:
        self.length, self.batch, self.device = length, batch, device

    @torch.no_grad()
    def measure(self, subject: Subject, data: Mapping[str, HeldOut], rng: Rng) -> Measurement:
        """Count what the objective predicts rightly in held-out data by domain."""
        objective = subject.objective
        assert isinstance(objective, Predicts), "the recipe has checked that the objective is one"
        return over_domains(data, rng, lambda heldout, own: self._domain(objective, heldout, own))

    def _domain(self, objective: Predicts, heldout: HeldOut, rng: Rng) -> Measurement:
        hits: list[float] = []
        sizes: list[float] = []
        cost = Cost()
        for number, windows in enumerate(heldout.windows(self.length, self.batch)):
            batch = windows.to(self.device).drawing(Draws(rng, number))
            guess = objective.predict(batch)
            counts = torch.ones_like(batch.targets, dtype=torch.bool) if batch.mask is None else batch.mask
            hits += ((guess.ids == batch.targets) & counts).sum(-1).tolist()
            sizes += counts.sum(-1).tolist()
            cost += sum(guess.spent.values(), Cost())
        total = int(sum(sizes))
        return Measurement(sum(hits) / total, ratio_error(hits, sizes), total, cost=cost)


@part
class AccuracyPart(MetricPart):
    """Accuracy of the next token on held-out text, each domain apart and their token-weighted mean.

    Use it beside bits per byte where what counts is the right answer; on a prompt's completion it is the share of its
    tokens that a greedy decoder would get right.

    Example, with ``ctx`` a context of two rows of 16:
        >>> AccuracyPart().build(ctx).length, AccuracyPart.higher_is_better
        (16, True)
    """

    batch: PositiveInt = 32
    """Windows evaluated at once; does not change the value beyond ties."""
    card = Card(
        summary="Share of held-out tokens that are the model's likeliest ones.",
        equation="accuracy = mean_i [x_i = argmax_v p(v | x_<i in its window)]",
        differs="windows do not overlap: the first tokens of a window see little context, as in training",
        cost="one forward pass over the held-out text",
    )
    unit: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    counts: ClassVar[str] = "tokens"
    needs: ClassVar[dict[str, frozenset[type]]] = {"objective": frozenset({Predicts})}

    def build(self, ctx: Context) -> Accuracy:
        return Accuracy(ctx.length, self.batch, ctx.device)
