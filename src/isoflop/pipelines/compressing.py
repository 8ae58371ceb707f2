"""From a trained model to a compressed one: transformed, measured before and after, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..compress.transform import Transformed, transformed
from ..core.context import Context
from ..core.contracts import Pattern, PlainModel, Source, TransformPart, Treatment, merged
from ..core.cost import Cost
from ..core.errors import UsageError
from ..core.rng import Rng
from ..core.scale import Scale
from ..store.run import Run
from ..train.restore import Trained, restore, trained
from ..train.session import Session
from .publishing import COMPRESSION, WeightChange, publish_directory, publish_run


@dataclass(frozen=True)
class Compressed:
    """What compression did.

    Args:
        bits: a changed weight.
        bytes: of the whole model as it could be packed, what was not changed in bf16.
        parameters: that are left.
        before: the run's value; None of a directory, which has no held-out text.
        after: its value with the compressed weights.
        scale: what the values are measured on.

    Example:
        >>> Compressed(bits=4.5, bytes=100_000, parameters=170_000).line("b")
        'b: 170,000 weights, 4.5 bits a weight, 0.1 MB'
    """

    bits: float
    bytes: int
    parameters: int
    before: float | None = None
    after: float | None = None
    scale: Scale | None = None

    def line(self, name: str) -> str:
        """The whole in one line."""
        quality = f"{self.parameters:,} weights"
        if self.before is not None and self.after is not None and self.scale is not None:
            quality = f"{self.before:.4f} -> {self.after:.4f} {self.scale.unit}"
        return f"{name}: {quality}, {self.bits:.3g} bits a weight, {self.bytes / 1e6:.2g} MB"

    @classmethod
    def of(cls, made: Transformed) -> Compressed:
        """Its size, nothing measured yet."""
        return cls(made.bits, made.bytes, sum(tensor.numel() for tensor in made.model.tensors.values()))


class RunText:
    """A run's training text, on which transforms watch its model: see ``core.contracts.Calibration``.

    Args:
        source: of the run.
        ctx: to build models with.
        pattern: who sees whom.

    Attributes:
        spent: what watching cost.
    """

    def __init__(self, source: Source, ctx: Context, pattern: Pattern | None) -> None:
        self.source, self.ctx, self.pattern = source, ctx.having(precision="fp32"), pattern
        self.spent = Cost()

    def tokens(self, windows: int, seed: int) -> Tensor:
        stream, found, rows = self.source.batches(self.ctx.having(rng=Rng(seed)("calibration"))), list[Tensor](), 0
        while rows < windows:
            batch = getattr(next(stream), "inputs", None)
            if batch is None:
                raise UsageError("the run's source gives no tokens to watch a model on", where="--with")
            found.append(batch)
            rows += len(batch)
        return torch.cat(found)[:windows]

    def live(self, model: PlainModel) -> torch.nn.Module:
        live = model.part.build(self.ctx).to(self.ctx.device)
        live.load_state_dict({name: model.tensors[name] for name in live.state_dict()})  # not what an objective owns
        return live.eval()

    def charge(self, cost: Cost) -> None:
        self.spent += cost


@dataclass(frozen=True)
class TransformedRun:
    """A run whose model has been transformed: its session, its model in use, what was made of it, and on what text."""

    session: Session
    found: Trained
    made: Transformed
    text: RunText

    @classmethod
    def of(cls, run: Run, parts: Sequence[TransformPart], warn: Callable[[str], None] | None) -> TransformedRun:
        """UsageError if the run was compressed before."""
        if run.recipe.transforms:
            raise _compressed_before(str(run.path))
        session, found = restore(run, device="cpu"), trained(run, device="cpu", warn=warn)
        text = RunText(session.parts.source, found.ctx, found.recipe.objective.patterns[0])
        model = PlainModel(found.recipe.model, found.ctx.vocab_size, merged(found.model)).joined()
        return cls(session, found, transformed(model, parts, text), text)

    def before(self) -> float:
        """The run's value on its held-out text."""
        return self.session.measure()[self.found.recipe.metrics[0].name].value

    def after(self) -> float:
        """The same of what was made."""
        objective = self.found.recipe.objective
        plain = (
            self.made.model.part.treated(Treatment(owned=objective.owned_beside(self.found.recipe.models)))
            .build(self.found.ctx)
            .eval()
        )
        plain.load_state_dict(dict(self.made.model.tensors))
        ctx = self.found.ctx.having(models={"policy": plain})
        measured = replace(self.found, model=plain, ctx=ctx).measure(self.session.parts.source.heldout())
        return measured[self.found.recipe.metrics[0].name].value


def compress_run(
    run: Run, parts: Sequence[TransformPart], out: Path, warn: Callable[[str], None] | None = None
) -> Compressed:
    """Write a run's transformed model as a published directory, measured on the run's held-out text.

    Args:
        run: the run; parametrizations are baked in first.
        parts: in order.
        out: the directory; must not exist.
        warn: called with each warning.

    Raises:
        UsageError: nothing matches, the run was compressed before, or ``out`` exists.
        NumericsError: a weight is not finite.
    """
    _refuse_existing(out)
    found = TransformedRun.of(run, parts, warn)
    measured = replace(Compressed.of(found.made), before=found.before(), after=found.after(), scale=found.session.scale)
    publish_run(run, out, warn=warn, change=WeightChange(lambda model: found.made.model, record_of(parts)))
    return measured


def compress_directory(directory: Path, parts: Sequence[TransformPart], out: Path) -> Compressed:
    """Write a published model transformed; arguments are ``compress_run``'s.

    Raises:
        UsageError: it was compressed before, nothing matches, or ``out`` exists.
    """
    _refuse_existing(out)
    if (directory / COMPRESSION).exists():
        raise _compressed_before(str(directory))
    kept = []

    def change(model: PlainModel) -> PlainModel:
        kept.append(transformed(model, parts))
        return kept[0].model

    publish_directory(directory, out, change=WeightChange(change, record_of(parts)))
    return Compressed.of(kept[0])


def record_of(parts: Sequence[TransformPart]) -> list[object]:
    """Transforms as JSON values."""
    return [part.model_dump(mode="json") for part in parts]


def _compressed_before(where: str) -> UsageError:
    what = "was compressed before, and its rounded weights would be rounded again"
    return UsageError(what, where=where, fix="give all transforms at once to the model that it was made from")


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UsageError("exists already", where=str(out), fix="choose another directory")
