"""The handwritten gradients against autograd's of the plain forms, in float64; their rounding in bf16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.models import kernels

EPS = 1e-5


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def angles(length: int, half: int) -> tuple[Tensor, Tensor]:
    table = torch.outer(torch.arange(length, dtype=torch.float64), 0.3 ** torch.arange(half, dtype=torch.float64))
    return table.cos(), table.sin()


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], direction: Tensor | None = None) -> list[Tensor]:
    """The value and the gradients of <value, direction> for every input."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    direction = randn(*value.shape, seed=99) if direction is None else direction
    return [value.detach(), *torch.autograd.grad(value, leaves, direction.to(value.dtype))]


def future_hidden(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def naive_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention from its definition, without blocks."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    allowed = future_hidden(q.shape[-2]) if mask is None else mask
    return torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1) @ v


def cases() -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]]:
    cos, sin = angles(5, 4)
    doc = torch.ones(3, 7, 7, dtype=torch.bool)
    doc[:, 4:, :3] = False
    f64 = torch.float64
    norm = (randn(3, 5, 8), randn(8, seed=1))
    qkv = [randn(2, 3, 7, 4, seed=i) for i in range(3)]
    long = [randn(1, 2, 150, 2, seed=i) for i in range(3)]
    return {
        "rms_norm": (
            lambda x, w: kernels.rms_norm(x, w, EPS, f64),
            lambda x, w: kernels.reference_rms_norm(x, w, EPS, f64),
            list(norm),
        ),
        "rotate": (
            lambda x: kernels.rotate(x, cos, sin),
            lambda x: kernels.reference_rotate(x, cos, sin),
            [randn(2, 5, 3, 8)],
        ),
        "gated_silu": (kernels.gated_silu, kernels.reference_gated_silu, [randn(3, 5, 8)]),
        "attend": (kernels.attend, naive_attend, qkv),
        "attend_blocks": (kernels.attend, naive_attend, long),
        "attend_masked": (lambda *x: kernels.attend(*x, doc), lambda *x: naive_attend(*x, doc), qkv),
    }


@pytest.mark.parametrize("name", cases())
def test_value_and_gradient_equal_the_plain_form(name: str) -> None:
    fast, slow, inputs = cases()[name]
    for ours, theirs in zip(gradients(fast, inputs), gradients(slow, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", cases())
def test_gradient_equals_finite_differences(name: str) -> None:
    fast, _, inputs = cases()[name]
    if inputs[0].numel() > 200:
        inputs = [x[..., :9, :] for x in inputs]
    assert torch.autograd.gradcheck(fast, [x.clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize("name", cases())
def test_torch_func_differentiates_the_plain_form(name: str) -> None:
    fast, slow, inputs = cases()[name]
    tangents = [randn(*x.shape, seed=7) for x in inputs]
    value, change = torch.func.jvp(fast, tuple(inputs), tuple(tangents))
    step = 1e-6
    ahead, behind = (slow(*(x + s * t for x, t in zip(inputs, tangents, strict=True))) for s in (step, -step))
    torch.testing.assert_close(value, slow(*inputs))
    torch.testing.assert_close(change, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    x = randn(3, 8).requires_grad_()
    with pytest.raises(RuntimeError, match=r"taken once; use torch\.func"):
        torch.autograd.grad(kernels.gated_silu(x).sum(), x, create_graph=True)


@given(length=st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_blocks_cover_the_causal_pairs_and_are_counted(length: int) -> None:
    blocks = kernels._blocks(length, masked=False)
    covered = torch.zeros(length, length, dtype=torch.int64)
    for start, end, keys in blocks:
        covered[start:end, :keys] += 1
    assert covered.max() == 1
    assert covered.tril().sum() == length * (length + 1) // 2, "a causal pair is left out"
    assert covered.sum() == kernels.block_pairs(length)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130])
def test_a_query_sees_itself_and_its_past_only(length: int) -> None:
    """With one-hot values the output is the attention matrix itself."""
    q, k = randn(1, 1, length, 4, seed=1), randn(1, 1, length, 4, seed=2)
    v = torch.eye(length, dtype=torch.float64)[None, None]
    q, k = (torch.nn.functional.pad(x, (0, length - 4)) if length > 4 else x[..., :length] for x in (q, k))
    seen = kernels.attend(q, k, v)[0, 0] > 0
    assert torch.equal(seen, future_hidden(length)), "the causal mask is off"


def test_rotation_turns_by_the_distance_only() -> None:
    """Scores of rotated queries and keys depend on the difference of their positions."""
    cos, sin = angles(12, 4)
    q, k = (randn(8, seed=i).expand(1, 12, 1, 8) for i in (1, 2))
    q, k = (kernels.rotate(x, cos, sin)[0, 0] for x in (q, k))
    scores = q @ k.T
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    torch.testing.assert_close(q[0], randn(8, seed=1), msg="position 0 is not turned")


def plain_bf16(name: str) -> Callable[..., Tensor]:
    return {
        "rms_norm": lambda x, w: kernels.reference_rms_norm(x, w, EPS, torch.bfloat16),
        "rotate": lambda x, cos=None: kernels.reference_rotate(x, *(t.bfloat16() for t in angles(5, 4))),
        "gated_silu": kernels.reference_gated_silu,
        "attend": naive_attend,
        "attend_blocks": naive_attend,
    }[name]


def fast_bf16(name: str) -> Callable[..., Tensor]:
    return {
        "rms_norm": lambda x, w: kernels.rms_norm(x, w, EPS, torch.bfloat16),
        "rotate": lambda x: kernels.rotate(x, *(t.bfloat16() for t in angles(5, 4))),
        "gated_silu": kernels.gated_silu,
        "attend": kernels.attend,
        "attend_blocks": kernels.attend,
    }[name]


@pytest.mark.parametrize("name", ["rms_norm", "rotate", "gated_silu", "attend", "attend_blocks"])
def test_bf16_error_is_at_most_twice_the_plain_form(name: str) -> None:
    """Value and every gradient, against float64, as flash-attention's tests do."""
    _, exact, inputs = cases()[name]
    dtypes = [torch.float32] * 2 if name == "rms_norm" else [torch.bfloat16] * len(inputs)  # the stream is fp32
    rounded = [x.to(dtype) for x, dtype in zip(inputs, dtypes, strict=True)]
    direction = randn(*exact(*inputs).shape, seed=99).bfloat16()
    truth = gradients(exact, [x.double() for x in rounded], direction)
    ours, theirs = (gradients(form(name), rounded, direction) for form in (fast_bf16, plain_bf16))

    def error(x: Tensor, y: Tensor) -> float:
        return float((x.double() - y).norm() / y.norm())

    for fast, slow, true in zip(ours, theirs, truth, strict=True):
        assert error(fast, true) <= 2 * error(slow, true) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_weights_are_stacked_and_their_gradients_split(dtype: torch.dtype) -> None:
    weights = [randn(n, 4, seed=n, dtype=torch.float32).requires_grad_() for n in (3, 2)]
    fused = kernels.fuse(tuple(weights), dtype)
    assert fused.dtype == dtype
    torch.testing.assert_close(fused, torch.cat([w.detach() for w in weights]).to(dtype))
    grads: Any = torch.autograd.grad(fused, weights, torch.arange(20.0).view(5, 4).to(dtype))
    torch.testing.assert_close(torch.cat(grads), torch.arange(20.0).view(5, 4))
    assert all(grad.dtype == torch.float32 for grad in grads)
