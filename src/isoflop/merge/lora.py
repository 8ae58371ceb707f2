"""The algebra of low-rank adapters: sums, differences and multiples are exact, compression says its error.

An adapter adds ``scale * B A`` to the weights of some modules. Sums of adapters are stacked factors: their rank is the
sum of the ranks and nothing mixes. Adding the factors instead, as is often done, leaves cross terms ``B_i A_j``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import UsageError

Combine = Callable[[Sequence[Tensor], Sequence[float]], Tensor]
"""(tensors, weights) -> one tensor, e.g. a merge method with zeros as its base."""


@dataclass(frozen=True)
class Factor:
    """The update of one module: ``scale * b @ a``.

    Attributes:
        a: (rank, in); of an embedding (rank, rows).
        b: (out, rank); of an embedding (width, rank).
        scale: alpha / rank, or alpha / sqrt(rank) for rsLoRA.
        kind: an embedding's weight (rows, width) takes the transposed update.
        magnitude: DoRA's length of each output row (out,); None without DoRA.

    Example:
        >>> factor = Factor(a=torch.ones(2, 4), b=torch.ones(3, 2), scale=0.5)
        >>> factor.rank, factor.update().tolist()[0]
        (2, [1.0, 1.0, 1.0, 1.0])
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0
    kind: Literal["linear", "embedding"] = "linear"
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def update(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """scale * b @ a, (out, in), computed in ``dtype``."""
        return self.scale * (self.b.to(dtype) @ self.a.to(dtype))


@dataclass(frozen=True)
class Adapter:
    """A low-rank adapter.

    Attributes:
        modules: path of a module in the base -> its factors.
        saved: name of a tensor in the base -> what replaces it: modules trained whole, biases. Of an adapted module it
            is the weight to which the update is added (PEFT stores embeddings so).
        fan_in_fan_out: the base stores matrices (in, out), as GPT-2's Conv1D does.
        config: what else the adapter's own format says; carried along.

    Example:
        >>> factor = Factor(a=torch.ones(2, 4), b=torch.ones(3, 2))
        >>> adapter = Adapter({"layers.0.q": factor})
        >>> scaled(adapter, 2.0).modules["layers.0.q"].update().max().item()
        4.0
    """

    modules: Mapping[str, Factor]
    saved: Mapping[str, Tensor] = field(default_factory=dict)
    fan_in_fan_out: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


def scale_of(alpha: float, rank: int, *, rslora: bool = False) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def merged_weight(weight: Tensor, factor: Factor, *, transposed: bool = False, sign: float = 1.0) -> Tensor:
    """A module's weight with its update added in float64 and rounded once.

    Args:
        weight: (out, in), or (in, out) if ``transposed``; an embedding's (rows, width).
        factor: of the module.
        transposed: the weight is stored (in, out).
        sign: -1 takes a merged update off again.

    Raises:
        UsageError: DoRA's update cannot be taken off, since it is no sum.
    """
    update = factor.update()
    if transposed or factor.kind == "embedding":
        update = update.T
    total = weight.double() + sign * update
    if factor.magnitude is not None:
        if sign < 0:
            raise UsageError("an update with magnitudes (DoRA) cannot be taken off", fix="keep the base")
        out = 1 if transposed or factor.kind == "embedding" else 0
        lengths = torch.linalg.vector_norm(total, dim=1 - out, keepdim=True)
        total = total * (factor.magnitude.double().reshape(lengths.shape) / lengths)
    return total.to(weight.dtype)


def scaled(adapter: Adapter, by: float) -> Adapter:
    """The adapter with its updates times ``by``. UsageError if it holds more than low-rank updates."""
    _refuse_more(adapter)
    return replace(adapter, modules={n: replace(f, scale=f.scale * by) for n, f in adapter.modules.items()})


def concatenated(adapters: Sequence[Adapter], weights: Sequence[float] | Mapping[str, Sequence[float]]) -> Adapter:
    """sum w_i adapter_i, exactly, as an adapter of summed rank: A = [w_i s_i A_i], B = [B_i].

    Args:
        adapters: of one base; a module that one lacks gets nothing from it.
        weights: one an adapter, or module -> one an adapter.

    Raises:
        UsageError: the numbers of weights and adapters differ, or factors of a module do not fit each other.

    Example:
        >>> one, other = (Adapter({"q": Factor(torch.full((1, 2), x), torch.ones(3, 1))}) for x in (1.0, 3.0))
        >>> both = concatenated([one, other], [0.5, 0.5])
        >>> both.modules["q"].rank, both.modules["q"].update().tolist()[0]
        (2, [2.0, 2.0])
    """
    modules: dict[str, Factor] = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.modules):
        own = weights[name] if isinstance(weights, Mapping) else weights
        if len(own) != len(adapters):
            raise UsageError(f"{len(own)} weights for {len(adapters)} adapters", where=name)
        there = [
            (w, adapter.modules[name]) for w, adapter in zip(own, adapters, strict=True) if name in adapter.modules
        ]
        shapes = {(factor.a.shape[1], factor.b.shape[0], factor.kind) for _, factor in there}
        if len(shapes) > 1:
            raise UsageError(f"the adapters' shapes differ ({sorted(shapes)})", where=name, fix="are they of one base?")
        a = torch.cat([factor.a.double() * (weight * factor.scale) for weight, factor in there])
        b = torch.cat([factor.b for _, factor in there], dim=1)
        modules[name] = Factor(a.to(there[0][1].a.dtype), b, 1.0, there[0][1].kind)
    for adapter in adapters:
        _refuse_more(adapter)
    return replace(adapters[0], modules=modules)


def subtracted(adapter: Adapter, other: Adapter) -> Adapter:
    """adapter - other, exactly."""
    return concatenated([adapter, other], [1.0, -1.0])


def cat_weights(raw: Mapping[str, Sequence[float]], *, softmax: bool = True) -> dict[str, list[float]]:
    """Weights of each module for ``concatenated`` from what CAT (LoRA Soups) trains: one number an adapter and module.

    Args:
        raw: module -> one trained number an adapter; adapters that lack a module keep their share of the softmax.
        softmax: the weights are softmax(raw), as CAT trains them; False: raw itself.
    """
    rows = {name: torch.tensor(list(values), dtype=torch.float64) for name, values in raw.items()}
    return {name: (row.softmax(0) if softmax else row).tolist() for name, row in rows.items()}


def recompressed(adapter: Adapter, rank: int) -> tuple[Adapter, dict[str, float]]:
    """The best adapter of at most ``rank``, and each module's relative error |update - new update| / |update|."""
    _refuse_more(adapter)
    modules, errors = {}, {}
    for name, factor in adapter.modules.items():
        qb, rb = torch.linalg.qr(factor.b.double())
        qa, ra = torch.linalg.qr(factor.a.double().T)
        u, s, vh = torch.linalg.svd(factor.scale * rb @ ra.T, full_matrices=False)
        modules[name] = _split(qb @ u, s, vh @ qa.T, rank, factor)
        errors[name] = _lost(s, rank)
    return replace(adapter, modules=modules), errors


def extracted(update: Tensor, rank: int) -> tuple[Factor, float]:
    """The best factors of at most ``rank`` for an update (out, in), and the relative error that is left.

    Args:
        update: (out, in), tuned minus base.
        rank: at most.

    Example:
        >>> factor, error = extracted(torch.outer(torch.ones(3), torch.ones(4)), rank=1)
        >>> factor.rank, error < 1e-6
        (1, True)
    """
    u, s, vh = torch.linalg.svd(update.double(), full_matrices=False)
    like = Factor(update.new_empty(0, 0), update.new_empty(0, 0))
    return _split(u, s, vh, rank, like), _lost(s, rank)


def _split(u: Tensor, s: Tensor, vh: Tensor, rank: int, like: Factor) -> Factor:
    """Factors with equal singular values, so that both train alike."""
    root = s[:rank].sqrt()
    a, b = root[:, None] * vh[:rank], u[:, :rank] * root
    return replace(like, a=a.to(like.a.dtype), b=b.to(like.b.dtype), scale=1.0)


def _lost(s: Tensor, rank: int) -> float:
    total = float(s.square().sum())
    return math.sqrt(float(s[rank:].square().sum()) / total) if total else 0.0


def merged_updates(
    adapters: Sequence[Adapter], weights: Sequence[float], combine: Combine, rank: int
) -> tuple[Adapter, dict[str, float]]:
    """A merge method on the adapters' dense updates, compressed to ``rank``; with each module's relative error.

    Args:
        adapters: of one base; one that lacks a module takes no part in it.
        weights: one an adapter.
        combine: (updates, weights) -> update, e.g. ``lambda u, w: ties(torch.zeros_like(u[0]), u, weight=w)``.
        rank: of the result.
    """
    modules, errors = {}, {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.modules):
        there = [(w, a.modules[name]) for w, a in zip(weights, adapters, strict=True) if name in a.modules]
        dtype = there[0][1].a.dtype
        update = combine([factor.update().to(dtype) for _, factor in there], tuple(w for w, _ in there))
        factor, errors[name] = extracted(update, rank)
        modules[name] = replace(factor, kind=there[0][1].kind)
    for adapter in adapters:
        _refuse_more(adapter)
    return replace(adapters[0], modules=modules), errors


def merged_factors(adapters: Sequence[Adapter], weights: Sequence[float], combine: Combine) -> Adapter:
    """A merge method on the factors themselves, as PEFT does: cheap, of the same rank, and not what it seems.

    A and B are merged apart, each with the root of the weight (the sign goes to A), so their product holds cross terms
    ``B_i A_j`` of different adapters. Use ``concatenated`` or ``merged_updates`` unless PEFT's numbers are wanted.

    Raises:
        UsageError: the ranks of a module differ.
    """
    modules = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.modules):
        there = [(w, a.modules[name]) for w, a in zip(weights, adapters, strict=True) if name in a.modules]
        if len({factor.rank for _, factor in there}) > 1:
            raise UsageError("the adapters' ranks differ", where=name, fix="use concatenated or merged_updates")
        effective = [weight * factor.scale for weight, factor in there]
        roots = [math.sqrt(abs(weight)) for weight in effective]
        signed = [math.copysign(root, weight) for root, weight in zip(roots, effective, strict=True)]
        a = combine([factor.a for _, factor in there], tuple(signed))
        b = combine([factor.b for _, factor in there], tuple(roots))
        modules[name] = Factor(a, b, 1.0, there[0][1].kind)
    for adapter in adapters:
        _refuse_more(adapter)
    return replace(adapters[0], modules=modules)


def _refuse_more(adapter: Adapter) -> None:
    whole = sorted(name for name in adapter.saved if name.removesuffix(".weight") not in adapter.modules)
    if whole:
        raise UsageError(
            f"the adapter also replaces whole tensors ({whole[0]}), which have no sum",
            fix="merge it into its base instead",
        )
    odd = [name for name, factor in adapter.modules.items() if factor.magnitude is not None]
    if odd:
        raise UsageError(
            "updates with magnitudes (DoRA) have no sum", where=odd[0], fix="merge it into its base instead"
        )
