"""The handwritten gradients against autograd's of the plain forms, in float64; their rounding in bf16."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.models import attend as attention
from isoflop.models import kernels
from isoflop.models.feed_forwards.swiglu import SwiGlu

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


def past(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def naive_attend(
    qkv: Tensor,
    heads: int,
    mask: Tensor | None = None,
    turns: bool = True,
    scale: float | None = None,
    cap: float | None = None,
) -> Tensor:
    """Attention from its definition, head by head, without blocks."""
    length, kv_heads = qkv.shape[1], (qkv.shape[2] - heads) // 2
    cos, sin = (table.to(qkv.dtype) for table in angles(length, qkv.shape[3] // 2))
    turned = attention.rotate(qkv, cos, sin) if turns else qkv
    outs = []
    for head in range(heads):
        kv = head * kv_heads // heads
        q, k, v = turned[:, :, head], turned[:, :, heads + kv], qkv[:, :, heads + kv_heads + kv]
        scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        scores = scores if cap is None else cap * (scores / cap).tanh()
        hidden = ~(past(length) if mask is None else mask)
        outs.append(torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ v)
    return torch.stack(outs, 2)


def fast_attend(qkv: Tensor, heads: int, mask: Tensor | None = None, turns: bool = True, **scores: Any) -> Tensor:
    cos, sin = (table.to(qkv.dtype) for table in angles(qkv.shape[1], qkv.shape[3] // 2))
    return attention.attend(qkv, (cos, sin) if turns else None, heads, mask, **scores)


Case = tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def attend_case(qkv: Tensor, heads: int, mask: Tensor | None = None, **more: Any) -> Case:
    return lambda x: fast_attend(x, heads, mask, **more), lambda x: naive_attend(x, heads, mask, **more), [qkv]


def cases() -> dict[str, Case]:
    """Name -> handwritten form, plain form, inputs in float64."""
    documents = past(7).repeat(2, 1, 1)
    documents[1, 4:, :3] = False
    f64 = torch.float64
    return {
        "rms_norm": (
            lambda x, w: kernels.rms_norm(x, w, EPS, f64),
            lambda x, w: kernels.reference_rms_norm(x, w, EPS, f64),
            [randn(3, 5, 8), randn(8, seed=1)],
        ),
        "gated_linear": (
            kernels.gated_linear,
            kernels.reference_gated_linear,
            [randn(2, 3, 4), randn(10, 4, seed=1)],
        ),
        "attend": attend_case(randn(2, 7, 6, 4), heads=2),
        "attend_grouped": attend_case(randn(2, 7, 8, 4), heads=4),
        "attend_scaled": attend_case(randn(2, 7, 8, 4), heads=4, scale=0.8),
        "attend_unscaled": attend_case(randn(2, 7, 8, 4), heads=4, scale=1.0),
        "attend_still": attend_case(randn(2, 7, 8, 5), heads=4, turns=False),
        "attend_capped": attend_case(randn(2, 7, 8, 4), heads=4, cap=0.7, scale=2.0),
        "attend_blocks": attend_case(randn(1, 150, 3, 2), heads=1),
        "attend_masked": attend_case(randn(2, 7, 8, 4), heads=4, mask=documents),
    }


@pytest.mark.parametrize("name", cases())
def test_value_and_gradient_equal_the_plain_form(name: str) -> None:
    fast, slow, inputs = cases()[name]
    for ours, theirs in zip(gradients(fast, inputs), gradients(slow, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", cases())
def test_gradient_equals_finite_differences(name: str) -> None:
    fast, _, inputs = cases()[name]
    if name == "attend_blocks":
        inputs = [inputs[0][:, :70]]
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
        torch.autograd.grad(kernels.gated_linear(x, randn(6, 8)).sum(), x, create_graph=True)


@given(length=st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_blocks_cover_the_causal_pairs_and_are_counted(length: int) -> None:
    covered = torch.zeros(length, length, dtype=torch.int64)
    for block in attention.blocks(length, None):
        covered[block.start : block.end, block.first : block.last] += 1
    assert covered.max() == 1
    assert covered.tril().sum() == length * (length + 1) // 2, "a causal pair is left out"
    assert covered.sum() == attention.block_pairs(length)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130, 300])
def test_a_query_sees_itself_and_its_past_only(length: int) -> None:
    """With one-hot values the output is the attention matrix itself."""
    d = length + length % 2
    qkv = randn(1, length, 3, d) / 10
    qkv[0, :, 2] = torch.eye(length, d, dtype=torch.float64)
    seen = fast_attend(qkv, 1)[0, :, 0, :length] > 0
    assert torch.equal(seen, past(length)), "the causal mask is off"


def test_rotation_turns_by_the_distance_only() -> None:
    """Scores of rotated queries and keys depend on the difference of their positions."""
    cos, sin = angles(12, 4)
    q, k = (attention.rotate(randn(8, seed=i).expand(1, 12, 1, 8), cos, sin)[0, :, 0] for i in (1, 2))
    scores = q @ k.T
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    torch.testing.assert_close(q[0], randn(8, seed=1), msg="position 0 is not turned")


@pytest.mark.parametrize("name", cases())
def test_bf16_error_is_at_most_twice_the_plain_form(name: str) -> None:
    """Value and every gradient, against float64, as flash-attention's tests do."""
    fast, slow, inputs = cases()[name]
    if name == "rms_norm":  # the residual stream stays fp32, its norm is rounded
        rounded = [x.float() for x in inputs]
        forms = [kernels.rms_norm, kernels.reference_rms_norm]
        fast, low = (lambda x, w, form=form: form(x, w, EPS, torch.bfloat16) for form in forms)
    else:
        rounded, low = [x.bfloat16() for x in inputs], slow
    direction = randn(*slow(*inputs).shape, seed=99).bfloat16()
    truth = gradients(slow, [x.double() for x in rounded], direction)
    ours, theirs = (gradients(form, rounded, direction) for form in (fast, low))

    def error(x: Tensor, y: Tensor) -> float:
        return float((x.double() - y).norm() / y.norm())

    for handwritten, plain, true in zip(ours, theirs, truth, strict=True):
        assert error(handwritten, true) <= 2 * error(plain, true) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_weights_are_stacked_and_their_gradients_split(dtype: torch.dtype) -> None:
    weights = [randn(n, 4, seed=n, dtype=torch.float32).requires_grad_() for n in (3, 2)]
    fused = kernels.fuse(tuple(weights), dtype)
    assert fused.dtype == dtype
    torch.testing.assert_close(fused, torch.cat([w.detach() for w in weights]).to(dtype))
    grads: Any = torch.autograd.grad(fused, weights, torch.arange(20.0).view(5, 4).to(dtype))
    torch.testing.assert_close(torch.cat(grads), torch.arange(20.0).view(5, 4))
    assert all(grad.dtype == torch.float32 for grad in grads)


@pytest.mark.parametrize("shape", [(64, 32, 96), (128, 64, 176), (7, 48, 40)], ids=str)
def test_frozen_gates_compute_the_bits_of_trained_ones(shape: tuple[int, int, int]) -> None:
    """Also for ``torch.func``, whose parameters are plain tensors: Gauss-Newton must see the loss that is trained."""
    tokens, width, hidden = shape
    torch.manual_seed(0)
    module, x = SwiGlu(width, hidden), torch.randn(1, tokens, width)
    for matrix in (module.gate, module.up, module.down):
        torch.nn.init.normal_(matrix.weight)

    def results() -> list[torch.Tensor]:
        def run(x: torch.Tensor) -> torch.Tensor:
            return module(x, module.products(torch.float32))

        value, pull = torch.func.vjp(run, x)
        own = x.clone().requires_grad_()
        out = run(own)
        return [value, pull(torch.ones_like(value))[0], out, *torch.autograd.grad(out.sum(), own)]

    trained = results()
    module.requires_grad_(False)
    assert all(torch.equal(a, b) for a, b in zip(trained, results(), strict=True))
    with torch.no_grad():  # nothing is joined, and so no weight copied
        products = module.products(torch.float32)
        assert not isinstance(products[0], partial)
        assert torch.equal(module(x, products), trained[2])
