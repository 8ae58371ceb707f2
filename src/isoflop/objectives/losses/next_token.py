"""Next-token prediction: maximum likelihood of each token given those before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from ...core.context import Context
from ...core.protocols import Batch, Loss, LossOf, ObjectivePart, Outputs
from ...core.registry import Card, part
from ...core.rng import Rng
from ..linear_cross_entropy import cross_entropy, linear_cross_entropy


class NextToken:
    """-sum log p(target_t | inputs_1 .. inputs_t) over the targets that count, in nats."""

    def loss(self, batch: Batch, ctx: Context) -> Loss:
        hidden = ctx.policy.hidden(batch.inputs)
        total = linear_cross_entropy(hidden, ctx.policy.head, batch.targets, batch.mask)
        return Loss(total, batch.tokens, batch.text_bytes)

    @torch.no_grad()
    def resample(self, batch: Batch, ctx: Context, rng: Rng, step: int) -> Batch:
        """The batch with targets drawn from the policy's own predictions: row i uses number (step, i) of ``rng``."""
        probabilities = torch.softmax(ctx.policy(batch.inputs).double(), -1)
        cumulative = probabilities.cumsum(-1)
        rows, length = batch.inputs.shape
        uniform = np.stack([rng.at(step, i).random(length) for i in range(rows)])
        drawn = torch.from_numpy(uniform).to(cumulative.device)[..., None] * cumulative[..., -1:]
        targets = torch.searchsorted(cumulative, drawn, right=True).squeeze(-1)
        return replace(batch, targets=targets.clamp_(max=cumulative.shape[-1] - 1))

    def linearize(self, batch: Batch, ctx: Context) -> tuple[Outputs, LossOf]:
        """Logits (batch, length, vocab) as a function of the policy's parameters, and the loss as one of the logits."""
        policy = ctx.policy

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(policy, parameters, (batch.inputs,))  # type: ignore[no-any-return]

        def loss(logits: Tensor) -> Tensor:
            return cross_entropy(logits, batch.targets, batch.mask).sum()

        return outputs, loss


@part
class NextTokenPart(ObjectivePart):
    """Cross-entropy of the next token."""

    card = Card(
        summary="Maximum likelihood of each token given those before it",
        paper="Bengio et al. 2003, A Neural Probabilistic Language Model",
        equation="-sum_t log p(x_{t+1} | x_1 .. x_t)",
        cost="one forward and one backward of the model; the logits' gradient is computed in the forward",
    )
    provides = frozenset({"Resampling", "Linearizing"})

    def build(self, ctx: Context) -> NextToken:
        return NextToken()
