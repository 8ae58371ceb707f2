"""Shampoo: gradients between inverse roots of their Gram matrices (Gupta et al. 2018, arXiv 1802.09568; grafting: Anil
et al. 2021, arXiv 2002.09018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ...ledger.formulas import eigh, matmul
from ..averages import wide
from ..eigenbases import eigensystem, gram_cost, merged_shape, mirror, unfold, update_gram, warn_of_sides
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, share
from ..method import EPSILON, UNIT, Limit, Method, ParamsT, from_part, given, next_step
from ..shards import descend, whole
from ..state import OptimizerError, check_size
from ..warmup_and_decay import Unit

Root = Literal[2, 4]

SMALL = 4096
"""Parameters of at most this many scalars are treated in double precision: inverse roots of nearly singular Gram
matrices amplify rounding by up to 1 / epsilon, and here precision is cheap."""


class Shampoo(Method):
    """p <- (1 - lr wd) p - lr L^(-1/4) m_hat R^(-1/4); L, R average g g' and g' g, bias-corrected; roots every f steps.

    The whole preconditioner of rows and columns, for large batches, in which fewer and better steps pay for its roots
    and its 7 to 10 floats of state a parameter. SOAP follows the same matrices by QR steps in the place of roots.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
            Dimensions beyond ``max_preconditioner_dim`` keep the identity.
        lr: with grafting begin with AdamW's, or 1e-3; without it the step has a size of its own: begin with 1e-2.
        betas: decay of m and of L, R; betas[1] = 1 sums without decay, as the authors' default has it.
        epsilon: added to the eigenvalues; the authors' 1e-12.
        weight_decay: decoupled, multiplied by the rate.
        precondition_frequency: f, steps between two computations of the roots.
        root: 4: exponent -1 / (2 k) for k dimensions; 2: -1 / 2 (vectors -1): the square of the former for matrices.
        grafting: "adam": the direction takes the norm of Adam's step with second moment ``betas[1]``; None: its own.
        start_preconditioning_step: before it Adam's (or, without grafting, plain) steps; negative: f.
        grafting_eps: added to the root of Adam's second moment.
        max_preconditioner_dim: largest dimension with a preconditioner; the authors' 1024.
        merge_dims: multiply neighbouring dimensions up to it first: what is small is preconditioned as a whole.

    Example:
        >>> optimizer = Shampoo(model.parameters(), betas=(0.9, 0.95), precondition_frequency=10, grafting="adam")
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    follows = False
    limits: ClassVar[dict[str, Limit]] = {
        "betas": UNIT,
        "epsilon": EPSILON,
        "precondition_frequency": Limit(low=1),
        "grafting_eps": EPSILON,
        "max_preconditioner_dim": Limit(),
    }
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"root": get_args(Root), "grafting": (None, "adam")}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 1.0),
        epsilon: float = 1e-12,
        weight_decay: float = 0.0,
        precondition_frequency: int = 1,
        root: Root = 4,
        grafting: Literal["adam"] | None = None,
        start_preconditioning_step: int = -1,
        grafting_eps: float = 1e-8,
        max_preconditioner_dim: int = 1024,
        merge_dims: bool = True,
    ) -> None:
        super().__init__(**given(locals()))

    def _check_group(self, index: int) -> None:
        super()._check_group(index)
        group, where = self.param_groups[index], f"parameter group {index}"
        if group["betas"][0] >= 1:
            raise OptimizerError(f"betas[0] must be in [0, 1), got {group['betas'][0]}", where=where)
        if group["root"] not in (2, 4) or group["grafting"] not in (None, "adam"):
            raise OptimizerError('root must be 2 or 4, grafting None or "adam"', where=where)
        largest, every = group["max_preconditioner_dim"], group["precondition_frequency"]
        merged = [merged_shape(p.shape, largest) if group["merge_dims"] else p.shape for p in group["params"]]
        sides = [n for shape in merged for n in shape if n <= largest and 0 not in shape]
        when = "in every step" if every == 1 else f"every {every} steps"
        warn_of_sides("Shampoo", group, sides, "max_preconditioner_dim", when)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        assert p.grad is not None
        largest, t, (b1, b2) = group["max_preconditioner_dim"], next_step(state), group["betas"]
        shape = merged_shape(p.shape, largest) if group["merge_dims"] else p.shape
        g = whole(p.grad).to(torch.float64 if p.numel() <= SMALL else wide(p.dtype)).reshape(shape).contiguous()
        add, correction = (1 - b2, 1 - b2**t) if b2 < 1 else (1.0, 1.0)
        lr, every, start = float(group["lr"]), group["precondition_frequency"], group["start_preconditioning_step"]
        start = every if start < 0 else start
        m = state.setdefault("exp_avg", torch.zeros_like(g))
        m.lerp_(g, 1 - b1)
        sides = [d for d, n in enumerate(g.shape) if n <= largest]
        for d in sides:
            gram = state.setdefault(f"GG{d}", g.new_zeros(g.shape[d], g.shape[d]))
            update_gram(gram, unfold(g, d), b2, add)
            if t >= start and (t % every == 0 or f"root{d}" not in state):
                mirror(gram)
                power = exponent(group["root"], g.ndim)
                state[f"root{d}"] = inverse_root(gram / correction, power, group["epsilon"])
        direction = m / (1 - b1**t)
        grafted = self._adam(state, direction, g, add, b2, correction, group) if group["grafting"] else None
        if t >= start:
            direction = apply_roots(direction, [state.get(f"root{d}") for d in range(g.ndim)])
            if grafted is not None:
                # 1e-16, the authors' guard: a direction of zero stays zero
                direction = direction * (grafted.norm() / (direction.norm() + 1e-16))
        elif grafted is not None:
            direction = grafted
        descend(p, direction.reshape(p.shape), 1 - lr * group["weight_decay"], lr)

    def _adam(
        self,
        state: dict[str, Any],
        mean: Tensor,
        g: Tensor,
        add: float,
        b2: float,
        correction: float,
        group: dict[str, Any],
    ) -> Tensor:
        v: Tensor = state.setdefault("exp_avg_sq", torch.zeros_like(g))
        v.mul_(b2).addcmul_(g, g, value=add)
        root = (v / correction).sqrt_().add_(group["grafting_eps"])
        return mean / root

    def check_state(self, p: Tensor, state: dict[str, Any], where: str) -> None:
        check_size(p, state, where)


def exponent(root: int, ndim: int) -> float:
    """Exponent of each dimension's Gram matrix."""
    if root == 4:
        return -1 / (2 * ndim)
    return -1.0 if ndim == 1 else -0.5


def inverse_root(gram: Tensor, power: float, epsilon: float) -> Tensor:
    """(gram + epsilon)^power by eigenvalues, negative ones (rounding) lifted to zero first."""
    values, vectors = eigensystem(gram)
    values = values - torch.clamp(values.min(), max=0.0) + epsilon
    root: Tensor = (vectors * values**power) @ vectors.T
    return root


def apply_roots(x: Tensor, roots: Sequence[Tensor | None]) -> Tensor:
    """``x`` multiplied along every dimension that has a (symmetric) matrix by it."""
    for d, root in enumerate(roots):
        if root is not None:
            x = torch.tensordot(x, root, dims=([d], [0])).movedim(-1, d)
    return x


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
    root: Root,
) -> Iterator[Tensor]:
    """One matrix, preconditioned at every step, no grafting: ``p`` after each step, plainly."""
    (b1, b2), m, left, right = betas, torch.zeros_like(p), torch.zeros(()).to(p), torch.zeros(()).to(p)
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        factors = []
        for gram in (left, right):
            values, vectors = torch.linalg.eigh(gram / (1 - b2**t))
            factors.append(vectors @ torch.diag((values.clamp(min=0) + epsilon) ** (-1 / root)) @ vectors.T)
        p = p - lr * (factors[0] @ m @ factors[1] / (1 - b1**t) + weight_decay * p)
        yield p


@part
class ShampooPart(OptimizerPart):
    """Shampoo: gradients between inverse roots of their Gram matrices."""

    card = Card(
        summary="the gradient's average between inverse roots of the Gram matrices of its rows and columns",
        paper="Gupta et al. 2018, arXiv 1802.09568; grafting: Anil et al. 2021, arXiv 2002.09018",
        equation="p <- (1 - lr wd) p - lr |Adam's step| / |D| D, D = L^(-1/4) m_hat R^(-1/4)",
        defaults="lr 1e-2, betas (0.9, 1), epsilon 1e-12, no grafting, largest dimension 1024 (blocks beyond)",
        differs="large dimensions keep the identity, no blocks; recipes merge no dimensions; small tensors in double",
        cost="4mn(m + n) FLOPs a matrix and eigendecompositions every f steps; 2mn + 2m^2 + 2n^2 floats of state",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}
    shardable = True

    lr: PositiveFloat = 4e-3
    """Peak learning rate; AdamW's with grafting."""
    betas: tuple[Beta, Unit] = (0.9, 0.95)
    """Decay of the momentum and of the Gram matrices; a second one of 1 sums them."""
    epsilon: Epsilon = 1e-12
    """Added to the eigenvalues."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""
    precondition_frequency: PositiveInt = 10
    """Steps between two computations of the roots."""
    root: Root = 4
    """4: the fourth root for matrices; 2: the square root."""
    grafting: Literal["adam"] | None = "adam"
    """Take the norm of Adam's step; absent in TOML: Adam's."""
    start_preconditioning_step: NonNegativeInt | None = None
    """First step that is preconditioned; absent: ``precondition_frequency``."""
    max_preconditioner_dim: PositiveInt = 2048
    """Largest dimension that is preconditioned."""

    def build(self, ctx: Context) -> Shampoo:
        start = -1 if self.start_preconditioning_step is None else self.start_preconditioning_step
        return from_part(Shampoo, self, ctx, start_preconditioning_step=start, merge_dims=False)

    def _sides(self, shape: Sequence[int]) -> list[int]:
        return [n for n in shape if n <= self.max_preconditioner_dim and 0 not in shape]

    def step_cost(self, shape: Sequence[int]) -> tuple[Cost, Cost]:
        """Cost of a step and of the roots of one parameter."""
        step, roots = Cost(), Cost()
        for n in self._sides(shape):
            rest = torch.Size(shape).numel() // n
            step += matmul(rest, n, n)
            step += gram_cost(n, rest)
            roots += eigh(n) + matmul(n, n, n)
        return step, roots

    def cost_of(self, shapes: Sequence[Shape]) -> Callable[[int], Cost]:
        every, each = self.precondition_frequency, elementwise(shapes, operations=16, floats=9)
        start = max(every if self.start_preconditioning_step is None else self.start_preconditioning_step, 1)
        grams, step, roots = Cost(), Cost(), Cost()
        for s in shapes:
            own, rare = self.step_cost(s.shape)
            step, roots = step + own, roots + rare
            grams = sum((gram_cost(n, s.numel // n) for n in self._sides(s.shape)), grams)

        def spent(steps: int) -> Cost:
            early = min(steps, start - 1)
            refreshes = steps // every - (start - 1) // every + (start % every > 0) if steps > early else 0
            return each * steps + grams * early + step * (steps - early) + roots * refreshes

        return spent

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        total = elementwise(shapes, operations=16, floats=9)
        for s in shapes:
            step, roots = self.step_cost(s.shape)
            total += step + share(roots, self.precondition_frequency)
        return total

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        total = 4 * len(shapes)
        for s in shapes:
            floats = (2 if self.grafting else 1) * s.numel + 2 * sum(n * n for n in self._sides(s.shape))
            total += floats * (8 if s.numel <= SMALL else 4)
        return total
