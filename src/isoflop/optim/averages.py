"""What every average of the weights shares: fp32 buffers, the swap into the model and back, and state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Average(ABC):
    """Base of the averages. Buffers are at least fp32; parameters are changed in place only while swapped.

    Args:
        params: the live parameters, in an order that does not change over the run; at least one (ValueError).
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        if not self.params:
            raise ValueError("an average needs at least one parameter")
        self.updates = 0

    @abstractmethod
    def update(self, t: int) -> None:
        """Take in the weights as they are after step ``t`` (from 0)."""

    @abstractmethod
    def averages(self) -> list[Tensor]:
        """The averaged weights, in the order of the parameters; only asked after the first update."""

    @abstractmethod
    def buffers(self) -> dict[str, list[Tensor]]:
        """Everything tensor-valued that a checkpoint must keep, one tensor a parameter each."""

    def zeros(self) -> list[Tensor]:
        """One zero buffer a parameter, fp32 or wider."""
        return [torch.zeros_like(p, dtype=wide(p.dtype), requires_grad=False) for p in self.params]

    @torch.no_grad()
    def lerp(self, buffers: list[Tensor], weight: float) -> None:
        """buffers <- (1 - weight) buffers + weight parameters."""
        torch._foreach_lerp_(buffers, [p.to(b.dtype) for p, b in zip(self.params, buffers, strict=True)], weight)

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """The averaged weights stand in the parameters inside the block, the trained ones, bit for bit, after it."""
        if not self.updates:
            yield
            return
        trained = [p.detach().clone() for p in self.params]
        try:
            self._write(self.averages())
            yield
        finally:
            self._write(trained)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for p, value in zip(self.params, values, strict=True):
            p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """``updates`` and each buffer as {index of the parameter: tensor}."""
        kept = {name: {str(i): b for i, b in enumerate(group)} for name, group in self.buffers().items()}
        return {"updates": self.updates, **kept}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; ValueError if names or shapes do not fit these parameters."""
        ours = self.buffers()
        if set(state) != {"updates", *ours}:
            raise ValueError(f"average's state has keys {sorted(state)}, expected {sorted({'updates', *ours})}")
        for name, group in ours.items():
            saved = [state[name].get(str(i)) for i in range(len(group))]
            for i, (old, new) in enumerate(zip(group, saved, strict=True)):
                if new is None or new.shape != old.shape:
                    raise ValueError(f"average's state {name}.{i} does not have shape {tuple(old.shape)}")
                old.copy_(new)
        self.updates = int(state["updates"])


def wide(dtype: torch.dtype) -> torch.dtype:
    """fp32, or the dtype itself where that is wider."""
    return torch.float64 if dtype == torch.float64 else torch.float32
