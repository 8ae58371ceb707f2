"""Next-token prediction: maximum likelihood of each token given those before it."""

from __future__ import annotations

from ...core.context import Context
from ...core.protocols import Batch, Loss, ObjectivePart
from ...core.registry import Card, part
from ..linear_cross_entropy import linear_cross_entropy


class NextToken:
    """-sum log p(target_t | inputs_1 .. inputs_t) over the targets that count, in nats."""

    def loss(self, batch: Batch, ctx: Context) -> Loss:
        hidden = ctx.policy.hidden(batch.inputs)
        total = linear_cross_entropy(hidden, ctx.policy.head, batch.targets, batch.mask)
        return Loss(total, batch.tokens, batch.text_bytes)


@part
class NextTokenPart(ObjectivePart):
    """Cross-entropy of the next token."""

    card = Card(
        summary="Maximum likelihood of each token given those before it",
        paper="Bengio et al. 2003, A Neural Probabilistic Language Model",
        equation="-sum_t log p(x_{t+1} | x_1 .. x_t)",
        cost="one forward and one backward of the model; the logits' gradient is computed in the forward",
    )

    def build(self, ctx: Context) -> NextToken:
        return NextToken()
