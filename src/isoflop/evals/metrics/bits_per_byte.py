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
from ...core.errors import DataError
from ...core.registry import Card, part
from ...core.rng import Rng


class BitsPerByte:
    """-log2 p(held-out text) / its UTF-8 bytes, in windows of ``length`` tokens.

    The value is the byte-weighted mean over domains. The standard error is that of a ratio estimate over batches of
    windows (None of a single one): it is about the text's variety, not about training seeds. Only it rests on the
    tokens' byte lengths, which some tokenizers know but nearly.
    """

    def __init__(self, length: int, batch: int, device: str) -> None:
        self.length, self.batch, self.device = length, batch, device

    @torch.no_grad()
    def measure(self, subject: Subject, data: Mapping[str, HeldOut], rng: Rng) -> Measurement:
        """Measure what the objective says of the model's -log p on held-out data by domain."""
        assert isinstance(subject.objective, Likelihood), "the recipe has checked that the objective is one"
        domains = {
            name: self._domain(subject.objective, heldout, rng(str(number)))
            for number, (name, heldout) in enumerate(data.items())
        }
        if not domains:
            raise DataError("holds no held-out text", where="source", fix="add documents or raise its held-out share")
        sizes = {name: data[name].text_bytes for name in domains}
        errors = [domain.stderr * sizes[name] for name, domain in domains.items() if domain.stderr is not None]
        total = sum(sizes.values())
        return Measurement(
            value=sum(domains[name].value * sizes[name] for name in domains) / total,
            stderr=math.hypot(*errors) / total if len(errors) == len(domains) else None,
            n=total,
            unit="bits per byte",
            bound=subject.objective.bound,
            domains=domains,
            cost=sum((domain.cost for domain in domains.values()), Cost()),
        )

    def _domain(self, objective: Likelihood, heldout: HeldOut, rng: Rng) -> Measurement:
        bits: list[float] = []
        sizes: list[int] = []
        cost = Cost()
        for number, batch in enumerate(heldout.windows(self.length, self.batch)):
            nll = objective.nll(batch.to(self.device).drawing(Draws(rng, number)))
            bits.append(float(nll.total) / math.log(2))
            sizes.append(batch.text_bytes)
            cost += sum(nll.spent.values(), Cost())
        total, n = math.fsum(bits), len(bits)
        ratio = total / sum(sizes)
        spread = math.fsum((b - ratio * s) ** 2 for b, s in zip(bits, sizes, strict=True))
        stderr = math.sqrt(spread * n / (n - 1)) / heldout.text_bytes if n > 1 else None
        size, bound = heldout.text_bytes, objective.bound
        return Measurement(total / size, stderr, size, "bits per byte", bound, cost=cost)


@part
class BitsPerBytePart(MetricPart):
    """Bits per byte of held-out text, each domain apart and their byte-weighted mean."""

    batch: PositiveInt = 32
    """Windows evaluated at once; does not change the value beyond rounding."""
    card = Card(
        summary="Bits per byte of held-out text: -log2 p(text) / UTF-8 bytes.",
        equation="bpb = -sum_i log2 p(x_i | x_<i in its window) / bytes",
        differs="windows do not overlap: the first tokens of a window see little context, as in training",
        cost="one forward pass over the held-out text",
    )

    needs: ClassVar[dict[str, frozenset[type]]] = {"objective": frozenset({Likelihood})}

    def build(self, ctx: Context) -> BitsPerByte:
        return BitsPerByte(ctx.length, self.batch, ctx.device)
