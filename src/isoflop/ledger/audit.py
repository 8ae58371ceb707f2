"""The audit: counts the matmul-class FLOPs that eager code executes, to the integer.

Its totals are compared with the ledger's hardware FLOPs. Unlike torch's own counter it knows attention on the CPU,
factorizations, solves, matrix-vector products, Fourier transforms and integer products, and an operation of the class
that has no formula fails instead of counting as zero. Compiled code is invisible to it: audit with compile off.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.errors import UsageError, nearest
from .ledger import PHASES
from .operations import FORMULAS


class Audit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager that counts the FLOPs executed inside, by phase and operation.

    Use it to prove a cost that a part states: what is stated and what is executed must be one integer.

    Example:
        >>> with Audit() as audit:
        ...     product = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> audit.total("train"), audit.counts()
        (48, {'mm': 48})

    While any dispatch mode is on, torch computes eigenvectors and singular vectors even for ``eigvalsh``, ``eigvals``
    and ``svdvals``: they are counted, as executed.

    Raises, at the call: UsageError that names the operation if it is matmul-class and has no formula.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._phase = "train"
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what runs inside to ledger phase ``name`` instead of "train"."""
        if name not in PHASES:
            raise UsageError(f"no phase {name!r}", where="audit", fix=nearest(name, PHASES))
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def counts(self, phase: str | None = None) -> dict[str, int]:
        """Operation -> FLOPs in one phase or in all; operations without matmul-class FLOPs are left out."""
        counters = self._counts.values() if phase is None else [self._counts[phase]]
        return dict(sum(counters, Counter[str]()))

    def total(self, phase: str | None = None) -> int:
        """FLOPs in one phase or in all."""
        return sum(self.counts(phase).values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        count = FORMULAS.get(name)
        if count is None:
            if _decomposes(func):  # only in inference mode do composite operations arrive whole
                with self:
                    return func.decompose(*args, **kwargs)
            if _suspect(name):
                raise _unknown(func, "has no FLOP formula")
            return func(*args, **kwargs)
        arguments = _bind(func, args, kwargs)
        tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
        if any(tensor.layout != torch.strided for tensor in tensors):
            raise _unknown(func, "has no FLOP formula for sparse operands")
        out = func(*args, **kwargs)
        flops = count(arguments, out)
        if any(tensor.is_complex() for tensor in tensors) and not name.startswith("_fft"):
            flops *= 4  # a complex multiply-add is four real ones
        self._counts[self._phase][name] += flops
        return out


# ---------------------------------------------------------------- which operations must have a formula

_CLASS = re.compile(  # words, between underscores or digits, in the names of matmul-class operations
    r"(?:^|_)(?:[a-z]*mm|[a-z]*mv|[a-z]*matmul|v?dot|addr|ger|einsum|(?:bi|tri)?linear|conv|convolution|linalg|fft"
    r"|attention|transformer|rnn|lstm|gru|[cp]dist|euclidean|cholesky|[a-z]*solve|inverse|svd|eig|qr|geqrf|or[mg]qr"
    r"|lobpcg)(?=_|\d|$)"
)
_NOT_PRODUCTS = re.compile(  # operations that are elementwise or copies, despite such a word
    r"_?upsample_\w+|_thnn_fused_\w+|mkldnn_reorder_\w+|\w+_flatten_weight|fft_r?fftfreq|slice_inverse"
    r"|_linalg_check_errors|linalg_vector_norm|linalg__powsum|linalg_cross"
)
_HARMLESS_NAMESPACES = {"prim", "prims", "profiler", "c10d", "_c10d_functional", "c10d_functional"}


@functools.cache
def _name(func: Any) -> str:
    """The operation without its overload and in-place underscore; with its namespace if that is not aten."""
    name = func._schema.name.removeprefix("aten::")
    return str(name if name.endswith("__") else name.removesuffix("_"))


@functools.cache
def _decomposes(func: Any) -> bool:
    return bool(func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


@functools.cache
def _suspect(name: str) -> bool:
    namespace, _, _ = name.rpartition("::")
    if namespace:
        return namespace not in _HARMLESS_NAMESPACES
    return bool(_CLASS.search(name)) and not _NOT_PRODUCTS.fullmatch(name)


def _unknown(func: Any, what: str) -> UsageError:
    return UsageError(
        f"{func} {what}, so that the FLOPs of this code are unknown",
        where="audit",
        fix=f"register one: @isoflop.ledger.operations.formula({_name(func)!r})",
    )


def _bind(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    declared = func._schema.arguments
    bound = {a.name: a.default_value for a in declared if a.has_default_value()}
    return bound | {a.name: value for a, value in zip(declared, args, strict=False)} | dict(kwargs)
