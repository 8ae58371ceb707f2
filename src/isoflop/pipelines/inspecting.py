"""What an MX format would do to a trained model: to each of its weights, and to the gradient that trains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..compress.mx import BLOCK, Damage, damage
from ..compress.parametrizations.mx import MxPart
from ..core.context import Context
from ..core.contracts import Batch, Treatment, merged
from ..core.errors import DataError, NumericsError, UsageError
from ..core.rng import Rng
from ..core.roles import parameter_groups
from ..models.hf.directory import Published
from ..store.run import Run
from ..train.ancestors import other_models
from ..train.problem import StepProblem
from ..train.restore import Trained, restore, trained

WINDOWS = 32
"""Windows of training text, at least, over which a gradient is averaged."""
Warn = Callable[[str], None]
Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class InspectedWeight:
    """A weight in a format.

    Args:
        name: of the weight.
        damage: what it loses by itself.
        gradient: how far its gradient is off; see ``InspectedModel``. None: it was not taken, or is zero.

    Example:
        >>> InspectedWeight("w", Damage(saturated=0.0, collapsed=0.5, bias=0.0, error=0.1), gradient=0.3).severity
        (0.5, 0.0, 0.3, 0.1)
    """

    name: str
    damage: Damage
    gradient: float | None = None

    @property
    def severity(self) -> tuple[float, ...]:
        """By what the worst come first: collapsed blocks, saturated ones, the gradient, the error."""
        return self.damage.collapsed, self.damage.saturated, self.gradient or 0.0, self.damage.error


@dataclass(frozen=True)
class InspectedModel:
    """A model in a format.

    A gradient is off by |E g' - E g| / |E g|: E is the mean over windows of training text, g the gradient in fp32, g'
    that of products with all six operands in the format and of gains in it. Rounding that were noise alone would leave
    little of it in the mean; what is left is a bias, which training follows.

    Args:
        weights: the worst first.
        gradient: how far the whole gradient is off; None: it was not taken.

    Example:
        >>> InspectedModel(weights=(), gradient=0.25).gradient
        0.25
    """

    weights: tuple[InspectedWeight, ...]
    gradient: float | None = None


def inspected(source: Run | Path, format: str, block: int = BLOCK, warn: Warn | None = None) -> InspectedModel:
    """What a format would do to a model's weights and gains, and to its gradient on the text that it was trained on.

    Args:
        source: a run, or a published model, which has no such text.
        format: a name in ``compress.mx.FORMATS``.
        block: elements that share a scale.
        warn: told why there is no gradient of a run, e.g. since its text has changed.

    Raises:
        UsageError: no format of that name.
    """
    off: dict[str, float | None] = {}
    if isinstance(source, Run):
        found = trained(source, device="cpu")
        weights: Mapping[str, Tensor] = merged(found.model)
    else:
        weights = dict(Published(source).model().named_parameters())
    losses = {name: damage(weight.detach(), format, block=block) for name, weight in weights.items()}
    if isinstance(source, Run):
        try:
            off = _gradient_bias(source, found, format, block)
        except (DataError, NumericsError, UsageError) as error:
            (warn or (lambda _: None))(f"no gradient could be taken: {error}")
    each = [InspectedWeight(name, loss, off.get(name)) for name, loss in losses.items()]
    return InspectedModel(tuple(sorted(each, key=lambda weight: weight.severity, reverse=True)), off.get(""))


def _gradient_bias(run: Run, found: Trained, format: str, block: int) -> dict[str, float | None]:
    """How far the gradient of each weight is off, by its name, and that of all of them, under ""."""
    source = restore(run, device="cpu").parts.source
    ctx = found.ctx.having(precision="fp32", compile=False)
    ctx = ctx.having(models=other_models(found.recipe, source, ctx, run.path.parent))
    stream = source.batches(ctx.having(rng=Rng(0)("inspection")))
    batches = [next(stream) for _ in range(-(-WINDOWS // ctx.batch))]
    rounding = MxPart.model_validate(
        {"weights": format, "activations": format, "gradients": format, "block": block, "roles": ("hidden", "norm")}
    )
    plain, rounded = (_gradients(found, ctx, batches, part) for part in (None, rounding))
    squares = {
        name: (float((rounded[name] - gradient).double().square().sum()), float(gradient.double().square().sum()))
        for name, gradient in plain.items()
    }
    squares[""] = sum(off for off, _ in squares.values()), sum(size for _, size in squares.values())
    return {name: math.sqrt(off / size) if size else None for name, (off, size) in squares.items()}


def _gradients(found: Trained, ctx: Context, batches: Sequence[Batch], part: MxPart | None) -> Gradients:
    """The gradient of the mean loss at the weights in use, whose products ``part`` rounds."""
    recipe = found.recipe
    treatment = Treatment(part, owned=recipe.objective.owned_beside(recipe.models))
    model = recipe.model.treated(treatment).build(ctx)
    model.load_state_dict(merged(found.model))
    model.train()
    ctx = ctx.having(models={**ctx.models, "policy": model}, groups=tuple(parameter_groups(model)))
    StepProblem(recipe.objective.build(ctx), ctx, batches).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
