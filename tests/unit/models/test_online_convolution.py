"""The online convolution: online = direct = transforms, however its inputs come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.core.errors import UsageError
from isoflop.ledger.audit import Audit
from isoflop.models import online_convolution
from isoflop.models.convolution import causal_convolution, convolution_work, reference_causal_convolution
from isoflop.models.online_convolution import Kernel, OnlineConvolution, step_cost

BLOCKS = [1, 8, 64]
FEW = settings(max_examples=25, deadline=None)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def direct(y: Tensor, taps: Tensor) -> Tensor:
    """(n, batch, channels) by definition."""
    return reference_causal_convolution(y.permute(1, 2, 0), taps.T).permute(2, 0, 1)


def stepped(conv: OnlineConvolution, y: Tensor) -> Tensor:
    return torch.stack([conv.step(each) for each in y])


# ---------------------------------------------------------------- reference numbers


@pytest.mark.parametrize("file", range(3))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("block", [8, 128])
def test_inputs_made_of_outputs_give_the_recorded_numbers(
    shared: Path, file: int, dtype: torch.dtype, tolerance: float, block: int
) -> None:
    with np.load(shared / f"data/models/ref_vectors_{file}.npz") as recorded:
        taps, inputs, y, z = (torch.from_numpy(recorded[f"conv_{name}"]).to(dtype) for name in ("rho", "inp", "y", "z"))
    conv = OnlineConvolution(Kernel(taps, block=block))
    made, given_back = [inputs[0]], [conv.step(inputs[:1])[0]]
    for each in inputs[1:]:
        made.append(each + torch.tanh(given_back[-1]))
        given_back.append(conv.step(made[-1][None])[0])
    torch.testing.assert_close(torch.stack(made), y, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.stack(given_back), z, rtol=0, atol=tolerance * z.abs().max().item())
    whole = causal_convolution(y.T[None], taps.T)[0].T
    torch.testing.assert_close(whole, z, rtol=0, atol=tolerance * z.abs().max().item())


def test_inputs_made_of_outputs_equal_the_sum_by_definition() -> None:
    """The same without recorded numbers."""
    taps, inputs = drawn(70, 3), drawn(70, 2, 3, seed=1)
    conv, y, z = OnlineConvolution(Kernel(taps, block=8), batch=2), torch.zeros(0, 2, 3).double(), torch.zeros(2, 3)
    for each in inputs:
        y = torch.cat((y, (each + torch.tanh(z))[None]))
        z = conv.step(y[-1])
        torch.testing.assert_close(z, direct(y, taps)[-1], rtol=0, atol=1e-10)


# ---------------------------------------------------------------- any length, in any pieces


@FEW
@given(
    length=st.integers(1, 150),
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    block=st.sampled_from(BLOCKS),
    capacity=st.integers(1, 200),
    pieces=st.lists(st.integers(1, 90), max_size=6),
)
def test_online_is_direct_is_by_transforms(
    length: int, batch: int, channels: int, block: int, capacity: int, pieces: list[int]
) -> None:
    taps, y = drawn(length, channels), drawn(length, batch, channels, seed=1)
    wanted = direct(y, taps)
    torch.testing.assert_close(causal_convolution(y.permute(1, 2, 0), taps.T).permute(2, 0, 1), wanted)
    conv = OnlineConvolution(Kernel(taps, block=block), batch, capacity)
    found, left = [], y
    for number, size in enumerate(pieces):
        found.append(
            (conv.extend if number % 2 else lambda some: stepped(conv, some) if len(some) else some)(left[:size])
        )
        left = left[size:]
    found.append(conv.extend(left))
    torch.testing.assert_close(torch.cat(found), wanted)
    assert conv.length == length


@FEW
@given(
    length=st.integers(2, 150),
    data=st.data(),
    block=st.sampled_from(BLOCKS),
    grows=st.booleans(),
    by=st.sampled_from(["steps", "pieces"]),
)
def test_truncated_is_never_gone(length: int, data: st.DataObject, block: int, grows: bool, by: str) -> None:
    kept = data.draw(st.integers(0, length - 1))
    kernel, y = Kernel(drawn(length, 2), block=block), drawn(length, 1, 2, seed=1)
    capacity = kept + 1 if grows else None
    never, back = (OnlineConvolution(kernel, capacity=capacity) for _ in range(2))
    advance: Callable[[OnlineConvolution, Tensor], Tensor]
    advance = stepped if by == "steps" else lambda conv, some: conv.extend(some)
    never.extend(y[:kept])
    back.extend(y[:kept])
    advance(back, drawn(length - kept, 1, 2, seed=2))
    back.truncate(kept)
    assert back.length == kept
    torch.testing.assert_close(advance(back, y[kept:]), advance(never, y[kept:]), rtol=0, atol=1e-12)


@FEW
@given(lengths=st.tuples(st.integers(1, 80), st.integers(0, 80)), block=st.sampled_from(BLOCKS))
def test_sequences_are_chosen_and_taken_twice(lengths: tuple[int, int], block: int) -> None:
    before, after = lengths
    taps, y = drawn(before + after, 2), drawn(before + after, 3, 2, seed=1)
    conv = OnlineConvolution(Kernel(taps, block=block), batch=3)
    stepped(conv, y[:before])
    rows = torch.tensor([2, 0, 0, 1])
    conv.select(rows)
    if after:
        torch.testing.assert_close(stepped(conv, y[before:, rows]), direct(y, taps)[before:, rows])


@FEW
@given(length=st.integers(1, 90), layers=st.integers(1, 4), prompt=st.integers(0, 60), block=st.sampled_from(BLOCKS))
def test_layers_that_step_in_turn_give_their_tiles_together(length: int, layers: int, prompt: int, block: int) -> None:
    prompt = min(prompt, length)
    taps, y = drawn(layers, length, 2), drawn(length, 1, 2, seed=1)
    convs = [OnlineConvolution(Kernel(own, block=block)) for own in taps]
    OnlineConvolution.together(convs)
    found, wanted = y, y
    for conv, own in zip(convs, taps, strict=True):
        wanted = torch.tanh(direct(wanted, own))
        found = torch.cat((torch.tanh(conv.extend(found[:prompt])), found[prompt:]))
    for place in range(prompt, length):
        x = y[place]
        for conv in convs:
            x = torch.tanh(conv.step(x))
        found[place] = x
    torch.testing.assert_close(found, wanted)


def test_tiles_of_layers_are_one_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    convs = [OnlineConvolution(Kernel(drawn(32, 2), block=4)) for _ in range(3)]
    OnlineConvolution.together(convs)
    transform, sizes = torch.fft.rfft, []
    for each in convs:
        for size in (4, 8):
            each.kernel.spectrum(size)

    def noted(x: Tensor, n: int) -> Tensor:
        sizes.append(tuple(x.shape))
        found: Tensor = transform(x, n)
        return found

    monkeypatch.setattr(torch.fft, "rfft", noted)
    for place in range(9):
        for conv in convs:
            conv.step(drawn(1, 2, seed=place))
    assert sizes == [(3, 2, 4), (3, 2, 8)]


@pytest.mark.parametrize("limit", [1, 50, 300])
def test_large_tiles_are_transformed_some_channels_at_a_time(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers, and never more of them at once than the limit, or one channel of all sequences."""
    monkeypatch.setattr(online_convolution, "AT_ONCE", limit)
    transform, most = torch.fft.rfft, 0

    def noted(x: Tensor, n: int) -> Tensor:
        nonlocal most
        most = max(most, x.shape[:-1].numel() * n) if x.ndim == 3 else most  # of two dimensions are filters' own
        found: Tensor = transform(x, n)
        return found

    monkeypatch.setattr(torch.fft, "rfft", noted)
    taps, y = drawn(2, 90, 5), drawn(90, 2, 5, seed=1)
    convs = [OnlineConvolution(Kernel(own, block=8), batch=2) for own in taps]
    OnlineConvolution.together(convs)
    for conv, own in zip(convs, taps, strict=True):
        found = torch.cat((conv.extend(y[:41]), stepped(conv, y[41:])))
        torch.testing.assert_close(found, direct(y, own))
    assert most <= max(limit, 2 * 128)


def test_a_filter_without_an_end_is_asked_for_more_taps() -> None:
    whole, asked = drawn(500, 2), list[int]()

    def taps(length: int) -> Tensor:
        asked.append(length)
        return whole[:length]

    kernel = Kernel(taps, block=4)
    y = drawn(100, 1, 2)
    torch.testing.assert_close(stepped(OnlineConvolution(kernel), y), direct(y, whole))
    before = len(asked)
    torch.testing.assert_close(stepped(OnlineConvolution(kernel), y), direct(y, whole))
    assert len(asked) == before < 10  # shared, and doubled each time


# ---------------------------------------------------------------- work and refusals


@pytest.mark.parametrize("block", BLOCKS)
def test_steps_cost_what_is_executed(block: int) -> None:
    kernel = Kernel(drawn(200, 3, dtype=torch.float32), block=block)
    for size in (1, 2, 4, 8, 16, 32, 64):
        kernel.spectrum(size)
    conv = OnlineConvolution(kernel, batch=2)
    for place in range(100):
        with Audit() as audit:
            conv.step(drawn(2, 3, dtype=torch.float32))
        assert audit.total() == step_cost(place, 3, block, batch=2).executed


def test_work_follows_length_times_the_square_of_its_logarithm() -> None:
    def total(length: int) -> int:
        return sum((cost := step_cost(place, 1, 64)).executed + cost.elementwise for place in range(length))

    shares = [total(1 << k) / ((1 << k) * k**2) for k in range(10, 16)]
    assert max(shares) < 1.5 * min(shares)


@pytest.mark.parametrize(("batch", "channels", "length", "taps"), [(2, 3, 21, 21), (1, 4, 64, 30), (3, 1, 17, 40)])
def test_the_convolution_and_its_gradient_cost_what_is_stated(
    batch: int, channels: int, length: int, taps: int
) -> None:
    x, filters = drawn(batch, channels, length).requires_grad_(), drawn(channels, taps).requires_grad_()
    work = convolution_work(batch, channels, length)
    with Audit() as forward:
        out = causal_convolution(x, filters)
    assert forward.total() == work.forward.executed
    with Audit() as backward:
        out.sum().backward()  # type: ignore[no-untyped-call]
    assert backward.total() == work.backward.executed
    assert torch.autograd.gradcheck(causal_convolution, (x, filters))


def test_torch_func_is_given_its_plain_form() -> None:
    x, taps = drawn(2, 3, 10), drawn(3, 10)
    both: Any = torch.func.jvp(lambda x: causal_convolution(x, taps), (x,), (x,))
    out, tangent = both
    torch.testing.assert_close(out, reference_causal_convolution(x, taps))
    torch.testing.assert_close(tangent, out)


def test_what_cannot_be_is_refused() -> None:
    conv = OnlineConvolution(drawn(3, 2).float())
    conv.extend(torch.ones(3, 1, 2))
    with pytest.raises(UsageError, match=r"position 4 lies beyond the 3 taps of the filter"):
        conv.step(torch.ones(1, 2))
    with pytest.raises(UsageError, match="use at most 3 tokens"):
        OnlineConvolution(drawn(3, 2)).extend(torch.ones(4, 1, 2))
    with pytest.raises(UsageError, match="a block of 12 is no power of two"):
        Kernel(drawn(3, 2), block=12)
    with pytest.raises(UsageError, match="taps have the shape"):
        Kernel(drawn(3))
