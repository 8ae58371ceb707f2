"""What parametrizations share that put another weight in a weight's place: rounded, thresholded or masked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Operands, ParametrizationPart
from ..core.cost import Cost, Work
from ..core.documents import Later
from ..core.roles import Shape
from ..ledger import formulas

Share = Annotated[float, Field(ge=0, lt=1)]
"""Of a run's steps."""


def straight_through(weight: Tensor, made: Tensor) -> Tensor:
    """``made`` to the bit, with a gradient that goes to ``weight`` as if nothing had been done to it."""
    return made.detach() + (weight - weight.detach())


class WeightForm(nn.Module):
    """Base of the modules: ``trained`` is the weight in training, ``finalize`` the one in use.

    Example:
        >>> class Halved(WeightForm):
        ...     def trained(self, weight):
        ...         return weight / 2
        >>> Halved().effective(torch.ones(1, 2)).tolist()
        [[0.5, 0.5]]
    """

    role = "hidden"
    operands: Operands | None = None

    @abstractmethod
    def trained(self, weight: Tensor) -> Tensor:
        """What stands in the weight's place while it is trained, differentiable."""

    def finalize(self, weight: Tensor) -> Tensor:
        """What stands in its place in use; by default the same."""
        return self.trained(weight)

    def effective(self, weight: Tensor) -> Tensor:
        return self.trained(weight) if self.training else self.finalize(weight)

    @torch.no_grad()
    def told(self, weight: Tensor) -> dict[str, float]:
        """Of the weight in use: the share that is not zero."""
        return {"density": float((self.finalize(weight) != 0).double().mean())}

    def product(self, weight: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        cast = self.effective(weight).to(dtype)
        return lambda x: F.linear(x, cast)


class JointForm(WeightForm):
    """Base of the modules that act on all of a model's weights together: the first of them leads.

    Example:
        >>> class Counted(JointForm):
        ...     def trained(self, weight):
        ...         return weight / len(self.members)
        >>> first, second = Counted(), Counted()
        >>> for each in (first, second):
        ...     each.join([(first, None), (second, None)])
        >>> first.leads, second.leads, first.effective(torch.ones(1, 1)).item()
        (True, False, 0.5)
    """

    members: tuple[tuple[Self, Any], ...] = ()
    """Each of them with the module whose ``weight`` it stands in for; none until it is told."""

    def join(self, members: Sequence[tuple[Self, Any]]) -> None:
        """Know all members."""
        self.members = tuple(members)

    @property
    def leads(self) -> bool:
        """Whether it is the one that acts for all."""
        return bool(self.members) and self.members[0][0] is self


class WeightPart(ParametrizationPart):
    """Base of the parts that put another weight in a weight's place.

    Class attributes:
        operations: elementwise operations a weight, once a micro-batch.
        dense: weights that a mask leaves out get a gradient all the same, so that its product skips nothing.
        last: it changes the operands of products, so that of several parts it is the last one.
    """

    operations: ClassVar[int] = 6
    dense: ClassVar[bool] = True
    last: ClassVar[bool] = False

    roles: Annotated[tuple[Literal["hidden", "embedding", "head", "norm"], ...], Later()] = ("hidden",)
    """Whose weights: hidden (the matrices within the blocks), embedding, head, norm (gains). All others are exempt."""
    _kept: Fraction = PrivateAttr(Fraction(1))

    @property
    def placed(self) -> tuple[str, ...]:
        return self.roles

    @property
    def everywhere(self) -> bool:
        return super().everywhere and self.roles == ("hidden",)

    def matches(self, shapes: Sequence[Shape]) -> list[str]:
        known = {shape.role for shape in shapes}
        lost = [role for role in self.roles if role not in known]
        hint = "; a tied head is the embedding" if "head" in lost else ""
        found = [f"parametrization.roles: the model has no weight of role {role!r}{hint}" for role in lost]
        return [*found, *super().matches(shapes)]

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return []

    def join(self, members: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        for form, _ in members:
            if isinstance(form, JointForm):
                form.join(members)  # type: ignore[arg-type]

    def priced(self, stage: Hashable) -> Self:
        if not isinstance(stage, Fraction):
            return self
        copy = self.model_copy()
        copy._kept = stage
        return copy

    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool, own: frozenset[str]) -> Work:
        needed, kept = trained or bool(own), self.kept(rows, columns)
        masked = Fraction(1) if self.dense else kept
        product = masked_product(tokens, rows, columns, live=live, trained=needed, kept=kept, masked=masked)
        return product + self.made(tokens, rows, columns)

    def made(self, tokens: int, rows: int, columns: int) -> Work:
        """Work of making the weight, or whatever else is not a product."""
        return Work(forward=Cost(elementwise=self.operations * rows * columns, moved=12 * rows * columns))

    def kept(self, rows: int, columns: int) -> Fraction:
        """Share of a matrix's weights that its mask leaves, in the stage that is priced."""
        return self._kept


def masked_product(
    tokens: int, rows: int, columns: int, *, live: bool, trained: bool, kept: Fraction, masked: Fraction
) -> Work:
    """Work of a product and its gradients without what masks skip; what is executed on dense kernels stays.

    Args:
        tokens: vectors that the weight is applied to.
        rows: of the weight.
        columns: of the weight.
        live: the input needs a gradient.
        trained: the weight needs a gradient.
        kept: share of the weights that the product and its input's gradient need.
        masked: share of the weights that get a gradient.
    """

    def skipped(cost: Cost, kept: Fraction) -> Cost:
        return replace(cost, flops=cost.flops * kept.numerator // kept.denominator)

    through = formulas.linear(tokens, columns, rows, input_gradient=live, weight_gradient=False)
    gradient = formulas.linear(tokens, columns, rows, input_gradient=False, weight_gradient=trained).backward
    return Work(skipped(through.forward, kept), skipped(through.backward, kept) + skipped(gradient, masked))


def needs_horizon(recipe: Any, shares: dict[str, float]) -> list[str]:
    """Problems of keys that are shares of a run whose length is not known."""
    if recipe.budget.seconds is None:
        return []
    what = "is a share of the run, whose length a budget in seconds leaves open; use 0 or another budget"
    return [f"parametrization.{key}: {what}" for key, share in shares.items() if share]
