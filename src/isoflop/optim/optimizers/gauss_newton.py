"""Gauss-Newton: an inner optimizer minimises the loss of the linearised model, a line search on fresh data picks the
step (Abreu et al. 2025, arXiv 2510.09378)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import Linearizing, OptimizerPart, Outcome, Outputs, Passes, Problem
from ...core.cost import Cost
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.roles import Group, Shape
from ...core.slots import OptimizerSlot
from ..groups import Grid, elementwise, factor2
from ..linearization import model_gradient

Form = Literal["quadratic", "prox_linear"]
Inner = Callable[[tuple[Group, ...]], torch.optim.Optimizer]
"""From groups of step parameters, zero at first, to the optimizer that moves them."""

SOLVE = Passes(forward=4, backward=1)
"""What a gradient of the local model costs: the outputs and their derivative along the step (three forward passes,
since each product has two factors that move), and the outputs once more with their gradient."""

HALVINGS = tuple(2 ** (-i / 2) for i in range(5))


class GaussNewton:
    """theta <- theta + s d: d minimises the local model of the loss, s in ``sizes`` has the least loss on fresh data.

    It asks how few steps could suffice, not how little compute: each step solves its local model by many passes over
    one large batch. The local model is the loss of the linearised outputs (``prox_linear``) or its second-order model,
    the Gauss-Newton quadratic. If no size lowers the fresh loss, nothing moves.

    By hand: ``step(problem)`` with any object that has ``backward()``, ``loss()``, ``linearize()``, ``fresh()`` and
    ``charge()`` as ``core.contracts.Problem`` describes them.

    Args:
        groups: named parameters, as the model gives them to any part.
        inner: makes the inner optimizer of the groups that it is given.
        inner_steps: steps of the inner optimizer on each local problem, through the step's micro-batches in turn.
        form: the local model, see above.
        layerwise: linearise one module at a time, all others fixed.
        sizes: values of s that the line search tries.
        damping: adds damping / 2 |d|^2 to the local model.
        cosine: the inner rate falls by a half cosine to a tenth.

    Example:
        >>> groups = [Group("hidden", ("weight",), (model.weight,))]
        >>> rule = GaussNewton(groups, lambda groups: torch.optim.SGD(groups[0].params, lr=0.1), inner_steps=10)
        >>> rule.set_factor(0.5)  # then rule.step(problem)
    """

    def __init__(
        self,
        groups: Sequence[Group],
        inner: Inner,
        inner_steps: int = 50,
        form: Form = "prox_linear",
        layerwise: bool = False,
        sizes: Sequence[float] = HALVINGS,
        damping: float = 0.0,
        cosine: bool = True,
    ) -> None:
        if inner_steps < 1 or not sizes or not all(0 < s < math.inf for s in sizes) or not 0 <= damping < math.inf:
            raise ValueError(f"illegal inner_steps={inner_steps}, sizes={list(sizes)} or damping={damping}")
        self.groups, self.inner, self.inner_steps = tuple(groups), inner, inner_steps
        self.form, self.layerwise, self.sizes, self.damping = form, layerwise, tuple(sizes), damping
        self.cosine, self.factor, self.steps = cosine, 1.0, 0
        self.params = {n: p for g in self.groups for n, p in zip(g.names, g.params, strict=True)}

    def set_factor(self, factor: float) -> None:
        """Multiply the inner optimizer's rates from the next step on."""
        self.factor = factor

    def step(self, problem: Problem) -> Outcome:
        """Solve the local problem of this step's batch and move by the best size."""
        outcome = problem.backward()
        self.steps += 1
        start = {name: p.detach().clone() for name, p in self.params.items()}
        pieces, direction = problem.linearize(), {}
        for names in self._blocks():
            direction.update(self._solve(pieces, start, names))
            problem.charge(SOLVE.forward * self.inner_steps, SOLVE.backward * self.inner_steps)
        self._search(problem.fresh(), start, direction)
        return outcome

    def _blocks(self) -> list[list[str]]:
        """Names that are linearised together."""
        if not self.layerwise:
            return [list(self.params)]
        modules: dict[str, list[str]] = {}
        for name in self.params:
            modules.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return list(modules.values())

    def _solve(
        self, pieces: Sequence[tuple[Any, Any]], start: dict[str, Tensor], names: list[str]
    ) -> dict[str, Tensor]:
        """The step of the parameters ``names`` that the inner optimizer finds."""
        shift = {name: torch.nn.Parameter(torch.zeros_like(start[name])) for name in names}
        optimizer = self.inner(_restricted(self.groups, shift))
        rates = [group["lr"] * self.factor for group in optimizer.param_groups]
        origin = {name: start[name] for name in names}
        for k in range(self.inner_steps):
            # half a cosine from 1 to a tenth: 0.55 +- 0.45
            fall = 0.55 + 0.45 * math.cos(math.pi * k / self.inner_steps) if self.cosine else 1.0
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * fall
            whole, loss = pieces[k % len(pieces)]
            outputs = _partial(whole, start)
            slope = model_gradient(outputs, loss, origin, {n: d.detach() for n, d in shift.items()}, self.form)
            for name, d in shift.items():  # a piece holds its share of the mean loss
                d.grad = slope[name].mul_(len(pieces)).add_(d.detach(), alpha=self.damping)
            optimizer.step()
        return {name: d.detach() for name, d in shift.items()}

    @torch.no_grad()
    def _search(self, fresh: Problem, start: dict[str, Tensor], direction: dict[str, Tensor]) -> None:
        best, chosen = fresh.loss(), 0.0
        for size in self.sizes:
            self._place(start, direction, size)
            loss = fresh.loss()
            if loss < best:
                best, chosen = loss, size
        self._place(start, direction, chosen)

    def _place(self, start: dict[str, Tensor], direction: dict[str, Tensor], size: float) -> None:
        for name, p in self.params.items():
            p.copy_(start[name] if size == 0 else torch.add(start[name], direction[name], alpha=size))

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer begins anew at every step: only the count is kept."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])


def _restricted(groups: Sequence[Group], shift: dict[str, torch.nn.Parameter]) -> tuple[Group, ...]:
    """The same roles over the step's parameters; groups left empty are dropped."""
    chosen = [(g.role, tuple(n for n in g.names if n in shift)) for g in groups]
    return tuple(Group(role, names, tuple(shift[n] for n in names)) for role, names in chosen if names)


def _partial(outputs: Outputs, start: dict[str, Tensor]) -> Outputs:
    """``outputs`` as a function of some parameters, the others at ``start``."""
    return lambda some: outputs({**start, **some})


def _inner(part: OptimizerPart, ctx: Context, groups: tuple[Group, ...]) -> torch.optim.Optimizer:
    """An ``Inner`` of a recipe's part. It holds no model, so that it can be copied and pickled."""
    made = part.build(ctx.having(groups=groups))
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(f"{part.name} needs more than gradients and cannot be an inner optimizer")
    return made


@part
class GaussNewtonPart(OptimizerPart):
    """Gauss-Newton by linearisation, an inner optimizer and a line search."""

    card = Card(
        summary="an inner optimizer solves the linearised problem on a large batch; a line search takes the step",
        paper="Abreu et al. 2025, arXiv 2510.09378",
        equation="d = argmin L(z + J d) or of its quadratic model; theta <- theta + s d, s = argmin of the fresh loss",
        defaults="inner Muon 0.01 with a cosine, about 120 micro-batches of 32 sequences, s = 2^(-i/2), i = 0 .. 4",
        differs="stays where it is if no size lowers the fresh loss",
        cost="4 forward and 1 backward passes over one micro-batch per inner step; 6 forward passes of the line search",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}
    needs: ClassVar[dict[str, frozenset[type]]] = {"objective": frozenset({Linearizing})}

    inner: OptimizerSlot = Field(default="muon", validate_default=True)
    """The inner optimizer, any that needs gradients only; its own rate is replaced by ``lr``."""
    lr: PositiveFloat = 4e-3
    """Peak rate of the inner optimizer."""
    inner_steps: PositiveInt = 20
    """Inner steps of each local problem."""
    form: Form = "prox_linear"
    """The local model."""
    layerwise: bool = False
    """Linearise one module at a time."""
    damping: NonNegativeFloat = 0.0
    """Weight of |d|^2 / 2 in the local model."""

    def build(self, ctx: Context) -> GaussNewton:
        chosen = self.inner.model_copy(update={"lr": self.lr})
        inner = partial(_inner, chosen, ctx.having(groups=(), models={}))
        form, damping = self.form, self.damping
        return GaussNewton(ctx.groups, inner, self.inner_steps, form, self.layerwise, damping=damping)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return self.inner.cost(shapes) * self.inner_steps + self._search_cost(shapes)

    def _search_cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=2, floats=3) * 6

    def cost_of(self, shapes: Sequence[Shape]) -> Callable[[int], Cost]:
        """Exact, also where the inner optimizer's steps differ: it begins anew at every step."""
        each = self.inner.cost_of(shapes)(self.inner_steps) + self._search_cost(shapes)
        return lambda steps: each * steps

    def passes_of(self, accumulate: int) -> Callable[[int], Passes]:
        search = (len(HALVINGS) + 1) * accumulate
        forward = SOLVE.forward * self.inner_steps + search
        return lambda steps: Passes(forward * steps, SOLVE.backward * self.inner_steps * steps, search * steps)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return 0
