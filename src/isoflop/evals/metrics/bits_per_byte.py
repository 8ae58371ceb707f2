"""Bits per byte of held-out text: comparable across tokenizers, model sizes and objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import PositiveInt

from ...core.context import Context
from ...core.contracts import Draws, HeldOut, Likelihood, Measurement, MetricPart, Subject
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.rng import Rng
from ..pooling import over_domains, ratio_error


class BitsPerByte:
    """-log2 p(held-out text) / its UTF-8 bytes, in windows of ``length`` tokens.

    The value is the byte-weighted mean over domains, the standard error that of a ratio estimate over batches of
    windows (None of a single one). Only the error uses the tokens' byte lengths, which are approximate for some
    tokenizers.

    Example, with ``model`` a Transformer over bytes and ``ctx`` its context:
        >>> from isoflop.data.loader import heldout_of
        >>> from isoflop.objectives.losses.next_token import NextTokenPart
        >>> subject = Subject(model, NextTokenPart().build(ctx), ctx)
        >>> metric, text = BitsPerByte(length=8, batch=2, device="cpu"), heldout_of("abc", ctx.tokenizer)
        >>> found = metric.measure(subject, {"text": text}, Rng(0))
        >>> found.n, found.value > 6
        (3, True)
    """

    def __init__(self, length: int, batch: int, device: str) -> None:
        self.length, self.batch, self.device = length, batch, device

    @torch.no_grad()
    def measure(self, subject: Subject, data: Mapping[str, HeldOut], rng: Rng) -> Measurement:
        """Measure what the objective says of the model's -log p on held-out data by domain."""
        objective = subject.objective
        assert isinstance(objective, Likelihood), "the recipe has checked that the objective is one"
        return over_domains(data, rng, lambda heldout, own: self._domain(objective, heldout, own))

    def _domain(self, objective: Likelihood, heldout: HeldOut, rng: Rng) -> Measurement:
        bits: list[float] = []
        sizes: list[int] = []
        cost = Cost()
        for number, batch in enumerate(heldout.windows(self.length, self.batch)):
            nll = objective.nll(batch.to(self.device).drawing(Draws(rng, number)))
            bits.append(float(nll.total) / math.log(2))
            sizes.append(batch.text_bytes)
            cost += sum(nll.spent.values(), Cost())
        size = heldout.text_bytes
        value, error, how = math.fsum(bits) / size, ratio_error(bits, sizes, size), getattr(objective, "how", "")
        return Measurement(value, error, size, objective.bound, cost=cost, how=how)


@part
class BitsPerBytePart(MetricPart):
    """Bits per byte of held-out text, each domain apart and their byte-weighted mean.

    The metric to compare models by: it does not depend on the tokenizer, and for objectives with a bound it says so.

    Example, with ``ctx`` a context of two rows of 16:
        >>> BitsPerBytePart().build(ctx).length, BitsPerBytePart.unit
        (16, 'bits per byte')
    """

    batch: PositiveInt = 32
    """Windows evaluated at once; does not change the value beyond rounding."""
    card = Card(
        summary="Bits per byte of held-out text: -log2 p(text) / UTF-8 bytes.",
        equation="bpb = -sum_i log2 p(x_i | x_<i in its window) / bytes",
        differs="windows do not overlap: the first tokens of a window see little context, as in training",
        cost="one forward pass over the held-out text",
    )

    unit: ClassVar[str] = "bits per byte"
    counts: ClassVar[str] = "bytes"
    needs: ClassVar[dict[str, frozenset[type]]] = {"objective": frozenset({Likelihood})}

    def build(self, ctx: Context) -> BitsPerByte:
        return BitsPerByte(ctx.length, self.batch, ctx.device)
