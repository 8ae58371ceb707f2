"""FLOPs that one call of a torch operation executes, from the shapes of its operands and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.cost import Cost
from . import formulas

if TYPE_CHECKING:
    from torch import Tensor

Formula = Callable[[Mapping[str, Any], Any], int]
"""FLOPs from a call's arguments (by the names in the operation's schema, defaults filled in) and its result."""

FORMULAS: dict[str, Formula] = {}
"""Operation -> formula. The name lacks the overload and an in-place form's underscore, and "aten::" is left out."""


def formula(*names: str) -> Callable[[Formula], Formula]:
    """Register a formula for operations; those outside aten are named "namespace::name"."""

    def register(function: Formula) -> Formula:
        FORMULAS.update(dict.fromkeys(names, function))
        return function

    return register


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _numel(out: Any) -> int:
    """Numbers in a result, or in the first of several."""
    return int((out[0] if isinstance(out, tuple | list) else out).numel())


# ---------------------------------------------------------------- products


def _product(left: str) -> Formula:
    """Each number of the result sums over the last dimension of the operand ``left``."""
    return lambda a, out: 2 * _numel(out) * _shape(a[left])[-1]


formula("mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_scaled_mm")(_product("self"))
formula("_weight_int8pack_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu")(_product("self"))
formula("linear")(_product("input"))
formula("addmm", "_addmm_activation")(_product("mat1"))
formula("baddbmm")(_product("batch1"))
formula("addmv")(_product("mat"))
formula("addr")(lambda a, out: 2 * _numel(out))


@formula("addbmm")
def _addbmm(a: Mapping[str, Any], out: Any) -> int:
    batch, _, k = _shape(a["batch1"])
    return 2 * batch * k * _numel(out)


@formula("_foreach_mm")
def _foreach_mm(a: Mapping[str, Any], out: Any) -> int:
    return sum(2 * _numel(left) * _shape(right)[-1] for left, right in zip(a["self"], a["mat2"], strict=True))


@formula("_grouped_mm", "_scaled_grouped_mm")
def _grouped_mm(a: Mapping[str, Any], out: Any) -> int:
    """The groups together cover the ragged dimension, whichever it is: 2mkn with its whole extent."""
    left, right = _shape(a["self"]), _shape(a["mat2"])
    batch = left[0] if len(left) == len(right) == 3 else 1
    return formulas.matmul(left[-2], left[-1], right[-1], batch).executed


@formula("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def _convolution(a: Mapping[str, Any], out: Any) -> int:
    """Each position of the output (of the input, when transposed) meets every weight once."""
    inputs = a["input"] if "input" in a else a["self"]
    positions = _shape(inputs if a.get("transposed") else out)[2:]
    return 2 * _shape(inputs)[0] * math.prod(positions) * _numel(a["weight"])


@formula("convolution_backward")
def _convolution_backward(a: Mapping[str, Any], out: Any) -> int:
    gradients = int(sum(a["output_mask"][:2]))  # the input's, the weight's; the bias's is a sum
    return gradients * _convolution(a, a["grad_output"])


# ---------------------------------------------------------------- attention


def _attention(pairs: Callable[[int, int, bool], int], over_d: int, over_d_value: int) -> Formula:
    """Products over the dimension of the queries and over that of the values, for every executed pair."""

    def count(a: Mapping[str, Any], out: Any) -> int:
        batch, heads, queries, d = _shape(a["query"])
        keys, d_value = _shape(a["value"])[2:]
        executed = batch * heads * pairs(queries, keys, a["is_causal"])
        return 2 * executed * (over_d * d + over_d_value * d_value)

    return count


_CPU = "_scaled_dot_product_flash_attention_for_cpu"
_CUDA = [f"_scaled_dot_product_{kind}_attention" for kind in ("flash", "efficient", "cudnn")]
# backward: the scores again, then the gradients of values, scores, queries and keys
formula(_CPU)(_attention(formulas.flash_cpu_pairs, 1, 1))
formula(f"{_CPU}_backward")(_attention(formulas.flash_cpu_pairs, 3, 2))
formula(*_CUDA)(_attention(formulas.flash_cuda_pairs, 1, 1))
formula(*(f"{name}_backward" for name in _CUDA))(_attention(formulas.flash_cuda_pairs, 3, 2))


# ---------------------------------------------------------------- factorizations (nominal)


def _matrices(name: str, cost: Callable[[int, int, int], Cost]) -> Formula:
    """``cost(m, n, batch)`` of the matrices (..., m, n) in argument ``name``."""

    def count(a: Mapping[str, Any], out: Any) -> int:
        *batch, m, n = _shape(a[name])
        return cost(m, n, math.prod(batch)).executed

    return count


formula("geqrf")(_matrices("self", formulas.geqrf))
formula("linalg_lu", "linalg_lu_factor_ex")(_matrices("A", formulas.lu))
formula("_linalg_det", "_linalg_slogdet")(_matrices("A", formulas.lu))
formula("linalg_inv_ex")(_matrices("A", lambda m, n, batch: formulas.inverse(n, batch)))
formula("linalg_cholesky_ex", "cholesky")(_matrices("self", lambda m, n, batch: formulas.cholesky(n, batch)))
formula("cholesky_inverse")(_matrices("self", lambda m, n, batch: formulas.cholesky_inverse(n, batch)))
formula("linalg_eig")(_matrices("self", lambda m, n, batch: formulas.eig(n, True, batch)))
formula("linalg_eigvals", "_linalg_eigvals")(_matrices("self", lambda m, n, batch: formulas.eig(n, False, batch)))


@formula("linalg_qr")
def _qr(a: Mapping[str, Any], out: Any) -> int:
    return _matrices("A", lambda m, n, batch: formulas.qr(m, n, a["mode"], batch))(a, out)


@formula("linalg_householder_product")
def _orgqr(a: Mapping[str, Any], out: Any) -> int:
    return _matrices("input", lambda m, n, batch: formulas.orgqr(m, n, _shape(a["tau"])[-1], batch))(a, out)


@formula("ormqr")
def _ormqr(a: Mapping[str, Any], out: Any) -> int:
    *batch, m, n = _shape(a["input3"])
    m, n = (m, n) if a["left"] else (n, m)
    return formulas.ormqr(m, n, _shape(a["input2"])[-1], math.prod(batch)).executed


@formula("_linalg_eigh")
def _eigh(a: Mapping[str, Any], out: Any) -> int:
    return _matrices("A", lambda m, n, batch: formulas.eigh(n, a["compute_v"], batch))(a, out)


@formula("_linalg_svd")
def _svd(a: Mapping[str, Any], out: Any) -> int:
    vectors, full = a["compute_uv"], a["full_matrices"]
    return _matrices("A", lambda m, n, batch: formulas.svd(m, n, vectors, full, batch))(a, out)


def _substitution(triangle: str, count: int) -> Formula:
    """``count`` triangular solves: n FLOPs for each number of the solution."""
    return lambda a, out: count * _shape(a[triangle])[-1] * _numel(out)


formula("linalg_solve_triangular")(_substitution("self", 1))
formula("triangular_solve")(_substitution("A", 1))
formula("cholesky_solve")(_substitution("input2", 2))
formula("_cholesky_solve_helper")(_substitution("A", 2))
formula("linalg_lu_solve")(_substitution("LU", 2))


@formula("_linalg_solve_ex")
def _solve(a: Mapping[str, Any], out: Any) -> int:
    return _matrices("A", formulas.lu)(a, out) + _substitution("A", 2)(a, out)


@formula("linalg_lstsq")
def _lstsq(a: Mapping[str, Any], out: Any) -> int:
    *batch, m, n = _shape(a["self"])
    many = math.prod(batch)
    return formulas.least_squares(m, n, _numel(a["b"]) // max(m * many, 1), many).executed


# ---------------------------------------------------------------- Fourier transforms (nominal)


def _fft(signal: Tensor, dims: Sequence[int], real: bool) -> int:
    lengths = [_shape(signal)[dim] for dim in dims]
    return formulas.fft(lengths, _numel(signal) // math.prod(lengths), real).executed


formula("_fft_c2c")(lambda a, out: _fft(a["self"], a["dim"], real=False))
formula("_fft_r2c")(lambda a, out: _fft(a["self"], a["dim"], real=True))
formula("_fft_c2r")(lambda a, out: _fft(out, a["dim"], real=True))
