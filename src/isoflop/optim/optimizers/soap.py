"""SOAP: Adam in the slowly changing eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ...ledger.formulas import cholesky, matmul, qr, solve_triangular
from ..averages import wide
from ..eigenbases import (
    by_cholesky,
    by_qr,
    first_basis,
    first_basis_cost,
    follow,
    gram_cost,
    merged_shape,
    mirror,
    rotate,
    unfold,
    update_gram,
    warn_of_sides,
)
from ..elementwise import chunks, flat
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, share
from ..method import Limit, Method, ParamsT, from_part, given, next_step
from ..rank_one import mean_squares, rank1_root
from ..shards import descend, whole
from ..state import check_size

STRUCTURAL = (
    "max_precond_dim",
    "merge_dims",
    "precondition_1d",
    "one_sided",
    "factorized",
)


Refresh = Literal["qr", "cholesky"]

ORTHONORMAL = {"qr": by_qr, "cholesky": by_cholesky}


class SOAPVariant(NamedTuple):
    """What SOAP may do that its authors' code does not, or does only on demand.

    Attributes:
        one_sided: rotate only the smallest dimension of a parameter: a quarter of the work, less of the gain.
        factorized: keep the second moment as its row and column means, which saves one float a parameter.
        normalize_grads: scale every update to a root mean square of 1.
        stagger: refresh parameter i of a group i steps earlier, which levels the cost of a step.
        refresh: how a refresh makes columns orthonormal; "cholesky" consists of products, where "qr" is slow.
        rotation_dtype: of the rotations' products, e.g. torch.bfloat16 (changes updates by about half a percent);
            None: the state's.

    Example:
        >>> optimizer = SOAP(model.parameters(), variant=SOAPVariant(refresh="cholesky", stagger=True))
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    one_sided: bool = False
    factorized: bool = False
    normalize_grads: bool = False
    stagger: bool = False
    refresh: Refresh = "qr"
    rotation_dtype: torch.dtype | None = None


STANDARD = SOAPVariant()


class SOAP(Method):
    """g' = Q_L' g Q_R; M, V average g', g'^2; U = Q_L M / (sqrt(V) + eps) Q_R'; p <- (1 - lr wd) (p - lr U).

    Adam where the loss is least tangled: in the basis in which rows and columns of the gradient are uncorrelated. The
    larger the batch, the more its refreshes and its 7 floats of state a parameter can pay. The first gradient of a
    parameter only makes its basis. Q follows the averages of g g' and g' g by one QR power step
    every ``precondition_frequency`` steps, with the gradients before this step's.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them. Dimensions beyond ``max_precond_dim`` keep the
            identity, so embeddings and heads are rotated on one side.
        lr: begin with AdamW's, or with 3e-3 (the authors').
        betas: decay of M and of V; the authors' (0.95, 0.95).
        shampoo_beta: decay of the Gram matrices; negative: betas[1], as the authors have it.
        eps: added to the root of the uncorrected V.
        weight_decay: decoupled, multiplied by the rate; the authors' 0.01.
        precondition_frequency: steps between two refreshes; the authors' 10. The larger, the cheaper and the staler.
        max_precond_dim: largest dimension with a basis; the authors' 10000. A basis of n costs 2 n^2 floats.
        merge_dims: multiply neighbouring dimensions up to ``max_precond_dim`` first (convolutions).
        precondition_1d: rotate vectors too.
        correct_bias: scale the step by Adam's bias corrections.
        variant: what it may do beyond the authors' defaults.

    Example:
        >>> optimizer = SOAP(model.parameters(), lr=3e-3)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    follows = False
    limits: ClassVar[dict[str, Limit]] = {
        "shampoo_beta": Limit(low=-1e300, high=1.0),  # whatever is negative stands for betas[1]
        "precondition_frequency": Limit(low=1),
        "max_precond_dim": Limit(),
    }
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"refresh": get_args(Refresh)}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = -1,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        merge_dims: bool = False,
        precondition_1d: bool = False,
        correct_bias: bool = True,
        variant: SOAPVariant = STANDARD,
    ) -> None:
        super().__init__(**given(locals()))

    def _check_group(self, index: int) -> None:
        super()._check_group(index)
        group = self.param_groups[index]
        shapes = [rotated_sides(p.shape, **{k: group[k] for k in STRUCTURAL}) for p in group["params"]]
        sides = [shape[d] for shape, own in shapes for d in own]
        warn_of_sides("SOAP", group, sides, "max_precond_dim", "in its first step")

    def update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        index = {p: i for i, p in enumerate(group["params"])}
        for p in params:
            self._step(group, p, index[p] if group["stagger"] else 0)

    def _step(self, group: dict[str, Any], p: Tensor, offset: int) -> None:
        state, dtype = self.state[p], wide(p.dtype)
        assert p.grad is not None
        shape, sides = rotated_sides(p.shape, **{k: group[k] for k in STRUCTURAL})
        g = whole(p.grad).to(dtype).reshape(shape)
        b1, b2 = group["betas"]
        beta = group["shampoo_beta"] if group["shampoo_beta"] >= 0 else b2
        if "step" not in state:
            self._begin(state, g, sides, 1 - beta, group["factorized"])
            return
        t, bases = next_step(state), [state.get(f"Q{d}") for d in range(g.ndim)]
        precision = getattr(torch, group["rotation_dtype"]) if group["rotation_dtype"] else dtype
        there = [None if q is None else q.to(precision) for q in bases]
        u = rotate(g.to(precision), there).to(dtype).contiguous()
        u = u if sides else u.clone()  # without a basis u is the gradient itself
        scale = (1 - b2**t) ** 0.5 / (1 - b1**t) if group["correct_bias"] else 1.0
        self._direction(state, u, b1, b2, group["eps"])
        u = rotate(u.to(precision), there, back=True).to(dtype).reshape(p.shape)
        if group["normalize_grads"]:
            mean = u.square().mean()
            u = u / torch.where(mean > 1e-30, mean.sqrt().add_(1e-30), 1.0)  # what rounds to no step is not blown up
        lr = float(group["lr"])
        keep = 1 - lr * group["weight_decay"]
        descend(p, u, keep, lr * scale * keep)
        for d in sides:
            update_gram(state[f"GG{d}"], unfold(g, d), beta, 1 - beta)
        if (t + offset) % group["precondition_frequency"] == 0:
            self._refresh(state, sides, g.ndim, ORTHONORMAL[group["refresh"]])

    def _begin(self, state: dict[str, Any], g: Tensor, sides: Sequence[int], add: float, factorized: bool) -> None:
        state["step"] = torch.zeros(())
        state["exp_avg"] = torch.zeros_like(g, memory_format=torch.contiguous_format)
        if factorized and g.ndim > 1:
            for d, n in enumerate(g.shape):
                state[f"exp_avg_sq_{d}"] = g.new_zeros(n)
        else:
            state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
        for d in sides:
            state[f"GG{d}"] = g.new_zeros(g.shape[d], g.shape[d])
            update_gram(state[f"GG{d}"], unfold(g, d), 0.0, add)
            mirror(state[f"GG{d}"])
            state[f"Q{d}"] = first_basis(state[f"GG{d}"])

    def _direction(self, state: dict[str, Any], u: Tensor, b1: float, b2: float, eps: float) -> None:
        """u, the rotated gradient, becomes M / (sqrt(V) + eps)."""
        m = state["exp_avg"]
        if "exp_avg_sq" in state:
            for g, average, v in chunks([flat(u), flat(m), flat(state["exp_avg_sq"])]):
                average.lerp_(g, 1 - b1)
                v.lerp_(g * g, 1 - b2)
                torch.div(average, v.sqrt().add_(eps), out=g)
            return
        m.lerp_(u, 1 - b1)
        factors = [state[f"exp_avg_sq_{d}"] for d in range(u.ndim)]
        for d, factor in enumerate(factors):
            factor.lerp_(mean_squares(u, d), 1 - b2)
        torch.div(m, rank1_root(factors).add_(eps), out=u)

    def _refresh(
        self, state: dict[str, Any], sides: Sequence[int], ndim: int, orthonormal: Callable[[Tensor], Tensor]
    ) -> None:
        """Every basis follows its Gram matrix; M moves along, V is put in the new order."""
        old: list[Tensor | None] = [None] * ndim
        new: list[Tensor | None] = [None] * ndim
        for d in sides:
            mirror(state[f"GG{d}"])
            old[d] = state[f"Q{d}"]
            state[f"Q{d}"], order = follow(state[f"GG{d}"], state[f"Q{d}"], orthonormal)
            new[d] = state[f"Q{d}"]
            if "exp_avg_sq" in state:
                state["exp_avg_sq"] = state["exp_avg_sq"].index_select(d, order)
            else:
                state[f"exp_avg_sq_{d}"] = state[f"exp_avg_sq_{d}"][order]
        state["exp_avg"] = rotate(rotate(state["exp_avg"], old, back=True), new).contiguous()

    def check_state(self, p: Tensor, state: dict[str, Any], where: str) -> None:
        check_size(p, state, where)


def rotated_sides(
    shape: Sequence[int], *, max_precond_dim: int, merge_dims: bool, precondition_1d: bool, one_sided: bool, **_: Any
) -> tuple[list[int], list[int]]:
    """(shape in which a parameter is treated, its dimensions that have a basis)."""
    if 0 in shape or (len(shape) < 2 and not (shape and precondition_1d)):
        return list(shape), []
    merged = merged_shape(shape, max_precond_dim) if merge_dims else list(shape)
    sides = [d for d, n in enumerate(merged) if n <= max_precond_dim]
    return merged, [min(sides, key=lambda d: merged[d])] if one_sided and sides else sides


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    precondition_frequency: int,
) -> Iterator[Tensor]:
    """One matrix, both sides rotated: ``p`` after each step, plainly. M is kept unrotated."""
    (b1, b2), m, v = betas, torch.zeros_like(p), torch.zeros_like(p)
    left, right = torch.zeros(len(p), len(p)).to(p), torch.zeros(p.shape[1], p.shape[1]).to(p)
    ql, qr_ = left, right
    for t, g in enumerate(gradients):
        if t == 0:
            left, right = (1 - b2) * g @ g.T, (1 - b2) * g.T @ g
            ql, qr_ = (torch.linalg.eigh(x)[1].flip(1) for x in (left, right))
        else:
            turned = ql.T @ g @ qr_
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * turned**2
            u = ql @ ((ql.T @ m @ qr_) / (v.sqrt() + eps)) @ qr_.T
            p = (1 - lr * weight_decay) * (p - lr * (1 - b2**t) ** 0.5 / (1 - b1**t) * u)
            left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
            if t % precondition_frequency == 0:
                rows = torch.argsort(torch.diag(ql.T @ left @ ql), descending=True)
                columns = torch.argsort(torch.diag(qr_.T @ right @ qr_), descending=True)
                v = v[rows][:, columns]
                ql, qr_ = (torch.linalg.qr(x @ q)[0] for x, q in ((left, ql[:, rows]), (right, qr_[:, columns])))
        yield p


@part
class SOAPPart(OptimizerPart):
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

    card = Card(
        summary="Adam in the slowly changing eigenbasis of Shampoo's preconditioner",
        paper="Vyas et al. 2024, arXiv 2409.11321",
        equation="g' = Q_L' g Q_R; p <- (1 - lr wd) (p - lr Q_L (M / (sqrt(V) + eps)) Q_R'); M, V average g', g'^2",
        defaults="lr 3e-3, betas (0.95, 0.95), eps 1e-8, weight_decay 0.01, frequency 10, largest dimension 10000",
        differs="the null space of a Gram matrix has a defined basis; fewer products: M stays rotated, Grams by blocks",
        cost="6mn(m + n) FLOPs a matrix, less in the Gram matrices, and a refresh; 2mn + 2m^2 + 2n^2 floats of state",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}
    shardable = True

    lr: PositiveFloat = 4e-3
    """Peak learning rate."""
    betas: tuple[Beta, Beta] = (0.95, 0.95)
    """Decay of the first moment; of the second moment and the Gram matrices."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""
    precondition_frequency: PositiveInt = 10
    """Steps between two refreshes of the bases."""
    max_precond_dim: PositiveInt = 2048
    """Largest dimension that is rotated."""
    one_sided: bool = False
    """Rotate only the smallest dimension."""
    factorized: bool = False
    """Keep the second moment as its row and column means."""
    stagger: bool = False
    """Spread the parameters' refreshes over the steps."""
    refresh: Refresh = "qr"
    """How a refresh makes columns orthonormal."""

    def build(self, ctx: Context) -> SOAP:
        variant = SOAPVariant(self.one_sided, self.factorized, stagger=self.stagger, refresh=self.refresh)
        return from_part(SOAP, self, ctx, drop=SOAPVariant._fields, variant=variant)

    def _sides(self, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        structure = {"max_precond_dim": self.max_precond_dim, "one_sided": self.one_sided}
        return rotated_sides(shape, merge_dims=False, precondition_1d=False, **structure)  # type: ignore[arg-type]

    def step_cost(self, shape: Sequence[int]) -> tuple[Cost, Cost]:
        """Cost of a step and of a refresh of one parameter."""
        (sizes, sides), step, refresh = self._sides(shape), Cost(), Cost()
        for d in sides:
            n, rest = sizes[d], torch.Size(sizes).numel() // sizes[d]
            step += matmul(n, n, rest) * 2  # the gradient there, the direction back
            step += gram_cost(n, rest)
            refresh += matmul(n, n, rest) * 2 + matmul(n, n, n)
            if self.refresh == "qr":
                refresh += qr(n, n)
            else:
                refresh += gram_cost(n, n) + cholesky(n) + solve_triangular(n, n)
        return step, refresh

    def cost_of(self, shapes: Sequence[Shape]) -> Callable[[int], Cost]:
        every, each = self.precondition_frequency, elementwise(shapes, operations=11, floats=7)
        first, later, refreshes = Cost(), Cost(), dict[int, Cost]()  # refreshes by the steps that they come early
        seen: Counter[str] = Counter()
        for s in shapes:
            (sizes, sides), (step, refresh) = self._sides(s.shape), self.step_cost(s.shape)
            offset = seen[s.role] if self.stagger else 0
            seen[s.role] += 1
            refreshes[offset] = refreshes.get(offset, Cost()) + refresh
            later += step
            for n in (sizes[d] for d in sides):
                first += gram_cost(n, s.numel // n) + first_basis_cost(n)

        def spent(steps: int) -> Cost:
            after = max(steps - 1, 0)  # the first step only finds the bases
            rare = (cost * ((after + early) // every - early // every) for early, cost in refreshes.items())
            return sum(rare, each * steps + first * min(steps, 1) + later * after)

        return spent

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        total = elementwise(shapes, operations=11, floats=7)
        for s in shapes:
            step, refresh = self.step_cost(s.shape)
            total += step + share(refresh, self.precondition_frequency)
        return total

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        floats = 0
        for s in shapes:
            sizes, sides = self._sides(s.shape)
            second = sum(sizes) if self.factorized and len(sizes) > 1 else s.numel
            floats += s.numel + second + 2 * sum(sizes[d] ** 2 for d in sides) + 1
        return 4 * floats
