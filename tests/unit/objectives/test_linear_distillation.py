"""Chunked distillation against torch on all logits, in float64; where both models agree; its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from isoflop.objectives import linear_cross_entropy as chunks
from isoflop.objectives.linear_distillation import linear_distillation, reference_linear_distillation


def problem(tokens: int = 13, vocab: int = 17, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Student's vectors and head, teacher's of another width, targets."""
    draw = torch.Generator().manual_seed(tokens)
    shapes = [(tokens, 6), (vocab, 6), (tokens, 9), (vocab, 9)]
    drawn = [torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]
    return [*(t.requires_grad_() for t in drawn[:2]), *drawn[2:], torch.randint(0, vocab, (tokens,), generator=draw)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of several tiles on a toy."""
    monkeypatch.setattr(chunks, "CHUNK", 800)
    monkeypatch.setattr(chunks, "TILE", 40)


@pytest.mark.usefixtures("small_chunks")
@given(
    tokens=st.integers(1, 30),
    vocab=st.integers(1, 60),
    masked=st.booleans(),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    share=st.sampled_from([0.25, 1.0]),
    caps=st.tuples(st.sampled_from([None, 2.0]), st.sampled_from([None, 5.0])),
    reverse=st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradients_equal_torch(
    tokens: int,
    vocab: int,
    masked: bool,
    temperature: float,
    share: float,
    caps: tuple[float | None, float | None],
    reverse: float,
) -> None:
    hidden, weight, *teacher, targets = problem(tokens, vocab)
    mask = torch.arange(tokens) % 3 != 1 if masked else None
    given_ = (hidden, weight, (teacher[0], teacher[1]), targets, mask)
    knobs: dict[str, Any] = {"temperature": temperature, "share": share, "caps": caps, "reverse": reverse}
    ours, hard, soft = linear_distillation(*given_, **knobs)
    theirs = reference_linear_distillation(*given_, **knobs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close((1 - share) * hard + share * soft, theirs.detach())
    inputs = (hidden, weight)
    for fast, slow in zip(torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * theirs, inputs), strict=True):
        torch.testing.assert_close(fast, slow)
    with torch.no_grad():
        torch.testing.assert_close(linear_distillation(*given_, **knobs)[0], ours.detach())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("reverse", [0.0, 0.5])
def test_several_teachers_are_the_mean_of_their_distributions(reverse: float) -> None:
    hidden, weight, vectors, head, targets = problem()
    narrow = (vectors[:, :4] * 3, head[:, :4] * 2)
    given_: Any = (hidden, weight, [(vectors, head), narrow], targets)
    knobs: Any = {"temperature": 2.0, "share": 0.7, "reverse": reverse, "caps": (None, 4.0, None)}
    ours, _, soft = linear_distillation(*given_, **knobs)
    theirs = reference_linear_distillation(*given_, **knobs)
    torch.testing.assert_close(ours, theirs)
    for fast, slow in zip(*(torch.autograd.grad(loss, (hidden, weight)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(fast, slow)
    alone = [
        linear_distillation(hidden, weight, t, targets, **{**knobs, "caps": (None, c)})[2]  # type: ignore[arg-type]
        for t, c in ((given_[2][0], 4.0), (narrow, None))
    ]
    assert soft < sum(alone) / 2, "by Jensen's inequality"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("reverse", [0.0, 1.0])
def test_a_student_that_is_its_teacher_has_no_gradient_at_all(
    dtype: torch.dtype, temperature: float, reverse: float
) -> None:
    """Not merely a small one, which an adaptive optimizer would make a whole step of."""
    hidden, weight, *_, targets = problem(40, 31, torch.float32)
    vectors = hidden.detach().to(dtype).requires_grad_()
    knobs = {"temperature": temperature, "reverse": reverse}
    mixed, _, soft = linear_distillation(vectors, weight, (vectors, weight), targets, **knobs)
    assert abs(float(soft)) < 1e-5
    for gradient in torch.autograd.grad(mixed, (vectors, weight)):
        assert not gradient.any()


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen: int) -> None:
    hidden, weight, *teacher, targets = problem()
    inputs = [hidden, weight]
    whole = torch.autograd.grad(
        linear_distillation(*inputs, (teacher[0], teacher[1]), targets)[0],  # type: ignore[arg-type]
        inputs,
    )
    inputs[frozen] = inputs[frozen].detach()
    live = inputs[1 - frozen]
    loss = linear_distillation(*inputs, (teacher[0], teacher[1]), targets)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(torch.autograd.grad(loss, live)[0], whole[1 - frozen])


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.usefixtures("small_chunks")
def test_neither_models_logits_are_ever_whole() -> None:
    hidden, weight, *teacher, targets = problem(200, 50)
    with Largest() as largest:
        linear_distillation(hidden, weight, (teacher[0], teacher[1]), targets)[0].backward()  # type: ignore[no-untyped-call]
    assert largest.elements < 200 * 50 / 2
