"""Masked diffusion: fill in what was masked; a bound on the likelihood in any order.

A share p of a sequence's positions is hidden behind a mask id; the model sees all positions and predicts the hidden
ones. Over p uniform in (0, 1), the loss of the hidden ones divided by p is in expectation an upper bound of -log p(x)
(Sahoo et al. 2024, arXiv 2406.07524, equation 11; Shi et al. 2024, arXiv 2406.04329, equation 6; Ou et al. 2024, arXiv
2406.03736, equation 3.6), which is tight for no order but the mean over all orders:

    -log p(x) <= E_p [ (1 / p) sum over the hidden i of -log p(x_i | what is shown) ].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from ...core.context import Context
from ...core.contracts import Documents, Filling, Likelihood, Loss, ModelPart, ObjectivePart, Pattern, TokenBatch
from ...core.cost import Cost, Work
from ...core.registry import Card, get, part
from ..linear_cross_entropy import cap_of, linear_cross_entropy


class Masked:
    """The bound above, estimated with one share p for each row of the batch, in nats.

    The sequence is the batch's ``targets``; targets that do not count (a prompt, the filling of a last window) are
    always shown. The random numbers are the batch's own.

    Example::

        objective = Masked(model, mask_id=52, full=FullPattern())  # a model of 53 ids
        bound = objective.nll(batch).total  # nats, at least -log p in expectation

    Args:
        policy: a ``Model`` that obeys the pattern "full"; its last id is the mask, which is never predicted.
        mask_id: that id.
        full: the pattern.
        samples: draws of p for one estimate of the bound in ``nll``.
    """

    bound = True

    def __init__(self, policy: Any, mask_id: int, full: Pattern, samples: int = 8) -> None:
        self.policy, self.mask_id, self.full, self.samples = policy, mask_id, full, samples

    def loss(self, batch: TokenBatch) -> Loss:
        return Loss(self._estimate(batch, 0, 1))

    @torch.no_grad()
    def nll(self, batch: TokenBatch) -> Loss:
        """The mean of ``samples`` estimates, whose shares p lie in as many equal parts of (0, 1)."""
        total = sum(self._estimate(batch, number, self.samples) for number in range(self.samples)) / self.samples
        work = self.policy.flops(*batch.inputs.shape, self.full)
        return Loss(torch.as_tensor(total), spent={"evaluation": (work.forward - self._unused(batch)) * self.samples})

    def _unused(self, batch: TokenBatch) -> Cost:
        """What the head would cost for the mask id, and for rows beyond it, whose logits are not computed."""
        rows, width = self.policy.head.shape
        flops = 2 * batch.inputs.numel() * width * (rows - self.mask_id)
        return Cost(flops, flops)

    def _estimate(self, batch: TokenBatch, number: int, parts: int) -> torch.Tensor:
        """The bound's estimate from shares p in part ``number`` of ``parts`` of (0, 1)."""
        hidden, weight = self.corrupt(batch, number, parts)
        x = batch.targets
        documents = batch.columns.get("documents")
        seen = self.full if documents is None else Documents(documents, self.full)
        vectors = self.policy.hidden(torch.where(hidden, self.mask_id, x), seen)
        return linear_cross_entropy(vectors, self.policy.head[: self.mask_id], x, weight, cap=cap_of(self.policy))

    def corrupt(self, batch: TokenBatch, number: int = 0, parts: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """What is hidden, and the weight of each position's loss.

        Returns:
            ``hidden`` bool and ``weight`` float32, both (batch, length); the weight is 1 / p where hidden, else 0.
        """
        assert batch.draws is not None, "a step or a metric hands its batches their random numbers"
        rows, length = batch.targets.shape
        hidden, weight = np.zeros((rows, length), bool), np.zeros((rows, length), np.float32)
        for row in range(rows):
            draw = batch.draws.at("mask" if parts == 1 else f"mask {number}", row)
            p = (number + 1.0 - draw.random()) / parts  # in (0, 1], so that 1 / p is finite
            hidden[row] = draw.random(length) < p
            weight[row] = hidden[row] / p
        device = batch.targets.device
        shown, factor = torch.from_numpy(hidden).to(device), torch.from_numpy(weight).to(device)
        return (shown, factor) if batch.mask is None else (shown & batch.mask, factor * batch.mask)


@part
class MaskedPart(ObjectivePart):
    """Masked diffusion with a mask id of its own, the plain bound with weight 1 / p."""

    samples: PositiveInt = 8
    """Draws of the masked share in one estimate of the bound, when held-out text is measured."""
    card = Card(
        summary="Fill in masked tokens, everything visible; a bound on -log p in any order",
        paper="Sahoo et al. 2024, arXiv 2406.07524; Shi et al. 2024, arXiv 2406.04329",
        equation="E_p (1/p) sum_{i masked} -log p(x_i | the others shown), p uniform, each i masked with chance p",
        differs="no time embedding, the mask id's logit is left out of the softmax, one p a sequence",
        cost="one forward and one backward of the model with full attention; measuring takes `samples` forwards",
    )
    provides = frozenset({Likelihood})

    @property
    def extra_ids(self) -> int:
        return 1

    @property
    def pattern(self) -> Pattern:
        full: Any = get("pattern", "full")
        return full()  # type: ignore[no-any-return]

    def filling(self, vocab_size: int) -> Filling:
        return Filling(mask=vocab_size - 1, ids=vocab_size - 1, pattern=self.pattern)

    def build(self, ctx: Context) -> Masked:
        return Masked(ctx.policy, ctx.vocab_size - 1, self.pattern, self.samples)

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        return model.work(batch, length, vocab_size - 1, self.pattern)  # the mask id has no logit
