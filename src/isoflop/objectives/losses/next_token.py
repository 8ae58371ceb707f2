"""Next-token prediction: maximum likelihood of each token given those before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from ...core.context import Context
from ...core.contracts import (
    Documents,
    Guess,
    Likelihood,
    Linearizing,
    Loss,
    LossOf,
    ObjectivePart,
    Outputs,
    Predicts,
    Resampling,
    TokenBatch,
)
from ...core.registry import Card, part
from ..linear_cross_entropy import cap_of, cross_entropy, likeliest, linear_cross_entropy


class NextToken:
    """-sum log p(target_t | inputs_1 .. inputs_t) over the targets that count, in nats.

    Example::

        objective = NextToken(model)
        (objective.loss(batch).total / batch.units).backward()  # the mean over the targets

    Args:
        policy: a causal ``Model``.
    """

    bound = False

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def loss(self, batch: TokenBatch) -> Loss:
        hidden = self.policy.hidden(batch.inputs, self._seen(batch))
        return Loss(linear_cross_entropy(hidden, self.policy.head, batch.targets, batch.mask, cap=cap_of(self.policy)))

    def nll(self, batch: TokenBatch) -> Loss:
        """The same number, exactly the model's -log p of the batch's targets; one forward pass."""
        return replace(self.loss(batch), spent={"evaluation": self.policy.flops(*batch.inputs.shape).forward})

    @torch.no_grad()
    def predict(self, batch: TokenBatch) -> Guess:
        """The likeliest next token; of equally likely ones the first."""
        ids = likeliest(self.policy.hidden(batch.inputs, self._seen(batch)), self.policy.head)
        return Guess(ids, {"evaluation": self.policy.flops(*batch.inputs.shape).forward})

    @torch.no_grad()
    def resample(self, batch: TokenBatch) -> TokenBatch:
        """The batch with targets drawn from the policy's own predictions, each row by its own random numbers."""
        assert batch.draws is not None, "a step hands its batches their random numbers"
        probabilities = torch.softmax(self.policy(batch.inputs, self._seen(batch)).double(), -1)
        cumulative = probabilities.cumsum(-1)
        rows, length = batch.inputs.shape
        uniform = np.stack([batch.draws.at("resample", i).random(length) for i in range(rows)])
        drawn = torch.from_numpy(uniform).to(cumulative.device)[..., None] * cumulative[..., -1:]
        targets = torch.searchsorted(cumulative, drawn, right=True).squeeze(-1)
        return replace(batch, targets=targets.clamp_(max=cumulative.shape[-1] - 1))

    def linearize(self, batch: TokenBatch) -> tuple[Outputs, LossOf]:
        """Logits (batch, length, vocab) as a function of the policy's parameters, and the loss as one of the logits."""
        policy, seen = self.policy, self._seen(batch)

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(policy, parameters, (batch.inputs, seen))  # type: ignore[no-any-return]

        def loss(logits: Tensor) -> Tensor:
            return cross_entropy(logits, batch.targets, batch.mask).sum()

        return outputs, loss

    @staticmethod
    def _seen(batch: TokenBatch) -> Documents | None:
        """The past, within documents where the batch keeps them apart."""
        documents = batch.columns.get("documents")
        return None if documents is None else Documents(documents)


@part
class NextTokenPart(ObjectivePart):
    """Cross-entropy of the next token."""

    card = Card(
        summary="Maximum likelihood of each token given those before it",
        paper="Bengio et al. 2003, A Neural Probabilistic Language Model",
        equation="-sum_t log p(x_{t+1} | x_1 .. x_t)",
        cost="one forward and one backward of the model; the logits' gradient is computed in the forward",
    )
    provides = frozenset({Likelihood, Predicts, Resampling, Linearizing})

    def build(self, ctx: Context) -> NextToken:
        return NextToken(ctx.policy)
