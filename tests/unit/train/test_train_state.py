"""State trees come back as they were saved, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import DataError
from isoflop.train.state import load_tree, save_tensors, save_tree

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
KEYS = st.text(max_size=4) | st.integers(-3, 50) | st.sampled_from(["__tensor__", "__tuple__", "__items__", "a/b"])
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(TREES)
def test_a_tree_of_plain_values_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    folder = tmp_path_factory.mktemp("tree")
    save_tree(folder, "state", tree)
    assert load_tree(folder, "state") == tree


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_come_back_bit_equal_with_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    scalar = torch.tensor(2.5)
    save_tree(tmp_path, "state", {"state": {0: {"m": tensor, "step": scalar}}, "views": [tensor.T, tensor[1]]})
    back = load_tree(tmp_path, "state")
    assert back["state"][0]["m"].dtype == dtype
    assert torch.equal(back["state"][0]["m"], tensor)
    assert torch.equal(back["state"][0]["step"], scalar)
    assert torch.equal(back["views"][0], tensor.T)
    assert torch.equal(back["views"][1], tensor[1])


def test_a_truncated_tensor_file_is_a_data_error(tmp_path: Path) -> None:
    save_tree(tmp_path, "state", {"m": torch.ones(100)})
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DataError, match="safetensors"):
        load_tree(tmp_path, "state")


def test_a_tensor_missing_from_its_file_is_a_data_error(tmp_path: Path) -> None:
    save_tree(tmp_path, "state", {"m": torch.ones(3), "n": torch.ones(2)})
    save_tensors(tmp_path / "state.safetensors", {"0": torch.ones(3)})
    with pytest.raises(DataError, match="lacks the tensor"):
        load_tree(tmp_path, "state")


def test_keys_that_look_alike_keep_their_tensors_apart(tmp_path: Path) -> None:
    tree = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 1: torch.full((1,), 2.0), "1": torch.full((1,), 3.0)}
    save_tree(tmp_path, "state", tree)
    found = load_tree(tmp_path, "state")
    assert [float(x) for x in (found["a/b"], found["a"]["b"], found[1], found["1"])] == [0.0, 1.0, 2.0, 3.0]
