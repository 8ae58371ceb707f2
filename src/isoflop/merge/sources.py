"""What a path of a recipe means: a directory of safetensors, a run, or its checkpoint, perhaps with an adapter.

``model+adapter`` is the model with the adapter merged into it while it is read; nothing is written for it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..core.contracts import added
from ..core.errors import UsageError
from ..core.reading import contained, user_path
from ..store.checkpoint import damage, steps
from ..store.safetensors_dir import TensorInfo
from ..store.tensors import HEADS, Checkpoint, Stored
from .lora import Adapter, merged_weight
from .lora_files import CONFIG, STEM, read_adapter
from .lora_merge import fitted


def open_source(path: str) -> Checkpoint:
    """The tensors that ``path`` means.

    Raises:
        DataError: they cannot be read.
        RecipeError: the adapter belongs to another base.
        UsageError: the run has no checkpoint, or its model is parametrized.
    """
    model, plus, adapter = path.rpartition("+")
    if plus and not user_path(path).exists():
        return Adapted(source_path(model), user_path(adapter))
    found = Checkpoint(source_path(path))
    for name in found.tensors:
        if added(name):  # to merge factors apart is not to merge the models that they make
            raise UsageError(
                f"holds {name!r}, a parametrization's own",
                where=str(found.path),
                fix=f'merge it as it is evaluated: weights = "evaluated"; or isoflop merge export {path} OUT first',
            )
    return found


def source_path(path: str) -> Path:
    """The directory of tensors that ``path`` means: of a run, its newest checkpoint."""
    directory = user_path(path)
    return last_checkpoints(directory, 1)[0] if is_run(path) else directory


def is_run(path: str) -> bool:
    """Whether ``path`` is the directory of a run."""
    directory = user_path(path)
    return (directory / "resolved.json").exists() and (directory / "checkpoints").is_dir()


def last_checkpoints(run: Path, count: int) -> list[Path]:
    """The newest ``count`` whole checkpoints of a run, the newest first. UsageError if there are fewer."""
    directory = contained(run, "checkpoints")
    found = [directory / str(step) for step in steps(directory) if not damage(directory / str(step))][:count]
    if len(found) < count:
        fix = "set train.keep higher" if found else "train it first"
        raise UsageError(f"has {len(found)} whole checkpoints, not {count}", where=str(run), fix=fix)
    return found


class Adapted(Checkpoint):
    """A checkpoint with an adapter merged into it as it is read.

    Example, with ``write(path, **tensors)`` a directory of weights:
        >>> from isoflop.merge.lora import Adapter, Factor
        >>> from isoflop.merge.lora_files import write_adapter
        >>> write("base", **{"q.weight": [[1.0, 1.0], [1.0, 1.0]]})
        >>> write_adapter(Adapter({"q": Factor(torch.ones(1, 2), torch.ones(2, 1))}), "adapter")
        >>> Adapted(Path("base"), Path("adapter")).read("q.weight").tolist()
        [[2.0, 2.0], [2.0, 2.0]]
    """

    def __init__(self, directory: Path, adapter: Path) -> None:
        super().__init__(directory)
        self.adapter_path = adapter
        self.adapter: Adapter = read_adapter(adapter)
        self.updates, untied = fitted(self, self.adapter, adapter)
        if untied:
            raise UsageError(f"would untie the head {untied!r}", where=str(adapter), fix="fold it into its base first")

    def files(self) -> list[Path]:
        """The files of the weights and of the adapter."""
        return [*super().files(), self.adapter_path / f"{STEM}.safetensors", self.adapter_path / CONFIG]

    def flat(self, name: str, dtype: torch.dtype | None = None) -> Stored:
        """Tensor ``name`` with the adapter's update."""
        if name in self.updates or name in self.adapter.saved:
            return _Updated(self, self.find(name), dtype)
        return super().flat(name, dtype)


class _Updated(Stored):
    """A tensor that an adapter changes: computed whole at the first piece."""

    _made: Tensor | None = None

    def __init__(self, checkpoint: Adapted, info: TensorInfo, dtype: torch.dtype | None) -> None:
        super().__init__(checkpoint, info, dtype)
        self._adapted = checkpoint

    def piece(self, start: int, stop: int) -> Tensor:
        if self._made is None:
            adapter, name = self._adapted.adapter, self.info.name
            weight = adapter.saved[name] if name in adapter.saved else super().piece(0, self.numel).reshape(self.shape)
            if name in self._adapted.updates:
                turned = adapter.fan_in_fan_out and name not in HEADS
                weight = merged_weight(weight, self._adapted.updates[name], transposed=turned)
            self._made = weight.to(self.dtype).reshape(-1)
        return self._made[start:stop]
