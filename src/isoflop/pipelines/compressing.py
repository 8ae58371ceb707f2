"""From a trained model to a compressed one: its weights transformed, measured before and after, written whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..compress.mx import Damage, damage
from ..compress.transform import transformed
from ..core.contracts import PlainModel, TransformPart, merged
from ..core.errors import UsageError
from ..core.scale import Scale
from ..models.hf.directory import Published
from ..store.records import scale_of
from ..store.run import Run
from ..train.restore import restore, trained
from .publishing import COMPRESSION, WeightChange, publish_directory, publish_run


@dataclass(frozen=True)
class Compressed:
    """What compression did.

    Args:
        bits: a changed weight.
        bytes: of the whole model as it could be packed, what was not changed in bf16.
        matrices: how many were changed.
        before: the run's value; None of a directory, which has no held-out text.
        after: its value with the compressed weights.
        scale: what the values are measured on.

    Example:
        >>> Compressed(bits=4.5, bytes=100_000, matrices=14).line("b")
        'b: 14 matrices, 4.5 bits a weight, 0.1 MB'
    """

    bits: float
    bytes: int
    matrices: int
    before: float | None = None
    after: float | None = None
    scale: Scale | None = None

    def line(self, name: str) -> str:
        """The whole in one line."""
        quality = f"{self.matrices} matrices"
        if self.before is not None and self.after is not None and self.scale is not None:
            quality = f"{self.before:.4f} -> {self.after:.4f} {self.scale.unit}"
        return f"{name}: {quality}, {self.bits:.3g} bits a weight, {self.bytes / 1e6:.2g} MB"


def compress_run(
    run: Run, parts: Sequence[TransformPart], out: Path, warn: Callable[[str], None] | None = None
) -> Compressed:
    """Write a run's model with transformed weights as a published directory, measured on the run's held-out text.

    Args:
        run: the run; parametrizations are baked in first.
        parts: in order.
        out: the directory; must not exist.
        warn: called with each warning.

    Raises:
        UsageError: nothing matches, or ``out`` exists. NumericsError: a weight is not finite.
    """
    _refuse_existing(out)
    heldout = restore(run, device="cpu").parts.source.heldout()
    found = trained(run, device="cpu", warn=warn)
    made = transformed(PlainModel(found.recipe.model, found.ctx.vocab_size, merged(found.model)), parts)
    plain = made.model.part.build(found.ctx).eval()
    name = found.recipe.metrics[0].name
    before = found.measure(heldout)[name].value
    plain.load_state_dict(dict(made.model.tensors))
    after = replace(found, model=plain, ctx=found.ctx.having(models={"policy": plain})).measure(heldout)[name].value
    publish_run(run, out, warn=warn, change=WeightChange(lambda model: made.model, _record(parts)))
    scale = scale_of(run.result) if run.result else found.recipe.metrics[0].scale
    return Compressed(made.bits, made.bytes, len(made.model.bits), before, after, scale)


def compress_directory(directory: Path, parts: Sequence[TransformPart], out: Path) -> Compressed:
    """Write a published model with transformed weights; arguments are ``compress_run``'s.

    Raises:
        UsageError: it was compressed before, nothing matches, or ``out`` exists.
    """
    _refuse_existing(out)
    if (directory / COMPRESSION).exists():
        what = "was compressed before, and its rounded weights would be rounded again"
        raise UsageError(what, where=str(directory), fix="compress the model that it was made from")
    kept = []

    def change(model: PlainModel) -> PlainModel:
        kept.append(transformed(model, parts))
        return kept[0].model

    publish_directory(directory, out, change=WeightChange(change, _record(parts)))
    return Compressed(kept[0].bits, kept[0].bytes, len(kept[0].model.bits))


def inspected(source: Run | Path, format: str, block: int = 32) -> list[tuple[str, Damage]]:
    """What a format would do to each weight and gain of a model, the worst first: by collapsed and saturated blocks."""
    if isinstance(source, Run):
        weights: Mapping[str, Tensor] = merged(trained(source, device="cpu").model)
    else:
        weights = dict(Published(source).model().named_parameters())
    found = [(name, damage(weight.detach(), format, block=block)) for name, weight in weights.items()]
    return sorted(found, key=lambda pair: (-pair[1].collapsed, -pair[1].saturated, -pair[1].error))


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UsageError("exists already", where=str(out), fix="choose another directory")


def _record(parts: Sequence[TransformPart]) -> list[object]:
    return [part.model_dump(mode="json") for part in parts]
