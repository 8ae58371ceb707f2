"""Masked diffusion: fill in what was hidden; a bound on the likelihood in any order.

Some of a sequence's tokens are hidden behind a mask id; the model sees all positions and predicts the hidden ones. What
is hidden, and what each hidden token's loss weighs, is in ``objectives/masking.py``: all dialects estimate one bound,
the mean of -log p over all orders in which the tokens could be written one by one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from ...core.context import Context
from ...core.contracts import Documents, Filling, Likelihood, Loss, ModelPart, ObjectivePart, Pattern, TokenBatch
from ...core.cost import Cost, Work
from ...core.courses import CourseName
from ...core.documents import Later
from ...core.errors import DataError
from ...core.registry import Card, get, part
from ...models.attend import softly_capped
from ..linear_cross_entropy import cap_of, cross_entropy, linear_cross_entropy, pass_cost
from ..masking import Corruption, Kind, Weighing, given, may_be_hidden
from ..orders import MOST, LogP, drawn_ranks, enumerated, in_order

Estimate = Literal["masks", "orders", "exact"]
HIDDEN = "hidden"
"""The column of a batch whose source says itself what is hidden: bool (batch, length)."""


class Masked:
    """The bound, estimated with one corruption of each row of the batch, in nats.

    The sequence is the batch's ``targets``; targets that do not count (a prompt, the filling of a last window) are
    always shown. The random numbers are the batch's own. A batch with a column ``hidden`` says itself what is hidden,
    and is told how sure the model was of each token (``Loss.kept``).

    Example::

        objective = Masked(model, Filling(mask=52, ids=52, pattern=FullPattern()))  # a model of 53 ids
        bound = objective.nll(batch).total  # nats, at least -log p in expectation

    Args:
        policy: a ``Model``.
        filling: its conventions.
        corruption: of training, and of the bound's estimates by masks.
        samples: estimates of the bound in ``nll``, or orders.
        focal: exponent by which the loss of tokens that are predicted well is lowered; 0: the bound.
        estimate: how ``nll`` measures: by "masks", by "orders" written out token by token, or "exact", by enumeration.
    """

    def __init__(
        self,
        policy: Any,
        filling: Filling,
        corruption: Corruption = Corruption(),
        *,
        samples: int = 8,
        focal: float = 0.0,
        estimate: Estimate = "masks",
    ) -> None:
        self.policy, self.filling, self.corruption = policy, filling, corruption
        self.samples, self.focal, self.estimate = samples, focal, estimate
        self.bound = estimate != "exact"
        self.how = {
            "masks": f"an upper bound, the mean over {samples} random masks of each window",
            "orders": f"an upper bound, the mean over {samples} random orders of each window, token by token",
            "exact": "the mean of p over all orders of each window, enumerated",
        }[estimate]

    def loss(self, batch: TokenBatch) -> Loss:
        hidden, weight = self.corrupt(batch)
        best = torch.empty(hidden.shape, device=hidden.device) if HIDDEN in batch.columns else None
        total = (self._focal if self.focal else self._loss)(batch, hidden, weight, best)
        return Loss(total, kept={} if best is None else {"confidence": best})

    @torch.no_grad()
    def nll(self, batch: TokenBatch) -> Loss:
        """What is measured of -log p of the batch's targets, summed, in nats."""
        if self.estimate == "masks":
            return self._by_masks(batch)
        rows = [self._row(batch, row) for row in range(len(batch.targets))]
        passes = sum(count for _, count in rows)
        total = torch.tensor(sum(value for value, _ in rows), dtype=torch.float64)
        return Loss(total, spent={"evaluation": self._pass(1, batch.targets.shape[1]) * passes})

    def _by_masks(self, batch: TokenBatch) -> Loss:
        """The mean of ``samples`` estimates, whose times lie in as many equal parts of (0, 1)."""
        assert batch.draws is not None, "a metric hands its batches their random numbers"
        may, bound, device = may_be_hidden(batch), replace(self.corruption, weight="bound"), batch.targets.device
        drawn = (bound.draw(may, batch.draws, i, self.samples) for i in range(self.samples))
        total = sum(self._loss(batch, *(torch.from_numpy(x).to(device) for x in pair)) for pair in drawn)
        spent = self._pass(*batch.targets.shape) * self.samples
        return Loss(torch.as_tensor(total / self.samples), spent={"evaluation": spent})

    def _row(self, batch: TokenBatch, row: int) -> tuple[float, int]:
        """-log p of one row in random orders, or over all of them, and how many rows the model saw for that."""
        assert batch.draws is not None
        may, block = may_be_hidden(batch)[row], self.filling.block
        if not may.any():
            return 0.0, 0
        log_p = self.log_p(batch, row)
        if self.estimate == "exact":
            return enumerated(log_p, may.tolist(), block)[0], 2 ** int(may.sum())
        drawn = [drawn_ranks(may, batch.draws.at(f"order {i}", row), block) for i in range(self.samples)]
        return sum(in_order(log_p, ranks) for ranks in drawn) / self.samples, self.samples * int(may.sum())

    def log_p(self, batch: TokenBatch, row: int) -> LogP:
        """Of one row of a batch: log p of each of its tokens given those that are shown."""

        def found(hidden: Tensor) -> Tensor:
            hidden = hidden.to(batch.targets.device)
            inputs, targets = (ids[row].expand(hidden.shape) for ids in (batch.inputs, batch.targets))
            columns = {name: column[row].expand(hidden.shape) for name, column in _seen_by(batch)}
            alone = TokenBatch(inputs, targets, text_bytes=0, columns=columns)
            vectors, (head, ids) = self._vectors(alone, hidden), self._among(alone.targets)
            return -linear_cross_entropy(vectors, head, ids, cap=cap_of(self.policy), reduction="none").cpu()

        return found

    def _pass(self, rows: int, length: int) -> Cost:
        """What a forward pass over so many windows costs."""
        ids = self.filling.ids - self.filling.masks_an_id
        return pass_cost(self.policy, rows, *_fed(self.filling, length), length, ids)

    def _among(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The head's rows that have a probability, and the targets as numbers of these: the mask's is left out."""
        head, mask = self.policy.head[: self.filling.ids], self.filling.mask
        if not self.filling.masks_an_id:
            return head, targets
        return torch.cat((head[:mask], head[mask + 1 :])), targets - (targets > mask).long()

    def _loss(self, batch: TokenBatch, hidden: Tensor, weight: Tensor, best: Tensor | None = None) -> Tensor:
        (head, ids), cap = self._among(batch.targets), cap_of(self.policy)
        return linear_cross_entropy(self._vectors(batch, hidden), head, ids, weight, cap=cap, best=best)

    def _focal(self, batch: TokenBatch, hidden: Tensor, weight: Tensor, best: Tensor | None = None) -> Tensor:
        """sum of weight (1 - p)^focal CE, differentiated as it stands."""
        vectors, (head, ids), cap = self._vectors(batch, hidden), self._among(batch.targets), cap_of(self.policy)
        logits = F.linear(vectors, head.to(vectors.dtype))
        logits = logits if cap is None else softly_capped(logits, cap)
        if best is not None:
            best.copy_(torch.log_softmax(logits.detach().float(), -1).amax(-1))
        losses = cross_entropy(logits, ids)
        return (weight * (1 - torch.exp(-losses)).pow(self.focal) * losses).sum()

    def _vectors(self, batch: TokenBatch, hidden: Tensor) -> Tensor:
        """(batch, length, width): what the model makes of each target's position with some of them hidden."""
        x, filling = batch.targets, self.filling
        if x.device.type == "cpu":
            fix = "use the tokenizer of the recipe; the mask is no token of a text"
            if int(x.max()) >= filling.ids:
                what = f"holds the id {int(x.max())}, but ids from {filling.ids} on stand for what is hidden"
                raise DataError(what, where="source", fix=fix)
            if filling.masks_an_id and bool((x == filling.mask).any()):
                raise DataError(
                    f"holds the id {filling.mask}, which stands for what is hidden", where="source", fix=fix
                )
        tokens, documents = torch.where(hidden, filling.mask, x), batch.columns.get("documents")
        if filling.block is not None:
            tokens = _in_turn(tokens, x, filling.block)
            documents = None if documents is None else _in_turn(documents, documents, filling.block)
        if filling.shifted:
            tokens = torch.cat((batch.inputs[:, :1], tokens), 1)
            documents = None if documents is None else torch.cat((documents, documents[:, -1:]), 1)
        pattern = _fed(filling, x.shape[1])[1]
        vectors: Tensor = self.policy.hidden(tokens, pattern if documents is None else Documents(documents, pattern))
        if filling.block is not None:
            return vectors.view(len(x), -1, 2, filling.block, vectors.shape[-1])[:, :, 0].flatten(1, 2)
        return vectors[:, :-1] if filling.shifted else vectors

    def corrupt(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """What is hidden in a step of training, and the weight of each position's loss.

        Returns:
            ``hidden`` bool and ``weight`` float32, both (batch, length); the weight is 0 where nothing is hidden.
        """
        assert batch.draws is not None, "a step or a metric hands its batches their random numbers"
        may = may_be_hidden(batch)
        if HIDDEN in batch.columns:
            hidden = batch.columns[HIDDEN].cpu().numpy() & may
            weight = given(hidden, may)
        else:
            hidden, weight = self.corruption.draw(may, batch.draws)
        device = batch.targets.device
        return torch.from_numpy(hidden).to(device), torch.from_numpy(weight).to(device)


def _seen_by(batch: TokenBatch) -> list[tuple[str, Tensor]]:
    """The columns that say who sees whom."""
    return [(name, column) for name, column in batch.columns.items() if name == "documents"]


def _fed(filling: Filling, length: int) -> tuple[int, Pattern]:
    """Positions that the model is fed to predict ``length`` tokens, and who sees whom among them."""
    if filling.block is not None:
        beside: Any = get("pattern", "block_diffusion")
        return 2 * length, beside(size=filling.block)
    return length + filling.shifted, filling.pattern


def _in_turn(corrupted: Tensor, clean: Tensor, block: int) -> Tensor:
    """Blocks of two (batch, length) tensors in turn: (batch, 2 length)."""
    pairs = torch.stack([x.view(len(x), -1, block) for x in (corrupted, clean)], 2)
    return pairs.flatten(1)


@part
class MaskedPart(ObjectivePart):
    """Masked diffusion with a mask id of its own; by default the plain bound with weight 1 / p.

    Trains a model to write in any order, several tokens at a time, or between what is there. Started from an
    autoregressive run (``start``) with ``shifted``, it goes on where that model predicts. Give the model learned
    ``positions``: by rotary ones alone a row of masks looks the same everywhere.

    Example:
        >>> MaskedPart().filling(vocab_size=258).mask, MaskedPart(block=16).pattern.name
        (257, 'blocks')
    """

    samples: PositiveInt = 8
    """Estimates of the bound (or orders) that are averaged when held-out text is measured."""
    corruption: Annotated[Kind, Later()] = "bernoulli"
    """What is hidden: each token with a chance p a row ("bernoulli"), p spread evenly over the rows ("stratified"), or
    a uniform "count" of tokens."""
    course: Annotated[CourseName, Later()] = "linear"
    """p(t) for uniform t; the weight p' / p makes every course the same bound, at other variance."""
    weight: Annotated[Weighing, Later()] = "bound"
    """"linear" (1.05 - p) and "uniform" weigh hidden tokens otherwise in training, where the loss is no bound then."""
    focal: Annotated[NonNegativeFloat, Later()] = 0.0
    """Exponent g of a factor (1 - p(token))^g on each token's loss in training."""
    shifted: Annotated[bool, Later()] = False
    """Whether a token is predicted one position before it, as in an autoregressive model: for starts from one."""
    block: Annotated[PositiveInt | None, Later()] = None
    """Tokens of a block: text is written block after block, each given the clean ones before it; a divisor of
    train.length. By default all is one block."""
    estimate: Annotated[Estimate, Later()] = "masks"
    """How held-out text is measured: the bound by random "masks", or by "orders" written out token by token (the same
    bound, a pass for each token), or -log p itself, "exact", over all orders (at most 12 tokens a window)."""
    card = Card(
        summary="Fill in masked tokens, everything visible; a bound on -log p in any order",
        paper="Sahoo et al. 2024, arXiv 2406.07524; Shi et al. 2024, arXiv 2406.04329; count: Kim et al. 2025, arXiv "
        "2502.06768; focal, linear: Ye et al. 2024, arXiv 2410.14157; shifted: Gong et al. 2024, arXiv 2410.17891; "
        "block: Arriola et al. 2025, arXiv 2503.09573",
        equation="E_p (1/p) sum_{i masked} -log p(x_i | the others shown), p uniform, each i masked with chance p",
        differs="no time embedding, the mask id's logit is left out of the softmax, one p a sequence (a block); linear "
        "is 1.05 - p for p of any size, where the authors have 20 steps",
        cost="one forward and one backward of the model with full attention; measuring takes `samples` forwards; "
        "blocks: twice as many positions",
    )
    provides = frozenset({Likelihood})

    @property
    def extra_ids(self) -> int:
        return 1

    @property
    def pattern(self) -> Pattern:
        pattern: Any = get("pattern", "full" if self.block is None else "blocks")
        return pattern() if self.block is None else pattern(size=self.block)  # type: ignore[no-any-return]

    @property
    def patterns(self) -> tuple[Pattern | None, ...]:
        """That in writing and, where text comes in blocks, that of hidden blocks beside clean ones."""
        beside: Any = get("pattern", "block_diffusion")
        return (self.pattern,) if self.block is None else (self.pattern, beside(size=self.block))

    def filling(self, vocab_size: int) -> Filling:
        mask = vocab_size - 1
        return Filling(mask=mask, ids=mask, pattern=self.pattern, shifted=self.shifted, block=self.block)

    def build(self, ctx: Context) -> Masked:
        corruption = Corruption(self.corruption, self.course, self.weight, self.block)
        settings: dict[str, Any] = {"samples": self.samples, "focal": self.focal, "estimate": self.estimate}
        published = ctx.filling is not None and ctx.filling.masks_an_id
        return Masked(ctx.policy, ctx.filling if published else self.filling(ctx.vocab_size), corruption, **settings)

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        ids = vocab_size - 1  # the mask id has no logit
        fed, pattern = _fed(self.filling(vocab_size), length)
        if fed == length:
            return model.work(batch, length, ids, pattern)
        head = model.work(batch, length, ids) - model.work(batch, length, 0)
        return model.work(batch, fed, 0, pattern) + head

    def check(self, recipe: Any) -> list[str]:
        length, found = recipe.train.length, []
        if self.block is not None and length % self.block:
            found.append(f"objective.block: {self.block} does not divide train.length = {length}; choose a divisor")
        if self.block is not None and self.shifted:
            found.append("objective.shifted: predictions of blocks stand at their own positions; leave out one of both")
        if self.corruption == "count" and self.course != "linear":
            found.append(f"objective.course: a count has none ({self.course}); leave it out, or use bernoulli")
        if self.estimate == "exact" and length > MOST:
            found.append(f"objective.estimate: exact enumerates windows of at most {MOST} tokens, not {length}")
        return found
