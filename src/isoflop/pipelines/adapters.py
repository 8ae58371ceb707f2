"""From a run that trained low-rank updates to an adapter that PEFT loads on the published model that it began with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.reading import user_path
from ..merge.lora import Adapter, Factor
from ..merge.lora_files import write_adapter
from ..merge.lora_trained import adapter_of
from ..models.hf.directory import Published
from ..models.hf.layouts import Entry
from ..store.run import Run
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
