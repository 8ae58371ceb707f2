"""What a model needs beside its blocks to insert tokens: how many are missing in each gap, at a time.

A sequence begins with an id that says how late it is, which stands for no text; so a sequence of n tokens has n + 1
positions, and the vector at position j speaks of the gap behind the first j tokens (Kim et al. 2025, FlexMDM, arXiv
2509.01025). Rows of fewer tokens are filled up with the mask, which nothing of them sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import OWNED, Filling, Model, ModelPart
from ..core.cost import Cost, Work
from ..core.rng import Rng
from ..core.roles import Shape
from ..ledger import formulas
from .attend import softly_capped
from .cost import pointwise
from .layers import Matrix, exact, initialise, matrix_shapes
from .pricing import vectors_live


class GapHead(nn.Module):
    """Expected number of tokens missing in each gap: (1 - a) softplus(w' gelu(W h)), a the share that is there.

    Args:
        width: of the model's vectors.

    Example:
        >>> from isoflop.core.rng import Rng
        >>> head = OwnsGapHead().build(32, Rng(0))
        >>> head(torch.zeros(2, 5, 32), torch.tensor([0.0, 0.5]))[:, 0].tolist()  # softplus(0), and half of it
        [0.6931471824645996, 0.3465735912322998]
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = Matrix(width, width, bias=True), Matrix(1, width, bias=True)

    def forward(self, vectors: Tensor, there: Tensor) -> Tensor:
        """Expected tokens of each gap.

        Args:
            vectors: (batch, gaps, width), as ``read`` gives them.
            there: fp32 (batch,), the share a(t) of tokens that are there, in [0, 1).

        Returns:
            (batch, gaps) fp32, above 0.
        """
        inner = F.gelu(self.inner.product(vectors.dtype)(vectors))
        scores = exact(self.outer.product(vectors.dtype)(inner)).squeeze(-1)
        return F.softplus(scores) * (1 - there)[:, None]


@dataclass(frozen=True)
class OwnsGapHead:
    """The head as what an objective adds to its policy (``core.contracts.Owned``).

    Example:
        >>> [shape.name for shape in OwnsGapHead().shapes(32)]
        ['inner.weight', 'inner.bias', 'outer.weight', 'outer.bias']
    """

    def build(self, width: int, rng: Rng) -> GapHead:
        """The head, beside a model whose vectors are ``width`` wide."""
        head = GapHead(width)
        initialise(head, rng, 1.0)
        return head

    def shapes(self, width: int) -> list[Shape]:
        """Names, roles and shapes of its parameters."""
        return [*matrix_shapes("inner", width, width, bias=True), *matrix_shapes("outer", 1, width, bias=True)]

    def work(self, model: ModelPart, vectors: int, vocab_size: int) -> Work:
        """Exact work of the head's forward and backward on ``vectors`` vectors of a model."""
        own, treatment = model.shapes(vocab_size), replace(model.treatment, owned=self)
        live = vectors_live(model, vocab_size)
        trains = {
            shape.name.removeprefix(f"{OWNED}."): treatment.trains(shape) for shape in treatment.owned_shapes(own)
        }
        width, total = own[0].shape[-1], Work()
        for name, rows in (("inner", width), ("outer", 1)):
            weight = trains[f"{name}.weight"]
            total += formulas.linear(vectors, width, rows, input_gradient=live, weight_gradient=weight)
            live = live or weight or trains[f"{name}.bias"]
            total += pointwise(vectors * rows, operations=4)
        return total


def forward_cost(vectors: int, width: int) -> Cost:
    """Exact cost of the head's forward pass on ``vectors`` vectors, ``width`` wide."""
    each = [formulas.linear(vectors, width, rows) + pointwise(vectors * rows, operations=4) for rows in (width, 1)]
    return sum((work.forward for work in each), Cost())


def read(model: Any, filling: Filling, tokens: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
    """The vectors of sequences that are being written.

    Args:
        model: a ``Model``.
        filling: its conventions; it inserts.
        tokens: int64 (batch, n), each row's tokens at its beginning; what lies behind them does not matter.
        lengths: int64 (batch,), how many each row has.
        times: float (batch,) in [0, 1).

    Returns:
        (batch, n + 1, width): position 0 and that of each token. Position j speaks of the gap behind j tokens, position
        j + 1 of what token j is.
    """
    late = filling.mask + 1 + (times * filling.times).long().clamp_(0, filling.times - 1)
    beyond = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    sequence = torch.cat((late[:, None], tokens.masked_fill(beyond, filling.mask)), 1)
    documents = torch.cat((beyond.new_zeros(len(beyond), 1), beyond), 1).long()
    vectors: Tensor = model.hidden(sequence, filling.seen(documents))
    return vectors


def token_logits(model: Any, filling: Filling, vectors: Tensor) -> Tensor:
    """Logits (batch, n, ids) of what each token is, from ``read``'s vectors."""
    logits = F.linear(vectors[:, 1:], model.head[: filling.ids].to(vectors.dtype))
    cap = getattr(model, "cap", None)
    return logits if cap is None else softly_capped(logits, cap)


def reading_cost(model: Model, filling: Filling, length: int) -> Cost:
    """Exact cost of ``read``, ``token_logits`` and ``expected_gaps`` on one sequence of so many tokens."""
    vocab, width = model.head.shape  # type: ignore[attr-defined]
    whole = model.flops(1, length + 1, filling.pattern).forward
    unread = formulas.linear(length + 1, width, vocab).forward + Cost(elementwise=4 * (length + 1) * vocab)
    logits = formulas.linear(length, width, filling.ids).forward + Cost(elementwise=4 * length * filling.ids)
    return whole - unread + logits + forward_cost(length + 1, width)


def expected_gaps(model: Any, vectors: Tensor, there: Tensor) -> Tensor:
    """Expected tokens (batch, n + 1) fp32 of each gap, from ``read``'s vectors and the share (batch,) that is there."""
    gaps: Tensor = getattr(model, OWNED)(vectors, there)
    return gaps
