"""A compressed model as an ordinary run: evaluated, continued, trained on and exported as any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..core.contracts import TransformPart
from ..core.errors import DataError, UsageError
from ..core.files import clear_leftovers_of, publish_directory
from ..core.recipe import Recipe
from ..core.references import Start
from ..core.registry import get
from ..core.scale import Scale
from ..store.names import component
from ..store.references import ancestors_of, describe
from ..store.run import Run
from ..train.build import assemble, text_digests
from ..train.run import weights_digest
from .compressing import Compressed, TransformedRun, record_of

COMPRESSED = "compressed"
"""What a result says of the compression that made its run."""


def compress_to_run(
    run: Run, parts: Sequence[TransformPart], root: Path, name: str, warn: Callable[[str], None] | None = None
) -> Compressed:
    """Make a run of what transforms make of another run's model: it starts from that one, and takes no step.

    It appears as a whole. Where it is there already, nothing is done.

    Args:
        run: the run; parametrizations are baked in first.
        parts: in order.
        root: directory of runs.
        name: of the new run.
        warn: called with each warning.

    Raises:
        UsageError: nothing matches, the run was compressed before, or another run has that name.
        NumericsError: a weight, or the value that it leads to, is not finite.
        StorageError: the disk refused; nothing is left behind then.
    """
    path = root / component(name)
    start = _start(run)
    if path.exists():
        return _there(path, start, parts)
    prepared = TransformedRun.of(run, parts, warn)
    recipe = _recipe(prepared, start, parts, name)
    clear_leftovers_of(path)
    with publish_directory(path) as partial:
        return _write(Run.within(partial, recipe), prepared)


def _start(run: Run) -> Start:
    facts = describe(str(run.path), run.path.parent)
    return Start(**{key: facts[key] for key in ("run", "recipe", "digest", "vocab_size")})


def _there(path: Path, start: Start, parts: Sequence[TransformPart]) -> Compressed:
    """What a run of that name says of itself; UsageError if it was made otherwise."""
    with suppress(DataError):
        there = Run.read(path)
        made = there.resolved.get("start") or {}
        same = made.get("digest") == start.digest and there.resolved.get("transforms") == record_of(parts)
        kept = there.result.get(COMPRESSED)
        if same and isinstance(kept, dict):
            return Compressed(**{**kept, "scale": Scale(**kept["scale"])})
    raise UsageError("exists already, and is another run", where=str(path), fix="choose another --name")


def _recipe(prepared: TransformedRun, start: Start, parts: Sequence[TransformPart], name: str) -> Recipe:
    """The recipe of the run: that of the one that it starts from, but for what only training needs."""
    old = prepared.found.recipe
    idle = {"optimizer": get("optimizer", "adamw")(), "schedule": get("schedule", "constant")()}
    left = old.having(
        name=name, start=start, model=prepared.made.model.part, transforms=tuple(parts), averaging=None,
        parametrization=None, freeze=(), **idle,
    )  # fmt: skip
    used = {other for _, part in left.parts() for other in part.uses}
    return left.having(models={key: model for key, model in left.models.items() if key in used})


def _write(own: Run, prepared: TransformedRun) -> Compressed:
    """Fill the directory of a run: weights, value, bill."""
    own.write_ancestors(ancestors_of(own.recipe.references, own.path.parent))
    own.set_status("running")
    session = assemble(own.recipe, own, prepared.session.parts.source)
    session.parts.model.load_state_dict(dict(prepared.made.model.tensors))
    session.ledger.add("scoring", prepared.text.spent)
    session.evaluate()
    session.save()
    assert session.value is not None
    size = Compressed.of(prepared.made)
    made = Compressed(size.bits, size.bytes, size.parameters, prepared.before(), session.value, session.scale)
    texts = text_digests(session.parts.source)
    digest = weights_digest(own)
    own.write_result(
        {"status": "done", **session.outcome(), **texts, "weights_sha256": digest, COMPRESSED: asdict(made)}
    )
    own.set_status("done", step=0)
    return made
