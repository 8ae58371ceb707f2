"""CAT: trained weights of several frozen adapters, one an adapter and matrix (LoRA Soups, arXiv 2410.13025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, NonNegativeFloat, PrivateAttr
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.contracts import LowRank, ParametrizationPart
from ...core.cost import Cost, Work
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape, new_role
from ...ledger import formulas
from ..low_rank import LowRankPart

SHARE = new_role("adapter_share", decays=False)


class Cat(nn.Module):
    """x W' + sum_i w_i (x A_i') B_i' with frozen factors; w = softmax(raw), or raw itself.

    Args:
        rows: of the weight, its output width.
        columns: of the weight, its input width.
        ranks: of the adapters.
        softmax: weights are softmax(raw), raw drawn from N(0, spread^2); otherwise raw, drawn around 1 / adapters.
        spread: standard deviation of raw at first.
        rng: of raw.
    """

    role = SHARE
    A: Tensor
    B: Tensor

    def __init__(self, rows: int, columns: int, ranks: Sequence[int], softmax: bool, spread: float, rng: Rng) -> None:
        super().__init__()
        self.ranks, self.softmax = tuple(ranks), softmax
        drawn = torch.from_numpy(rng("raw").at().standard_normal(len(ranks), dtype="float32"))
        self.raw = nn.Parameter(spread * drawn + (0.0 if softmax else 1 / len(ranks)))
        self.register_buffer("A", torch.zeros(sum(ranks), columns))
        self.register_buffer("B", torch.zeros(rows, sum(ranks)))

    @torch.no_grad()
    def adopt(self, updates: Sequence[LowRank | None]) -> None:
        """Take up the adapters' factors, their scales within A; one that lacks this module keeps its share.

        Of an adapter whose rank is lower here than elsewhere the other ranks stay zero.
        """
        first = 0
        for rank, update in zip(self.ranks, updates, strict=True):
            if update is not None:
                own = update.a.shape[0]
                if update.magnitude is not None or own > rank:
                    raise UsageError(f"an adapter is no plain update of rank {rank}", fix="name runs trained with lora")
                self.A[first : first + own] = update.scale * update.a
                self.B[:, first : first + own] = update.b
            first += rank

    def _shares(self) -> Tensor:
        """Each adapter's weight, once for each of its ranks."""
        weights = self.raw.softmax(0) if self.softmax else self.raw
        return torch.cat([weight.expand(rank) for weight, rank in zip(weights, self.ranks, strict=True)])

    def product(self, weight: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        cast, down, up, shares = (t.to(dtype) for t in (weight, self.A, self.B, self._shares()))
        return lambda x: F.linear(x, cast) + F.linear(F.linear(x, down) * shares, up)

    def finalize(self, weight: Tensor) -> Tensor:
        return weight + self.B @ (self._shares()[:, None] * self.A)

    def low_rank(self) -> LowRank:
        return LowRank(self._shares()[:, None] * self.A, self.B)


@part
class CatPart(ParametrizationPart):
    """Learned concatenation of adapters: only their weights are trained, one an adapter and matrix."""

    alone: ClassVar[bool] = True
    adapters: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names in the recipe's ``models`` of runs that were trained with ``lora`` from the same start, or of directories
    of LoRA adapters in PEFT's layout."""
    softmax: bool = True
    """Weights of a matrix are positive and sum to 1, as published; otherwise they are free."""
    spread: NonNegativeFloat = 1.0
    """Standard deviation of the trained numbers at first; 0: all adapters begin alike."""
    _ranks: tuple[int, ...] = PrivateAttr(())
    card = Card(
        summary="Several frozen LoRA adapters with one trained weight an adapter and matrix",
        paper="LoRA Soups: Prabhakar et al. 2024, arXiv 2410.13025",
        equation="x W' + sum_i softmax(raw)_i s_i (x A_i') B_i'; raw from N(0, 1)",
        defaults="one epoch on 10,000 examples of the skills' own data, AdamW at 1e-4",
        differs="no dropout; an adapter that lacks a matrix keeps its share of the softmax there",
        cost="two thin products of the adapters' summed rank beside each; no gradient but the activations'",
    )

    @property
    def adopts(self) -> tuple[str, ...]:
        return self.adapters

    def given(self, others: Mapping[str, ParametrizationPart | None]) -> Self:
        copy = self.model_copy()
        parts = [others.get(name) for name in self.adapters]
        copy._ranks = tuple(part.rank if isinstance(part, LowRankPart) else 1 for part in parts)
        return copy

    def legal(self, other: ParametrizationPart | None) -> bool:
        return isinstance(other, LowRankPart) and other.sums

    def build(self, rows: int, columns: int, rng: Rng) -> Cat:
        return Cat(rows, columns, self._ranks, self.softmax, self.spread, rng)

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return [Shape("raw", SHARE, (len(self.adapters),))]

    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool, own: frozenset[str]) -> Work:
        rank = sum(self._ranks)
        base = formulas.linear(tokens, columns, rows, input_gradient=live, weight_gradient=trained)
        down = formulas.linear(tokens, columns, rank, input_gradient=live, weight_gradient=False)
        up = formulas.linear(tokens, rank, rows, input_gradient=live or bool(own), weight_gradient=False)
        shares = Cost(elementwise=tokens * rank, moved=12 * tokens * rank)
        return base + down + up + Work(forward=shares, backward=shares * 2)
