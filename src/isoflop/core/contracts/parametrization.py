"""The contract of a parametrization: another form of a weight's product, and what of a model is trained at all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

from ..cost import Work
from ..registry import Part
from ..rng import Rng
from ..roles import ROLES, Shape, width_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PLACE = "parametrization"
"""The attribute of a matrix that holds its parametrization, and so the piece of its parameters' names."""
OWNED = "owned"
"""The attribute of a model that holds what its objective owns, and so what those parameters' names begin with."""


class Owned(Protocol):
    """What an objective adds to the policy: a module that is trained with it, as a head of the objective's own.

    Its parameters are the model's ``owned.<name>``: they reach groups, cost, optimizer state and checkpoint as all
    others do. Its modules carry a ``role``.
    """

    def build(self, width: int, rng: Rng) -> torch.nn.Module:
        """The module, beside a model whose vectors are ``width`` wide; ``rng`` is its own stream."""

    def shapes(self, width: int) -> list[Shape]:
        """Names within it, roles and shapes of its parameters, without building it."""


@runtime_checkable
class Parametrization(Protocol):
    """A ``torch.nn.Module`` that stands in for the product x -> x W' of one weight, and may own parameters.

    Its modules carry a ``role``, as a model's do.
    """

    def product(self, weight: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The product in its place, from (..., columns) to (..., rows) vectors in ``dtype``.

        It may be asked for twice in a step, since checkpointed activations are computed again: what it draws at random
        is the same both times, e.g. keyed by the step.

        Args:
            weight: the trained or frozen weight (rows, columns), fp32.
            dtype: of the operands.
        """

    def finalize(self, weight: Tensor) -> Tensor:
        """The plain weight (rows, columns), fp32, whose product is what was trained, as it is now."""


@runtime_checkable
class Operands(Protocol):
    """What becomes of the operands of a weight's three products: x W' forward, g W and g' x backward.

    Equal policies may share a product.
    """

    def of(self, product: str, operand: str, tensor: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
        """An operand as it is multiplied.

        Args:
            product: "forward", "input" (the input's gradient) or "weight" (the weight's).
            operand: "x" the input, "w" the weight or "g" the output's gradient.
            tensor: 2-D, in any type.
            axis: of the tensor, the one that the product sums over.
            dtype: of the result.
        """


@runtime_checkable
class EffectiveWeight(Protocol):
    """A parametrization that puts another weight in a weight's place, wherever that is read, before any cast.

    So it stands in for heads, embeddings and gains as well, not for products alone, and several can follow each other.
    Its module is in training mode while it is trained; otherwise it gives what ``finalize`` gives.

    Attributes:
        operands: what becomes of the operands of the weight's products; None: they stay as they are.
    """

    operands: Operands | None

    def effective(self, weight: Tensor) -> Tensor:
        """The weight in its place (rows, columns), fp32, differentiable; of a gain rows = 1."""


@runtime_checkable
class AddsGradient(Protocol):
    """A parametrization with a penalty of its own, as a rule for its gradient."""

    def own_gradient(self, weight: Tensor) -> Tensor | None:
        """What is added to the weight's gradient (rows, columns) once a step, before clipping; None: nothing yet."""


@runtime_checkable
class Tells(Protocol):
    """A parametrization that says something of its weight as it is in use, to be recorded with each evaluation."""

    def told(self, weight: Tensor) -> Mapping[str, float]:
        """By name, of the trained weight (rows, columns): "density" the share that is not zero, and what else."""


@runtime_checkable
class TellsOfUse(Protocol):
    """A layer that says how its parts are in use, to be recorded with each evaluation."""

    def told_of_use(self) -> Mapping[str, float]:
        """By name, of the newest step of training: "expert 3" the share of choices that fell on the fourth expert."""


@runtime_checkable
class TakesCurvature(Protocol):
    """A parametrization whose rule needs the loss's curvature along each weight."""

    def take_curvature(self, curvature: Callable[[], Tensor | None]) -> None:
        """``curvature()`` gives the optimizer's estimate for its weight, None while there is none; told once."""


@runtime_checkable
class Timed(Protocol):
    """Whatever changes with time: it is told the step that comes and the run's horizon before each step."""

    def at(self, step: int, horizon: int) -> None:
        """``step`` counts from 0; ``horizon`` is 0 where it is not known (a budget in seconds)."""


@dataclass(frozen=True)
class LowRank:
    """An update of a weight as factors: W + scale B A; with ``magnitude`` each row then gets that length.

    Attributes:
        a: (rank, columns).
        b: (rows, rank).
        magnitude: (rows,).

    Example:
        >>> import torch
        >>> update = LowRank(a=torch.ones(2, 4), b=torch.ones(3, 2), scale=0.5)
        >>> (update.scale * update.b @ update.a).shape
        torch.Size([3, 4])
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0
    magnitude: Tensor | None = None


@runtime_checkable
class HasLowRank(Protocol):
    """A parametrization whose update is one of low rank, and so an adapter that can travel apart from its base."""

    def low_rank(self) -> LowRank:
        """The update as it is now."""


@runtime_checkable
class Adopts(Protocol):
    """A parametrization that takes up the updates of other models."""

    def adopt(self, updates: Sequence[LowRank | None]) -> None:
        """Those of its own matrix in the models that its part ``adopts``; None where one has none there."""


@runtime_checkable
class BeginsFromWeight(Protocol):
    """A parametrization whose own parameters start from the weight that training begins with."""

    def begin_from(self, weight: Tensor) -> None:
        """``weight`` (rows, columns): told before the first step, whenever the weights have been set."""


def begin_from_weights(model: torch.nn.Module) -> None:
    """Tell each parametrization that wants to know the weight that training begins with."""
    for name, module in model.named_modules():
        parametrization = getattr(module, PLACE, None)
        if isinstance(parametrization, BeginsFromWeight):
            parametrization.begin_from(model.get_parameter(f"{name}.weight"))


def added(name: str) -> bool:
    """Whether a parameter belongs to a parametrization and not to the model itself."""
    return f".{PLACE}." in name


def owned(name: str) -> bool:
    """Whether a parameter belongs to what the objective adds to the model."""
    return name.startswith(f"{OWNED}.")


def merged(model: torch.nn.Module) -> dict[str, Tensor]:
    """The plain model's weights, with every parametrization baked in; names are those of a model without any."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if not added(name)}
    for name, module in model.named_modules():
        parametrization = getattr(module, PLACE, None)
        if parametrization is not None:
            weights[f"{name}.weight"] = as_matrix(parametrization.finalize, module.weight).detach()
    return weights


def weights_told(model: torch.nn.Module) -> dict[str, dict[str, float]]:
    """What a model's layers say of their use, and parametrizations of their weights, by module; empty: none does."""
    found: dict[str, dict[str, float]] = {}
    for name, module in model.named_modules():
        if isinstance(module, TellsOfUse) and (used := module.told_of_use()):
            found[name] = dict(used)
        own = getattr(module, PLACE, None)
        if isinstance(own, Tells):
            weight = module.get_parameter("weight").detach()
            found[name] = {**found.get(name, {}), **own.told(weight if weight.ndim == 2 else weight[None])}
    return found


def as_matrix(function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    """``function`` of a weight (rows, columns); a gain (columns,) goes through it as one row."""
    return function(weight) if weight.ndim == 2 else function(weight[None])[0]


class ParametrizationPart(Part):
    """Makes the parametrization of each matrix that it targets.

    Class attributes:
        alone: only its own parameters are trained; all weights of the model stay as they are.
    """

    slot: ClassVar[str] = "parametrization"
    alone: ClassVar[bool] = False

    targets: tuple[str, ...] = ("*",)
    """Which matrices within the blocks: patterns of their names, e.g. "*.mixer.*" or "*.q"."""

    def of(self, shape: Shape) -> ParametrizationPart | None:
        """What makes the parametrization of a parameter: itself, or None where it leaves the parameter plain."""
        if shape.role not in self.placed or len(shape.shape) > 2 or not shape.name.endswith("weight"):
            return None
        if shape.role == "hidden" and len(shape.shape) != 2:
            return None
        module = shape.name.removesuffix(".weight")
        return self if any(fnmatchcase(module, target) for target in self.targets) else None

    @property
    def placed(self) -> tuple[str, ...]:
        """Roles of the parameters that it may stand in for."""
        return ("hidden",)

    @property
    def bits_in_use(self) -> float | None:
        """Bits of a weight in use, its share of scales left out; None: it is not rounded."""
        return None

    @property
    def everywhere(self) -> bool:
        """Whether it takes whatever it may stand in for."""
        return self.targets == ("*",)

    def matches(self, shapes: Sequence[Shape]) -> list[str]:
        """Problems of its targets in a model: patterns that match nothing."""
        each = [(target, self.model_copy(update={"targets": (target,)})) for target in self.targets]
        return [
            f"parametrization.targets: {target!r} matches no matrix within the blocks"
            for target, only in each
            if not any(only.of(shape) for shape in shapes)
        ]

    def stages(self, horizon: int) -> tuple[tuple[int, Hashable], ...]:
        """(first step, stage) of a run of ``horizon`` steps, in order: stages have prices of their own. By default one.

        A step's price is that of the products which its masks leave; how many, a stage says.
        """
        return ((0, None),)

    def priced(self, stage: Hashable) -> Self:
        """This part as it is priced in one of its stages."""
        return self

    def join(self, members: Sequence[tuple[torch.nn.Module, torch.nn.Module]]) -> None:
        """Told once all of a model's (parametrization, module with its ``weight``) that it made; by default nothing."""

    @property
    def adopts(self) -> tuple[str, ...]:
        """Names of other models (``models.<name>`` of the recipe) whose low-rank updates it takes up."""
        return ()

    def legal(self, other: ParametrizationPart | None) -> bool:
        """Whether it can take up the updates of a model that was trained with ``other``."""
        return False

    def given(self, others: Mapping[str, ParametrizationPart | None]) -> Self:
        """This part, knowing what the models that it adopts from were trained with."""
        return self

    @abstractmethod
    def build(self, rows: int, columns: int, rng: Rng) -> torch.nn.Module:
        """The parametrization of one weight (rows, columns); ``rng`` is its own stream."""

    @abstractmethod
    def shapes(self, rows: int, columns: int) -> list[Shape]:
        """Names, roles and shapes of the parameters that it adds to one weight."""

    @abstractmethod
    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool, own: frozenset[str]) -> Work:
        """Exact work of one product on ``tokens`` vectors and of its gradient.

        Args:
            tokens: vectors that the weight is applied to.
            rows: of the weight, its output width.
            columns: of the weight, its input width.
            trained: the weight itself needs a gradient.
            live: the input needs a gradient.
            own: names, as in ``shapes``, of its own parameters that are trained; a recipe may freeze the others.
        """


def matrix_of(shape: Shape) -> tuple[int, int]:
    """(rows, columns) of a parameter as parametrizations see it; a gain is one row."""
    return (1, *shape.shape) if len(shape.shape) == 1 else shape.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class Treatment:
    """How a model's weights are held in training: which are parametrized, and which are frozen.

    Args:
        parametrization: of the matrices within the blocks that it targets; None: all are plain.
        freeze: roles or patterns of names whose parameters are not trained: no gradient, no state, no cost of either.
            What a parametrization adds is frozen by a role of its own alone.
        checkpointing: blocks keep their inputs alone, and compute the rest again in the backward pass.
        owned: what the objective adds to the model; None: nothing.

    Example:
        >>> treatment = Treatment(freeze=("embedding",))
        >>> treatment.trains(Shape("embedding.weight", "embedding", (257, 32)))
        False
    """

    parametrization: ParametrizationPart | None = None
    freeze: tuple[str, ...] = ()
    checkpointing: bool = False
    owned: Owned | None = None

    def of(self, shape: Shape) -> ParametrizationPart | None:
        """The parametrization of a parameter, if it has one."""
        return None if self.parametrization is None or owned(shape.name) else self.parametrization.of(shape)

    def stages(self, horizon: int) -> tuple[tuple[int, Hashable], ...]:
        """(first step, stage) of a run of ``horizon`` steps; see ``ParametrizationPart.stages``."""
        return ((0, None),) if self.parametrization is None else self.parametrization.stages(horizon)

    def priced(self, stage: Hashable) -> Treatment:
        """The treatment as it is priced in one of its stages."""
        part = self.parametrization
        return self if part is None else replace(self, parametrization=part.priced(stage))

    def trains(self, shape: Shape) -> bool:
        """Whether a parameter is trained."""
        if added(shape.name):
            return shape.role in ROLES or shape.role not in self.freeze
        if self.parametrization is not None and self.parametrization.alone and not owned(shape.name):
            return False
        return not any(shape.role == rule or fnmatchcase(shape.name, rule) for rule in self.freeze)

    def shapes(self, own: list[Shape]) -> list[Shape]:
        """A model's parameters with those that parametrizations add, each behind its weight, then its objective's."""
        found = []
        for shape in own:
            found.append(shape)
            found += self.added_to(shape)
        return [*found, *self.owned_shapes(own)]

    def owned_shapes(self, own: list[Shape]) -> list[Shape]:
        """The parameters that the objective adds to a model, whose embedding says how wide its vectors are."""
        if self.owned is None:
            return []
        width = width_of(own)
        return [Shape(f"{OWNED}.{s.name}", s.role, s.shape) for s in self.owned.shapes(width)]

    def added_to(self, shape: Shape) -> list[Shape]:
        """The parameters that a parametrization adds to a weight."""
        part, module = self.of(shape), shape.name.removesuffix(".weight")
        own = [] if part is None else part.shapes(*matrix_of(shape))
        return [Shape(f"{module}.{PLACE}.{s.name}", s.role, s.shape) for s in own]

    def own(self, shape: Shape) -> frozenset[str]:
        """Names, within its parametrization, of the trained parameters that one adds to a weight."""
        part = self.of(shape)
        found = [] if part is None else zip(part.shapes(*matrix_of(shape)), self.added_to(shape), strict=True)
        return frozenset(own.name for own, added in found if self.trains(added))
