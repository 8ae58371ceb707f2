"""FlexMDM: masked diffusion of texts of any length, by inserting masks and filling them in at once.

A model guesses what hidden tokens are and how many are missing in each gap (``models/insertion.py``). With courses a
and b of what is there and of what is shown (``objectives/vanishing.py``), over uniform t,

    -log p(x) <= E_t [ b'/(1 - b) sum over hidden tokens of CE + a'/(1 - a) sum over gaps of (h - g + g log(g / h)) ],

g the number missing in a gap and h the one expected: the difference between the paths of the corruption run backwards
and the model's own (Kim et al. 2025, arXiv 2509.01025, proposition 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import Filling, Likelihood, Loss, ModelPart, ObjectivePart, Owned, Pattern, TokenBatch
from ...core.cost import Work
from ...core.courses import CourseName, course
from ...core.errors import UsageError
from ...core.registry import Card, get, part
from ...models.insertion import OwnsGapHead, expected_gaps, forward_cost, read
from ..linear_cross_entropy import cap_of, linear_cross_entropy, pass_cost
from ..masking import may_be_hidden
from ..vanishing import LATEST, Left, left_at, times_of

LEAST = 1e-6
"""The smallest expected number whose logarithm is taken."""


class FlexMdm:
    """The bound above, estimated at one time for each row of the batch, in nats.

    The text is the batch's ``targets``. Of those that do not count, the ones before the last that does are given (a
    prompt), the ones behind it are padding. The random numbers are the batch's own.

    Example::

        objective = FlexMdm(model, FlexMdmPart(times=4).filling(53))  # a model of 53 ids
        bound = objective.nll(batch).total  # nats, at least -log p in expectation

    Args:
        policy: a ``Model`` that owns a gap head.
        filling: its conventions.
        samples: estimates of the bound in ``nll``.
    """

    bound = True

    def __init__(self, policy: Any, filling: Filling, samples: int = 8) -> None:
        self.policy, self.filling, self.samples = policy, filling, samples
        self.how = f"an upper bound, the mean over {samples} random times of each window"
        self.inserted, self.unmasked = course(filling.inserted), course(filling.unmasked)

    def loss(self, batch: TokenBatch) -> Loss:
        unmasking, insertion = self._estimate(batch)
        terms = {"unmasking": unmasking.detach(), "insertion": insertion.detach()}
        return Loss(unmasking + insertion, terms)

    @torch.no_grad()
    def nll(self, batch: TokenBatch) -> Loss:
        """The mean of ``samples`` estimates, whose times lie in as many equal parts of (0, 1)."""
        total = sum(torch.stack(self._estimate(batch, i, self.samples)).sum() for i in range(self.samples))
        rows, length = batch.targets.shape
        forward = pass_cost(self.policy, rows, length + 1, self.filling.pattern, length, self.filling.ids)
        spent = (forward + forward_cost(rows * (length + 1), self.policy.head.shape[1])) * self.samples
        return Loss(torch.as_tensor(total / self.samples), spent={"evaluation": spent})

    def _estimate(self, batch: TokenBatch, number: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """The loss of hidden tokens, and that of gaps."""
        t, left = self.corrupt(batch, number, parts)
        x, device = batch.targets, batch.targets.device
        targets = x.gather(1, torch.from_numpy(left.places).to(device))
        hidden, gaps, opened = (torch.from_numpy(a).to(device) for a in (left.hidden, left.gaps, left.open))
        times, lengths = torch.from_numpy(t).to(device), torch.from_numpy(left.lengths).to(device)
        tokens = torch.where(hidden, self.filling.mask, targets)
        vectors = read(self.policy, self.filling, tokens, lengths, times)
        show, come = (torch.from_numpy(c.rate(t)).to(device, torch.float32) for c in (self.unmasked, self.inserted))
        head, cap = self.policy.head[: self.filling.ids], cap_of(self.policy)
        unmasking = linear_cross_entropy(vectors[:, 1:], head, targets, hidden * show[:, None], cap=cap)
        there = torch.from_numpy(self.inserted.at(t)).to(device, torch.float32)
        guessed = expected_gaps(self.policy, vectors, there)
        return unmasking, (gap_losses(guessed, gaps) * opened * come[:, None]).sum()

    def corrupt(self, batch: TokenBatch, number: int = 0, parts: int = 1) -> tuple[np.ndarray[Any, Any], Left]:
        """The time of each row, float64 (batch,), and what is left of it then."""
        assert batch.draws is not None, "a step or a metric hands its batches their random numbers"
        rows, length = batch.targets.shape
        t, comes, shows = np.zeros(rows), np.zeros((rows, length)), np.zeros((rows, length))
        for row in range(rows):
            draw = batch.draws.at("insert" if parts == 1 else f"insert {number}", row)
            t[row] = min((number + draw.random()) / parts, LATEST)
            comes[row], shows[row] = times_of(self.inserted, self.unmasked, draw.random(length), draw.random(length))
        may = may_be_hidden(batch)
        if "documents" in batch.columns:
            _refuse_several(batch.columns["documents"].cpu().numpy(), may)
        return t, left_at(t, comes, shows, may)


def _refuse_several(documents: np.ndarray[Any, Any], may: np.ndarray[Any, Any]) -> None:
    """UsageError if a row holds more than one text that counts; padding behind the text is one that does not."""
    counted = np.where(may, documents, -1)
    first = np.take_along_axis(counted, may.argmax(1)[:, None], 1)
    if (may & (counted != first)).any():
        fix = "let train.isolate_documents be false, and use a source whose rows are single texts"
        raise UsageError("texts that share a row cannot grow apart in it", where="objective.flexmdm", fix=fix)


def gap_losses(expected: Tensor, missing: Tensor) -> Tensor:
    """h - g + g log(g / h) of each gap, (batch, gaps) fp32; ``reference`` of one number: ``vanishing.poisson_loss``."""
    h, g = expected.clamp(min=LEAST), missing.float()
    return h - g + torch.xlogy(g, g.clamp(min=LEAST) / h)


@part
class FlexMdmPart(ObjectivePart):
    """Masked diffusion with insertions: a text's length is the model's to find.

    Trained from scratch, or from a run of ``masked`` by ``start``. A decoder begins with a prompt, or with nothing.

    Example:
        >>> filling = FlexMdmPart(times=8).filling(vocab_size=257 + 9)
        >>> filling.mask, filling.times
        (257, 8)
    """

    samples: PositiveInt = 8
    """Estimates of the bound that are averaged when held-out text is measured."""
    times: PositiveInt = 32
    """Ids that say how late it is: so many equal parts of (0, 1)."""
    inserted: CourseName = "linear"
    """Share of tokens that are there at t."""
    unmasked: CourseName = "linear"
    """Share of tokens, among those that came at 0, that are shown at t."""
    card = Card(
        summary="Fill in masked tokens and guess how many are missing in each gap; a bound on -log p",
        paper="Kim et al. 2025, FlexMDM, arXiv 2509.01025",
        equation="E_t b'/(1-b) sum_hidden CE + a'/(1-a) sum_gaps (h - g + g log(g/h))",
        defaults="inserted sine for brackets, linear for text",
        differs="the time is an id before the text (one of `times`), which also stands before the first gap, where the "
        "authors condition every norm on it; h is (1 - a(t)) softplus of a small network, theirs L softplus",
        cost="one forward and one backward of the model with full attention on one position more; a head of "
        "width (width + 1) parameters, with biases",
    )
    provides = frozenset({Likelihood})

    @property
    def extra_ids(self) -> int:
        return 1 + self.times

    @property
    def owned(self) -> Owned:
        return OwnsGapHead()

    @property
    def pattern(self) -> Pattern:
        full: Any = get("pattern", "full")
        return full()  # type: ignore[no-any-return]

    def filling(self, vocab_size: int) -> Filling:
        mask = vocab_size - self.extra_ids
        return Filling(mask, mask, self.pattern, times=self.times, inserted=self.inserted, unmasked=self.unmasked)

    def build(self, ctx: Context) -> FlexMdm:
        return FlexMdm(ctx.policy, self.filling(ctx.vocab_size), self.samples)

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        ids = vocab_size - self.extra_ids
        head = model.work(batch, length, ids) - model.work(batch, length, 0)
        trunk = model.work(batch, length + 1, 0, self.pattern)
        return trunk + head + OwnsGapHead().work(model, batch * (length + 1), vocab_size)

    def check(self, recipe: Any) -> list[str]:
        if recipe.train.isolate_documents:
            return ["train.isolate_documents: texts that share a row cannot grow apart in it; let it be false"]
        return []
