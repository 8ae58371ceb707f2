"""A second device, "twin", where there is no GPU: its tensors are computed on the CPU, but live apart from the CPU's.

As on a GPU, an operation on tensors of both devices is an error (numbers and index tensors aside), and reading a value
makes the host wait: such reads are counted. What it cannot show is a GPU's kernels, its precision or its speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "twin"
_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}
_READS = {_aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default, _aten.masked_select.default}


class TwinTensor(torch.Tensor):
    """A tensor of the twin; ``elem`` is its data, a CPU tensor of the same shape and strides."""

    elem: torch.Tensor

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> TwinTensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device=f"{NAME}:0",
        )
        made.elem = elem
        return made  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:
        return f"TwinTensor({self.elem})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: tensors of {NAME} live only while it is plugged in")


class Twin(TorchDispatchMode):
    """While entered, the device is there. ``reads`` counts how often the host waited for a value, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in tensors if isinstance(x, TwinTensor)]
        device = kwargs.get("device")
        there = device is not None and torch.device(device).type == NAME
        if not ours and not there:
            return func(*args, **kwargs)
        if func is _aten._fused_sdp_choice.default:
            return 0  # the plain formula: fused kernels are each device's own
        away = device is not None and not there
        if func in _READS or (ours and away) or (func is _aten.copy_.default and not isinstance(args[0], TwinTensor)):
            self.reads.append(str(func))
        if func not in _MOVES:
            strangers = [x for x in tensors if not isinstance(x, TwinTensor) and x.dim() > 0]
            if strangers and ours and func not in _INDEXING:
                raise RuntimeError(f"{func}: tensors on cpu and {NAME}: {[tuple(x.shape) for x in strangers]}")
        if there:
            kwargs = {**kwargs, "device": "cpu"}
        inner, inner_kwargs = tree_map(_unwrapped, (args, kwargs))
        if func is _aten._to_copy.default and device is not None:
            inner = (inner[0].clone(), *inner[1:])  # another device is another memory
        out = func(*inner, **inner_kwargs)
        if away:
            return out
        if func is _aten.copy_.default:
            return args[0]
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_wrapped, out))


def _unwrapped(x: Any) -> Any:
    return x.elem if isinstance(x, TwinTensor) else x


def _wrapped(x: Any) -> Any:
    return TwinTensor(x) if isinstance(x, torch.Tensor) else x


@contextmanager
def plugged_in() -> Iterator[Twin]:
    """The device, for a while. Its name stays known to torch afterwards: nothing can take that back."""
    if not torch.accelerator.is_available():
        _setup_privateuseone_for_python_backend(NAME)
    with pytest.MonkeyPatch.context() as patch, Twin() as twin:
        patch.setattr(torch.accelerator, "synchronize", lambda device=None: None)
        patch.setattr("isoflop.core.recipe.KINDS", ["cpu", NAME])
        yield twin
