"""What every optimizer here shares: legal hyper-parameters, gradients checked before anything moves, and state that
keeps its precision through checkpoints.

State is at least fp32 whatever the parameter's dtype. Parameters may be DTensors (FSDP2): rules that treat every scalar
alike work on the local shard, the others gather what they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, overload

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ..core.context import Context
from ..core.contracts import OptimizerPart
from ..core.errors import NumericsError
from .arguments import check_arguments, check_kinds, check_names
from .averages import wide
from .groups import SMALLEST, torch_groups
from .shards import local
from .state import RULE, OptimizerError, check_rule, check_saved, check_shapes, fill_groups, own_state, place

ParamsT = Any
"""What torch's optimizers accept: tensors, (name, tensor) pairs, or dictionaries of groups."""


class Limit(NamedTuple):
    """Legal values of a hyper-parameter; ``low`` itself is legal, ``high`` only if ``closed``."""

    low: float = 0.0
    high: float = math.inf
    closed: bool = False

    def holds(self, value: float) -> bool:
        below = value <= self.high if self.closed else value < self.high
        return math.isfinite(value) and self.low <= value and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a finite number >= {self.low:g}"
        return f"in [{self.low:g}, {self.high:g}{']' if self.closed else ')'}"


NON_NEGATIVE, BETA, UNIT, EPSILON = Limit(), Limit(high=1.0), Limit(high=1.0, closed=True), Limit(low=SMALLEST)


class Method(Optimizer):
    """Base class. A rule implements ``update`` (or ``update_group``); hyper-parameters live in the parameter groups.

    Attributes:
        limits: legal numbers by name; tuples are checked entry by entry.
        choices: legal words (or None) by name, where a hyper-parameter is one of a few.
        follows: whether state of a parameter's shape lies in memory like the parameter; else all state is contiguous.
        shardable: whether parameters may be DTensors; OptimizerError otherwise.
        check_gradients: look for NaN and inf before each step (one pass over the gradients); a loop that checks them
            itself may switch it off.

    Raises:
        OptimizerError: an illegal hyper-parameter (at construction and when a group is added).
    """

    limits: ClassVar[dict[str, Limit]] = {}
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {}
    follows: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    check_gradients: bool = True

    _everywhere: ClassVar[dict[str, Limit]] = {
        "lr": NON_NEGATIVE,
        "betas": BETA,
        "momentum": BETA,
        "eps": EPSILON,
        "weight_decay": NON_NEGATIVE,
    }

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse arguments of other names or kinds than the signature's in words, before anything is computed."""
        check_arguments(cls, args, kwargs)
        return super().__new__(cls)

    def __init__(self, params: ParamsT, **defaults: Any) -> None:
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, its hyper-parameters checked."""
        super().add_param_group(param_group)
        try:
            self._check_group(len(self.param_groups) - 1)
        except OptimizerError:
            self.param_groups.pop()
            raise

    def _check_group(self, index: int) -> None:
        group, where = self.param_groups[index], f"parameter group {index}"
        check_names(type(self).__name__, group, self.defaults, where)
        check_kinds(type(self), group, where)
        for name, limit in {**self._everywhere, **self.limits}.items():
            value = group.get(name)
            for entry in value if isinstance(value, tuple | list) else (value,):
                if entry is not None and not limit.holds(float(entry)):
                    raise OptimizerError(f"{name} must be {limit}, got {value}", where=where)
        for name, legal in self.choices.items():
            if group[name] not in legal:
                what = f"{name} must be one of {', '.join(map(repr, legal))}, got {group[name]!r}"
                raise OptimizerError(what, where=where)
        for name in [key for key in group if key.endswith("_dtype") and group[key] is not None]:
            if not getattr(torch, str(group[name]), torch.int64).is_floating_point:
                raise OptimizerError(f"{name} must be a floating point type, got {group[name]}", where=where)
        for i, p in enumerate(group["params"]):
            if not p.is_floating_point():
                raise OptimizerError(f"must be real floating point, got {p.dtype}", where=place(group, index, i))
            if isinstance(p, DTensor) and not self.shardable:
                raise OptimizerError(f"{type(self).__name__} takes no sharded parameters", where=place(group, index, i))

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient.

        Raises:
            NumericsError: a gradient holds NaN or inf, or its norm overflows; nothing was updated.
            OptimizerError: it is sparse or complex; nothing was updated.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_gradients()
        for group in self.param_groups:
            self.update_group(group, [p for p in group["params"] if p.grad is not None and p.numel()])
        return loss

    def update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update ``params`` of one group, all of which have gradients and entries."""
        for p in params:
            self.update(group, p, self.state[p])

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        """Update one parameter in place by ``p.grad``, which stays as it is."""
        raise NotImplementedError

    def _check_gradients(self) -> None:
        found = [
            (p.grad, group, index, i)
            for index, group in enumerate(self.param_groups)
            for i, p in enumerate(group["params"])
            if p.grad is not None
        ]
        for g, group, index, i in found:
            if g.is_sparse or g.is_complex():
                kind = "sparse" if g.is_sparse else "complex"
                raise OptimizerError(
                    f"the gradient is {kind}; only dense real ones are supported", where=place(group, index, i)
                )
        if not self.check_gradients or finite([local(g) for g, *_ in found]):
            return
        for g, group, index, i in found:
            if not math.isfinite(torch.linalg.vector_norm(local(g), dtype=wide(g.dtype)).item()):
                finite_entries = bool(torch.isfinite(local(g)).all())
                what = "the gradient's squares overflow" if finite_entries else "the gradient holds NaN or inf"
                raise NumericsError(f"{what}; nothing was updated", where=place(group, index, i))

    def compile(self) -> Self:
        """Use one compiled pass from now on, where the rule has one; by default it has none."""
        return self

    def buffer(self, p: Tensor, name: str) -> Tensor:
        """State ``name`` of ``p``, shaped like it, fp32 or wider, zeros at first."""
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(p, dtype=wide(p.dtype), memory_format=torch.preserve_format)
        return state[name]  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """What torch keeps in a copy or a pickle, and the switches that were set on this optimizer."""
        switches = {name: value for name, value in vars(self).items() if name in ("check_gradients", "_compile")}
        return {**super().__getstate__(), **switches}

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and whose state it is (``optimizer``), so that another rule refuses it."""
        return {**super().state_dict(), RULE: type(self).__name__}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but state is copied and keeps the precision it was saved in (torch casts it to the parameters').

        A hyper-parameter that the saved groups lack, as those of an older version or of torch's own rule of that name
        may, stays as it is.

        Raises:
            OptimizerError: it is of another rule, of the same parameters in another order, or of one of another shape.
        """
        check_rule(self, state_dict, type(self).__name__)
        check_saved(self, state_dict, lambda p: self)
        before = self.param_groups
        super().load_state_dict(state_dict)
        fill_groups(self, before)
        own_state(self, state_dict, lambda p: self)

    def check_state(self, p: Tensor, state: dict[str, Any], where: str) -> None:
        """Refuse saved state whose shapes do not fit ``p``; rules with other shapes than p's override ``expected``."""
        check_shapes(p, state, where, self.expected(p))

    def expected(self, p: Tensor) -> dict[str, torch.Size]:
        """Shapes of the state tensors that are not shaped like ``p``."""
        return {}


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a rule's ``__init__``, whose ``locals()`` they are, as its parameter groups keep them.

    So the signature alone names the hyper-parameters. Dtypes become names, so that checkpoints stay plain; a named
    tuple becomes its fields, so that a group may set each of them.
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in ("self", "__class__"):
            found |= value._asdict() if hasattr(value, "_asdict") else {name: value}
    return {k: str(v).removeprefix("torch.") if isinstance(v, torch.dtype) else v for k, v in found.items()}


M = TypeVar("M", bound="Method")


def from_part(cls: type[M], part: OptimizerPart, ctx: Context, drop: Sequence[str] = (), **changes: Any) -> M:
    """Build ``cls`` over ``ctx.groups`` with the part's fields but ``drop``, some of them changed or added.

    Decay acts on matrices only; elementwise rules are compiled if the run is. Gradients are not checked again: a
    training loop has checked them.
    """
    fields = {k: v for k, v in {**part.fields(), **changes}.items() if k not in drop}
    decay = fields.pop("weight_decay", 0.0)
    optimizer = cls(torch_groups(ctx.groups, decay), **fields)
    optimizer.check_gradients = False
    return optimizer.compile() if ctx.compile else optimizer


def finite(tensors: list[Tensor]) -> bool:
    """Whether all entries are finite: one pass without temporaries, one number off the device. False also if the norm
    of finite entries overflows."""
    return not tensors or math.isfinite(torch.nn.utils.get_total_norm(tensors).item())


def next_step(state: dict[str, Any]) -> int:
    """Count a step of one parameter; the number of this step, from 1."""
    if "step" not in state:
        state["step"] = torch.zeros(())
    state["step"] += 1
    return int(state["step"].item())
