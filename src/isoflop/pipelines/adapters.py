"""Adapters in PEFT's layout and runs: what a run trained as an adapter, and adapters as what a run takes up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import LowRank
from ..core.digests import digest, digest_file
from ..core.errors import DataError, UsageError
from ..core.reading import user_path
from ..core.references import ADAPTER
from ..merge.lora import Adapter, Factor
from ..merge.lora_files import STEM, read_adapter, write_adapter
from ..merge.lora_trained import adapter_of
from ..models.hf.directory import Published
from ..models.hf.layouts import Entry
from ..store.run import Run
from ..store.tensors import Checkpoint
from ..train.restore import trained


def publish_adapter(run: Run, out: Path, *, warn: Callable[[str], None] | None = None) -> Path:
    """Write the low-rank updates that a run trained, as PEFT loads them; the rest of the model is its start's.

    Matrices that a family keeps in one tensor (query, key and value of GPT-2) get one update of the ranks' sum, exactly
    those of ours side by side.

    Args:
        run: the run: it began with a published model, and trained ``lora``, ``dora`` or ``cat``.
        out: the directory; must not exist.
        warn: called with each warning, e.g. a damaged checkpoint that was skipped.

    Returns:
        The published model's directory, which the adapter names as its base.

    Raises:
        UsageError: it trained no updates of low rank, or did not begin with a published model.
        DataError: the published model is not there any more, or another one.
    """
    recipe = run.recipe
    if recipe.start is None or not recipe.start.published:
        what = "did not begin with a published model, on which an adapter could be loaded"
        raise UsageError(what, where=str(run.path), fix="export its whole model: leave --adapter out")
    if out.exists():
        raise UsageError("exists already", where=str(out), fix="name another directory")
    base = Published(user_path(recipe.start.run))
    if base.whole:
        what = f"began with the text part of a {base.whole}, whose modules PEFT knows by other names"
        raise UsageError(what, where=str(run.path), fix="export its whole model: leave --adapter out")
    if base.identity()[1] != recipe.start.digest:
        what = f"holds other weights than those that {run.label} began with, to which its updates belong"
        raise DataError(what, where=str(base.path), fix="restore them from a copy, or export the whole model")
    model = trained(run, device="cpu", warn=warn).model
    found = adapter_of(model)
    moved, turned = {}, set()
    for entry in base.family.all_entries(base.part):
        names = [name.removesuffix(".weight") for name in entry.ours]
        if any(name in found.modules for name in names):
            weights = [model.get_parameter(name).detach() for name in entry.ours]
            factors = [found.modules.get(name) for name in names]
            turned.add(entry.layout.transposed)
            moved[entry.theirs.removesuffix(".weight")] = _together(entry, factors, weights)
    config = {"base_model_name_or_path": str(base.path)}
    write_adapter(Adapter(moved, fan_in_fan_out=turned == {True}, config=config), out)
    return base.path


def _together(entry: Entry, factors: list[Factor | None], weights: list[Tensor]) -> Factor:
    """The update of one tensor of theirs: ours side by side, none where ours has none.

    Stacked, A's rows are all ranks' one below the other, and B has each matrix's own columns: [B_q 0; 0 B_k] is exact.
    """
    present = [factor for factor in factors if factor is not None]
    rank = sum(factor.rank for factor in present)
    a = torch.cat([factor.a * factor.scale for factor in present])
    parts, at = [], 0
    for factor, weight in zip(factors, weights, strict=True):
        part = torch.zeros(len(weight), rank)
        if factor is not None:
            part[:, at : at + factor.rank] = factor.b
            at += factor.rank
        parts.append(part)
    b = entry.layout.join(parts)
    b = b.t() if entry.layout.transposed else b  # stored as (in, out); an update is (out, in) all the same
    made = Factor(a, b.contiguous())
    if all(factor.magnitude is None for factor in present):
        return made
    lengths = [
        weight.norm(dim=1) if factor is None or factor.magnitude is None else factor.magnitude
        for factor, weight in zip(factors, weights, strict=True)
    ]
    return replace(made, magnitude=entry.layout.join(lengths).contiguous())


def describe_adapter(directory: Path, wanted: str | None = None) -> dict[str, Any]:
    """What a recipe keeps of an adapter's directory, as if it were a run that was trained with ``lora``.

    Args:
        directory: in PEFT's layout.
        wanted: digest of the weights, where the user gives it.

    Raises:
        DataError: it cannot be read, holds more than plain updates of low rank, or other weights.
    """
    adapter = read_adapter(directory)
    if adapter.saved or any(factor.magnitude is not None for factor in adapter.modules.values()):
        what = "holds more than plain updates of low rank (modules trained whole, or DoRA's lengths)"
        raise DataError(what, where=str(directory), fix="name an adapter that was trained with LoRA alone")
    files = {file.name: digest_file(file) for file in Checkpoint(directory, STEM).files()}
    if wanted not in (None, digest(files)):
        what = f"holds weights with digest {digest(files)[:12]}, not {str(wanted)[:12]}"
        raise DataError(what, where=str(directory), fix="restore them from a copy, or name the adapter anew")
    rank = max((factor.rank for factor in adapter.modules.values()), default=1)
    return {
        "run": str(directory),
        "recipe": digest(dict(adapter.config)),
        "digest": digest(files),
        "format": ADAPTER,
        "resolved": {"parametrization": {"name": "lora", "rank": rank}},
    }


def updates(directory: Path, base: Path | None) -> dict[str, LowRank]:
    """The updates in an adapter's directory by our modules' paths: the answer to ``core.origins.updates``."""
    found = read_adapter(directory).modules
    if base is None:
        return {name: LowRank(factor.a.float(), factor.b.float(), factor.scale) for name, factor in found.items()}
    published, made = Published(base), dict[str, LowRank]()
    entries = {entry.theirs.removesuffix(".weight"): entry for entry in published.family.all_entries(published.part)}
    for name, factor in found.items():
        if name not in entries:
            raise DataError(f"adapts module {name!r}, which {base} does not have", where=str(directory))
        entry = entries[name]
        rows = entry.layout.split(factor.b.t() if entry.layout.transposed else factor.b)
        for ours, b in zip(entry.ours, rows, strict=True):
            if len(rows) > 1 and not b.any():  # theirs is one tensor, and this part of it was not trained
                continue
            made[ours.removesuffix(".weight")] = LowRank(factor.a.float(), b.float().contiguous(), factor.scale)
    return made
