"""Chunked cross-entropy against torch's own on all logits, in float64; its rounding in bf16; its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from isoflop.objectives import linear_cross_entropy as module
from isoflop.objectives.linear_cross_entropy import likeliest, linear_cross_entropy


def problem(tokens: int = 13, width: int = 6, vocab: int = 17, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, width, generator=draw, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocab, width, generator=draw, dtype=torch.float64)
    weight = weight if dtype == torch.float64 else weight.float()
    return [hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, vocab, (tokens,), generator=draw)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of several tiles on a toy."""
    monkeypatch.setattr(module, "CHUNK", 800)
    monkeypatch.setattr(module, "TILE", 40)


def exact(
    hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor | None = None, cap: float | None = None
) -> Tensor:
    logits = F.linear(hidden, weight)
    losses = F.cross_entropy(logits if cap is None else cap * (logits / cap).tanh(), targets, reduction="none")
    return losses if mask is None else losses[mask]


@pytest.mark.usefixtures("small_chunks")
@given(tokens=st.integers(1, 60), vocab=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_the_likeliest_are_those_of_all_logits(tokens: int, vocab: int) -> None:
    hidden, weight, _ = problem(tokens, vocab=vocab)
    assert torch.equal(likeliest(hidden, weight), F.linear(hidden, weight).argmax(-1))
    assert likeliest(hidden.view(1, tokens, -1), weight).shape == (1, tokens)


@pytest.mark.usefixtures("small_chunks")
@given(
    tokens=st.integers(1, 30),
    vocab=st.integers(1, 60),
    masked=st.booleans(),
    cap=st.none() | st.floats(0.5, 30),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradients_equal_torch(tokens: int, vocab: int, masked: bool, cap: float | None) -> None:
    hidden, weight, targets = problem(tokens, vocab=vocab)
    mask = torch.arange(tokens) % 3 != 1 if masked else None
    ours = linear_cross_entropy(hidden, weight, targets, mask, cap=cap)
    theirs = exact(hidden, weight, targets, mask, cap).sum()
    torch.testing.assert_close(ours, theirs)
    inputs = (hidden, weight)
    for fast, slow in zip(torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * theirs, inputs), strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.usefixtures("small_chunks")
def test_gradient_equals_finite_differences() -> None:
    hidden, weight, targets = problem()
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets), (hidden, weight))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_evaluation_gives_the_same_sum_and_each_token(dtype: torch.dtype) -> None:
    hidden, weight, targets = problem(dtype=dtype)
    mask = torch.arange(13) < 9
    trained = linear_cross_entropy(hidden, weight, targets, mask)
    with torch.no_grad():
        total = linear_cross_entropy(hidden, weight, targets, mask)
        each = linear_cross_entropy(hidden[None], weight, targets[None], mask[None], reduction="none")
    assert total == trained.detach()
    assert each.shape == (1, 13)
    torch.testing.assert_close(each.sum(), total)
    torch.testing.assert_close(each[0, 9:], torch.zeros(4, dtype=each.dtype))
    assert each.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not linear_cross_entropy(hidden, weight, targets, reduction="none").requires_grad


@pytest.mark.usefixtures("small_chunks")
def test_bf16_error_is_at_most_twice_the_plain_form() -> None:
    hidden, weight, targets = problem(tokens=40, width=32, vocab=90, dtype=torch.bfloat16)
    rounded = weight.detach().bfloat16()

    def gradients(value: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return [value.detach().double(), *(g.double() for g in torch.autograd.grad(value, inputs))]

    h, w = hidden.detach().double().requires_grad_(), rounded.double().requires_grad_()
    truth = gradients(exact(h, w, targets).sum(), (h, w))
    ours = gradients(linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    plain = F.cross_entropy(F.linear(hidden, weight.bfloat16()).float(), targets, reduction="sum")
    theirs = gradients(plain, (hidden, weight))
    for fast, slow, true in zip(ours, theirs, truth, strict=True):
        assert (fast - true).norm() <= 2 * (slow - true).norm() + 1e-6


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    targets = torch.tensor([1, 1, 2])
    ours = linear_cross_entropy(hidden, weight, targets)
    ours.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.detach(), exact(hidden.detach(), weight.detach(), targets).sum())
    assert torch.isfinite(hidden.grad).all()  # type: ignore[arg-type]


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the size of the largest result in fp32."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.float32:
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_never_exist_whole_in_fp32(dtype: torch.dtype) -> None:
    hidden, weight, targets = problem(tokens=6000, width=2, vocab=2048, dtype=dtype)
    with Largest() as largest:
        linear_cross_entropy(hidden, weight, targets).backward()  # type: ignore[no-untyped-call]
    assert largest.numel <= (module.CHUNK // 4 if dtype == torch.float32 else module.TILE) < 6000 * 2048


def test_torch_func_differentiates_it() -> None:
    hidden, weight, targets = problem()
    mask = torch.arange(13) < 9
    inputs = (hidden.detach(), weight.detach())
    ours = torch.func.grad(lambda h: linear_cross_entropy(h, inputs[1], targets, mask))(inputs[0])
    torch.testing.assert_close(ours, torch.autograd.grad(exact(hidden, weight, targets, mask).sum(), hidden)[0])


def test_off_a_cpu_a_chunk_is_not_tiled(small_chunks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(TorchDispatchMode):
        softmaxes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.softmaxes += "softmax" in str(func)
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(module, "LAUNCH", 5 * 17 * 4)
    hidden, weight, targets = (x.detach().to("meta") for x in problem(tokens=13, vocab=17, dtype=torch.float32))
    with Counted() as counted:
        linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), targets).backward()
    assert counted.softmaxes == 3
