"""Packed matrices: to the bit what they were, in as few bits as they need, and as published layouts have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.compress.elements import FORMATS
from isoflop.compress.grids import Grid, floats, integers
from isoflop.compress.mx import quantise
from isoflop.compress.packing import WeightPacking, fitting, packed_integers, scales_of
from isoflop.compress.sparsity import group_mask
from isoflop.core.errors import UsageError
from isoflop.core.registry import get

MX = tuple(FORMATS)
FLOATS = ("fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2")


def drawn(rows: int, columns: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def on_grid(weight: torch.Tensor, format: str, block: int | None, half: bool = False, scale: str = "floor") -> Any:
    if format in MX:
        return quantise(weight, format, block=block or weight.shape[1], scale=scale)  # type: ignore[arg-type]
    element = integers(int(format[3:])) if format.startswith("int") else floats(format)  # type: ignore[arg-type]
    return Grid(element, block, half).rounded(weight)


@given(
    format=st.sampled_from([f"int{bits}" for bits in range(2, 9)] + [*FLOATS, *MX]),
    block=st.sampled_from([None, 16, 32, 64]),
    half=st.booleans(),
    rule=st.sampled_from(["floor", "rceil", "ceil", "even"]),
    pattern=st.sampled_from([None, (2, 4), (1, 16), (3, 8)]),
    transposed=st.booleans(),
    size=st.sampled_from([1e-3, 1.0, 300.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_what_lies_on_a_grid_comes_back_to_the_bit_in_no_more_bits(
    format: str,
    block: int | None,
    half: bool,
    rule: str,
    pattern: tuple[int, int] | None,
    transposed: bool,
    size: float,
    seed: int,
) -> None:
    weight = drawn(6, 80, seed, size)
    if pattern is not None:
        weight = weight * group_mask(weight, *pattern)
    weight = on_grid(weight, format, block, half, rule)
    weight = weight.t() if transposed else weight
    packing = fitting(weight)
    assert packing is not None
    tensors = packing.encode(weight)
    assert torch.equal(packing.decode(tensors, weight.shape), weight)
    n, m = pattern or (None, None)
    asked = WeightPacking(format, block, n, m, transposed)
    if not transposed:  # columns are looked along only where no grid lies along rows
        assert packing.bits(weight.shape) <= asked.bits(weight.shape)
    assert torch.equal(asked.decode(asked.encode(weight), weight.shape), weight), "as it was asked for, too"
    held = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values()) * 8
    wide = 16 * tensors["scales"].numel() * (tensors["scales"].dtype == torch.float32) if "scales" in tensors else 0
    assert 0 <= held - wide - packing.bits(weight.shape) < 8 * len(tensors), "what it says is what it takes"


def test_plain_weights_stay_and_sparse_ones_keep_their_numbers() -> None:
    weight = drawn(8, 64)
    assert fitting(weight) is None
    assert fitting(torch.zeros(0, 8)) is None
    assert fitting((weight * 2.0**-30).bfloat16().float()) == WeightPacking("bfloat16")
    sparse = weight * group_mask(weight, 2, 4)
    packing = fitting(sparse)
    assert packing == WeightPacking("float32", None, 2, 4)
    assert torch.equal(packing.decode(packing.encode(sparse), sparse.shape), sparse)
    assert packing.bits(sparse.shape) == 8 * 64 * (32 + 2) // 2
    zeros = fitting(torch.zeros(4, 32))
    assert zeros is not None
    assert torch.equal(zeros.decode(zeros.encode(torch.zeros(4, 32)), (4, 32)), torch.zeros(4, 32))


def test_a_matrix_of_which_one_block_lies_off_the_grid_is_plain() -> None:
    weight = on_grid(drawn(8, 64), "int4", 32)
    weight[5, 40] *= 1 + 2e-6
    assert fitting(weight) is None
    with pytest.raises(UsageError, match="does not lie on a grid of int4"):
        WeightPacking("int4", 32).encode(weight)
    with pytest.raises(UsageError, match="does not lie on a grid of int4"):
        packed_integers(weight, 4, 32)


def test_scales_need_not_be_those_of_the_largest_number() -> None:
    """As where a method moves weights along a grid that was chosen before."""
    codes = torch.tensor([[3.0, -2.0, 1.0, 0.0] * 8, [7.0, -5.0, 3.0, 0.0] * 8]).repeat(50, 1)
    weight = codes * torch.rand(100, 1, generator=torch.Generator().manual_seed(0))  # one in eight is off by a bit
    scales = scales_of(weight, "int4", 32)
    assert scales is not None
    assert scales.dtype == torch.float32
    packing = WeightPacking("int4", 32)
    assert torch.equal(packing.decode(packing.encode(weight), weight.shape), weight)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("format", ["int4", "fp4_e2m1"])
def test_rounding_has_scales_of_fp16_whatever_the_size(format: Any, size: float) -> None:
    part: Any = get("transform", "round")(format=format)
    made = part.apply("w", drawn(4, 64, scale=size))
    scales = scales_of(made, format, 32)
    assert scales is not None
    assert scales.dtype == torch.float16
    assert torch.isfinite(made).all()


def test_a_block_may_have_a_larger_scale_than_its_largest_number_tells() -> None:
    """1.875 is a number of E4M3, but 480 is none."""
    weight = torch.tensor([[1.875, 0.25, -1.0, 0.125] * 8])
    made = quantise(weight, "mxfp8_e4m3", scale="rceil")
    assert torch.equal(made, weight)
    packing = WeightPacking("mxfp8_e4m3", 32)
    assert torch.equal(packing.decode(packing.encode(weight), weight.shape), weight)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("columns", "block"), [(64, 32), (40, None)])
def test_the_words_of_compressed_tensors_hold_code_after_code(bits: int, columns: int, block: int | None) -> None:
    """Bit i bits of a row's stream, the lowest first, is its number i plus 2^(bits - 1)."""
    weight = on_grid(drawn(3, columns), f"int{bits}", block, half=True)
    made = packed_integers(weight, bits, block)
    assert made["weight_packed"].shape == (3, -(-columns * bits // 32))
    assert made["weight_shape"].tolist() == [3, columns]
    assert made["weight_scale"].dtype == torch.float16
    for row, words in enumerate(made["weight_packed"].tolist()):
        stream = sum((word & 0xFFFFFFFF) << 32 * i for i, word in enumerate(words))
        codes = [(stream >> bits * i & (1 << bits) - 1) - (1 << bits - 1) for i in range(columns)]
        scales = made["weight_scale"][row].float().repeat_interleave(block or columns)
        assert torch.equal(torch.tensor(codes) * scales, weight[row])
