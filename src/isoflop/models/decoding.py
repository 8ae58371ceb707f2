"""Products in the form that is quickest for a few vectors at a time, as decoding multiplies them.

On a CPU a product of few vectors costs as much as reading the weights, so they are laid out once as they are read
fastest. With more than one sequence, and always in bf16, that is oneDNN's layout: eight vectors then take hardly longer
than one, and a vector's result has the same bits however many others stand beside it.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import as_matrix
from .kernels import gated_linear
from .layers import Matrix, Product

Weights = Literal["int8"]
"""Forms of weights, beside their own, that decoding can multiply with."""
_ROWS = 32
"""Vectors that a layout is made for. For fewer than 8, a single vector would go another way, with other roundings."""
_TINY = torch.finfo(torch.float32).tiny

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class WeightLayout:
    """How weights are to lie in memory.

    Args:
        rows: sequences that decode together.
        weights: "int8" rounds each row of a weight, and each vector it meets, to 8 bits; None keeps them.

    Example:
        >>> product = WeightLayout(rows=8).linear(torch.eye(2, 3))
        >>> product(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[1.0, 2.0]]
    """

    rows: int
    weights: Weights | None = None

    def of(self, products: Any) -> Any:
        """Products that were made for training, or tuples of them, laid out; those of unknown kinds stay as they are.

        Known are what ``Matrix.product``, ``layers.joined`` and gated feed-forwards make of plain weights.
        """
        if isinstance(products, tuple):
            return tuple(map(self.of, products))
        if not isinstance(products, partial) or products.args:
            return products
        if products.func is F.linear:
            return self.linear(**products.keywords)
        if products.func is gated_linear:
            return partial(_gated, self.linear(products.keywords["weight"]))
        return products

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Product:
        """x -> x weight' + bias of (..., columns) vectors."""
        if not weight.is_cpu:
            return partial(F.linear, weight=weight, bias=bias)
        if self.weights == "int8":
            return _rounded(weight, bias)
        if self.rows == 1 and weight.dtype == torch.float32:
            return partial(F.linear, weight=_in_order(weight), bias=bias)
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return partial(F.linear, weight=weight, bias=bias)
        layout = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        return partial(_multiply, torch.ops.mkldnn._linear_pointwise.default, layout, bias)


def _in_order(weight: Tensor) -> Tensor:
    """The weight as one vector reads it fastest from memory: by its longer side, 1.2 to 2.1 times as fast as the other.

    One column after another, a product reads and writes all of its result each time, which short columns do not pay
    for; one row after another, it sums a row's numbers up, which short rows do not pay for. The middle Llama of
    benchmarks/generate.py takes 1.07 times as long by columns alone.
    """
    rows, columns = weight.shape
    return weight.t().contiguous().t() if rows >= columns else weight.contiguous()


def _multiply(kernel: Callable[..., Tensor], layout: Any, bias: Tensor | None, x: Tensor) -> Tensor:
    return kernel(x, layout, bias, "none", [], "")


def _gated(product: Product, x: Tensor) -> Tensor:
    gate, up = product(x).chunk(2, -1)
    return F.silu(gate).mul_(up)


def _rounded(weight: Tensor, bias: Tensor | None) -> Product:
    """A product of 8-bit integers: each row of the weight has a scale of its own, and so has each vector.

    So a vector's result does not depend on the others beside it.
    """
    whole = weight.detach().float()
    scales = (whole.abs().amax(1) / 127).clamp_min(_TINY)
    with warnings.catch_warnings():  # torch means to drop its quantized tensors one day; here only the layout is kept
        warnings.simplefilter("ignore")
        integers = torch.quantize_per_channel(
            whole, scales.double(), torch.zeros(len(whole), dtype=torch.int64), 0, torch.qint8
        )
        layout = torch.ops.quantized.linear_prepack(integers, None)
    kernel = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    return partial(_multiply_rounded, kernel, layout, _steps(), bias, weight.dtype)


def _multiply_rounded(
    kernel: Callable[..., Tensor], layout: Any, steps: int, bias: Tensor | None, dtype: torch.dtype, x: Tensor
) -> Tensor:
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp_min_(_TINY)
    out = kernel(x / scale, 1 / steps, 128, layout).mul_(scale).to(dtype)
    return out if bias is None else out.add_(bias)


@functools.cache
def _steps() -> int:
    """Steps of a vector's number on each side of zero: without VNNI two products of 8-bit numbers may overflow."""
    return 127 if torch.cpu._is_vnni_supported() else 63


def laid_out(module: M, layout: WeightLayout) -> M:
    """A copy of a module whose products are laid out, parametrizations baked in; plain weights are shared.

    Layers that make closures of their matrices' products get them laid out, too.
    """
    children = module._modules.items()
    twin = twin_of(module, {name: None if child is None else laid_out(child, layout) for name, child in children})
    own = getattr(module, "parametrization", None)
    if own is not None and not getattr(own, "operands", None):
        weight = as_matrix(own.finalize, module.get_parameter("weight").detach()).detach()
        twin.weight = nn.Parameter(weight, requires_grad=False)
        del twin._modules["parametrization"]
        vars(twin)["parametrization"] = None
    if isinstance(module, Matrix):
        twin.product = lambda dtype: layout.of(Matrix.product(twin, dtype))  # type: ignore[assignment,arg-type]
    return twin


def twin_of(module: M, children: Mapping[str, nn.Module | None]) -> M:
    """A copy of a module with some other children; parameters are shared.

    Example:
        >>> one = nn.Sequential(nn.Linear(2, 2))
        >>> twin_of(one, {"0": nn.Identity()}), one[0]
        (Sequential(
          (0): Identity()
        ), Linear(in_features=2, out_features=2, bias=True))
    """
    twin = copy.copy(module)
    twin._parameters, twin._modules = dict(module._parameters), {**module._modules, **children}
    return twin
