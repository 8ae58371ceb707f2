"""Batches are a function of the position; held-out windows predict every token once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.contracts import Batches, HeldOut
from isoflop.core.errors import DataError
from isoflop.core.rng import Rng
from isoflop.data.loader import HeldOutText, WindowBatches

LENGTHS = np.arange(1000, dtype=np.int64) % 7


def batches(tokens: int = 331, batch: int = 3, length: int = 10, seed: int = 0, name: str = "one") -> WindowBatches:
    stream = np.arange(tokens, dtype=np.uint16)  # each token says where it stands
    return WindowBatches(stream, LENGTHS, batch=batch, length=length, rng=Rng(seed)("data"), fingerprint=name)


def starts(source: WindowBatches, count: int) -> list[int]:
    """The first input of each of ``count`` batches' windows."""
    return [int(first) for _ in range(count) for first in next(source).inputs[:, 0]]


def test_it_fulfils_its_contract() -> None:
    assert isinstance(batches(), Batches)
    batch = next(batches())
    assert batch.inputs.shape == batch.targets.shape == (3, 10)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.is_contiguous()
    assert batch.targets.is_contiguous()
    assert torch.equal(batch.targets, batch.inputs + 1)
    assert batch.mask is None
    assert batch.text_bytes == LENGTHS[batch.targets.numpy()].sum()


@given(tokens=st.integers(12, 400), batch=st.integers(1, 9), length=st.integers(1, 11))
def test_an_epoch_holds_every_window_once(tokens: int, batch: int, length: int) -> None:
    source = batches(tokens, batch, length)
    windows = (tokens - 1) // length
    seen = starts(source, 2 * windows)  # 2 * batch epochs
    for epoch in range(2 * batch):
        here = seen[epoch * windows : (epoch + 1) * windows]
        assert sorted(here) == [length * window for window in range(windows)]
    assert source.epochs == 2 * batch


def test_epochs_and_seeds_differ_in_order() -> None:
    source = batches()  # 33 windows, 11 batches an epoch
    first, second = starts(source, 11), starts(source, 11)
    assert first != second
    assert first != sorted(first)
    assert starts(batches(seed=1), 11) != first
    assert starts(batches(), 11) == first


@given(batch=st.integers(1, 8))
def test_the_order_of_windows_does_not_depend_on_how_they_are_batched(batch: int) -> None:
    assert starts(batches(batch=batch), 12) == starts(batches(batch=1), 12 * batch)


@given(position=st.integers(0, 40), used=st.integers(0, 15))
def test_a_resumed_stream_goes_on_identically(position: int, used: int) -> None:
    source = batches()
    for _ in range(position):
        next(source)
    state = source.state_dict()
    wanted = starts(source, 15)
    other = batches()
    for _ in range(used):  # whatever it did before
        next(other)
    other.load_state_dict(state)
    assert starts(other, 15) == wanted
    assert other.state_dict() == source.state_dict()


def test_the_state_is_plain_json() -> None:
    source = batches()
    next(source)
    assert source.state_dict() == {"position": 1, "corpus": "one", "batch": 3, "length": 10}


@pytest.mark.parametrize("other", [{"name": "two"}, {"batch": 4}, {"length": 11}])
def test_a_position_in_another_stream_is_refused(other: dict[str, object]) -> None:
    state = batches(**other).state_dict()  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has changed"):
        batches().load_state_dict(state)


def test_too_little_text_for_one_window_is_refused() -> None:
    assert batches(tokens=11).windows == 1
    with pytest.raises(DataError, match=r"10 training tokens, too few for one window of 10"):
        batches(tokens=10)


@given(tokens=st.integers(2, 200), length=st.integers(1, 30), batch=st.integers(1, 5))
def test_held_out_windows_predict_every_token_once_and_in_order(tokens: int, length: int, batch: int) -> None:
    stream = np.arange(tokens, dtype=np.uint16)
    heldout = HeldOutText(stream, LENGTHS, text_bytes=int(LENGTHS[stream[1:]].sum()), documents=1)
    assert isinstance(heldout, HeldOut)
    inputs, targets, sizes = [], [], []
    for each in heldout.windows(length, batch):
        rows, columns = each.inputs.shape
        assert rows <= batch
        assert columns == length
        mask = torch.ones_like(each.inputs, dtype=torch.bool) if each.mask is None else each.mask
        inputs += each.inputs[mask].tolist()
        targets += each.targets[mask].tolist()
        sizes.append(each.text_bytes)
        assert each.tokens == int(mask.sum())
    assert targets == list(range(1, tokens))
    assert inputs == list(range(tokens - 1))
    assert sum(sizes) == heldout.text_bytes


def test_only_the_last_held_out_window_is_filled_up() -> None:
    heldout = HeldOutText(np.arange(26, dtype=np.uint16), LENGTHS, text_bytes=1, documents=1)
    masks = [each.mask for each in heldout.windows(10, 2)]
    assert masks[0] is None
    assert masks[1] is not None
    assert masks[1].tolist() == [[True] * 5 + [False] * 5]
    assert list(itertools.chain(*(each.targets.shape for each in heldout.windows(10, 2)))) == [2, 10, 1, 10]


def test_documents_that_share_a_window_are_numbered_from_their_end_of_text_on() -> None:
    """An end of text stands before its document and belongs to it; a window may begin within a document."""
    stream = np.array([0, 5, 6, 0, 7, 8, 9, 0, 0, 5, 0, 6, 0], np.uint16)
    source = WindowBatches(
        stream, LENGTHS, batch=2, length=6, rng=Rng(0)("data"), fingerprint="one", starts=np.flatnonzero(stream == 0)
    )
    batch = next(source)
    found = {
        tuple(row): column
        for row, column in zip(batch.inputs.tolist(), batch.columns["documents"].tolist(), strict=True)
    }
    assert found == {(0, 5, 6, 0, 7, 8): [1, 1, 1, 2, 2, 2], (9, 0, 0, 5, 0, 6): [0, 1, 2, 2, 3, 3]}
    assert not next(batches()).columns
