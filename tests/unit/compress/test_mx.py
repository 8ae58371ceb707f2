"""MX formats beside the standard's words taken literally: every element tried, in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isoflop.compress import mx
from isoflop.core.errors import UsageError

FORMATS = list(mx.FORMATS)
RULES: tuple[Any, ...] = get_args(mx.Scale)
ROUNDINGS: tuple[Any, ...] = get_args(mx.Rounding)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NEAR = st.builds(lambda m, e: math.ldexp(m, e), st.floats(-2, 2, width=32), st.integers(-3, 3)).map(
    lambda x: float(torch.tensor(x))
)


def literal_scale(numbers: list[float], element: mx.Element, rule: str) -> int:
    """The scale's exponent by the rule's words."""
    largest = max(abs(Fraction(x)) for x in numbers)
    if not largest:
        return -127
    power = Fraction(2)
    e = math.frexp(float(largest))[1] - 1
    assert power**e <= largest < power ** (e + 1)
    top = Fraction(element.largest)
    if rule == "ceil":
        e += largest > power**e
    elif rule == "rceil":
        e = next(k for k in range(e - 1, e + 3) if top * power ** (k - element.emax) >= largest)
    elif rule == "even":
        steps = largest / power**e * 2**element.mantissa
        e += round(steps) == 2 ** (element.mantissa + 1)
    return min(max(e - element.emax, -127), 127)


def literal(numbers: list[float], format: str, rule: str, rounding: str) -> list[float]:
    """Each number's nearest element among all, times the scale."""
    element = mx.FORMATS[format]
    scale = Fraction(2) ** literal_scale(numbers, element, rule)
    finite = {Fraction(v) for v in element.values().tolist() if math.isfinite(v)}
    values = sorted(v for v in finite if 0 <= v <= Fraction(element.largest))
    found = []
    for x in numbers:
        size = min(abs(Fraction(x)) / scale, values[-1])
        below = max(i for i, v in enumerate(values) if v <= size)
        above = min(below + (values[below] < size), len(values) - 1)
        left, right = size - values[below], values[above] - size
        if rounding == "floor" or left < right:
            kept = below
        elif left > right:
            kept = above
        else:
            kept = above if rounding == "nearest" or below % 2 else below
        exact = math.copysign(1, x) * float(values[kept] * scale)
        found.append(torch.tensor(exact, dtype=torch.float64).float().item())  # infinite beyond fp32

    return found


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=25, deadline=None)
@example(numbers=[1.9375], rule="even", rounding="floor")
@example(numbers=[2.9774707105582116e38], rule="rceil", rounding="even")
@given(
    numbers=st.one_of(st.lists(NEAR, min_size=1, max_size=6), st.lists(FINITE, min_size=1, max_size=4)),
    rule=st.sampled_from(RULES),
    rounding=st.sampled_from(ROUNDINGS),
)
def test_a_block_is_what_the_standard_says(format: str, numbers: list[float], rule: Any, rounding: Any) -> None:
    made = mx.quantise(torch.tensor(numbers), format, scale=rule, rounding=rounding)
    assert made.tolist() == literal(numbers, format, rule, rounding)
    packed = mx.encode(torch.tensor(numbers), format, scale=rule, rounding=rounding)
    assert packed.decode().tolist() == made.tolist()
    if any(numbers):
        assert packed.scales.item() - 127 == literal_scale(numbers, mx.FORMATS[format], rule)
    again = mx.encode(made, format, scale=rule, rounding=rounding)
    if again.scales.tolist() == packed.scales.tolist():  # what is rounded down may get a smaller scale, and clip
        assert again.decode().tolist() == made.tolist(), "what is rounded stays"


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("format", FORMATS)
def test_axes_blocks_and_ragged_ends_are_the_same_blocks_seen_otherwise(format: str) -> None:
    x = drawn(3, 37, 2)
    for axis, block in ((0, 2), (1, 1), (1, 32), (2, 32), (-1, 1), (-2, 5)):
        turned = x.movedim(axis, -1)
        rows = [
            torch.cat([mx.quantise(piece, format, block=block) for piece in row.split(block)])
            for row in turned.reshape(-1, turned.shape[-1])[:4]
        ]
        found = mx.quantise(x, format, axis=axis, block=block)
        assert torch.equal(found.movedim(axis, -1).reshape(-1, turned.shape[-1])[:4], torch.stack(rows)), (axis, block)
        packed = mx.encode(x, format, axis=axis, block=block)
        assert torch.equal(packed.decode(), found)
        assert packed.scales.shape[axis] == -(-x.shape[axis] // block)
    large = drawn(700, 130)  # more than a piece of work
    for axis in (0, 1):
        whole = mx.quantise(large, format, axis=axis)
        assert torch.equal(whole, mx.encode(large, format, axis=axis).decode())


@pytest.mark.parametrize("format", FORMATS)
def test_types_are_kept_and_bf16_holds_every_result(format: str) -> None:
    x = drawn(4, 64)
    made = mx.quantise(x, format)
    assert torch.equal(mx.quantise(x, format, out=torch.bfloat16).float(), made)
    half = x.bfloat16()
    assert mx.quantise(half, format).dtype == torch.bfloat16
    assert torch.equal(mx.quantise(half, format).float(), mx.quantise(half.float(), format))
    assert torch.equal(mx.quantise(x.double(), format).float(), made)
    assert torch.equal(mx.quantise(x.t(), format, axis=0), made.t()), "a view"
    assert mx.quantise(torch.empty(0, 32), format).shape == (0, 32)
    assert mx.quantise(torch.empty(3, 0), format).shape == (3, 0)
    assert mx.quantise(torch.tensor(1.0), format).shape == ()


@pytest.mark.parametrize("format", FORMATS)
def test_zeros_infinities_and_nan_are_defined(format: str) -> None:
    x = torch.ones(5, 32)
    x[1], x[2, 3], x[3, 4], x[4, 5] = 0.0, math.nan, math.inf, -math.inf
    for rule in RULES:
        made, packed = mx.quantise(x, format, scale=rule), mx.encode(x, format, scale=rule)
        assert torch.equal(made.isnan(), packed.decode().isnan())
        assert made.isnan().all(1).tolist() == [False, False, True, True, True]
        assert packed.scales[1:].flatten().tolist() == [0, 255, 255, 255]
        assert not made[:2].isnan().any()
        assert not made[1].any()
        assert not packed.codes[1:].any()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_narrow_codes_lie_side_by_side(bits: int) -> None:
    for count in (0, 1, 3, 4, 5, 33):
        codes = torch.randint(0, 1 << bits, (count,), dtype=torch.uint8)
        data = mx.pack(codes, bits)
        assert len(data) == math.ceil(count * bits / 8)
        assert torch.equal(mx.unpack(data, bits, count), codes)


def test_gains_near_one_shift_together_under_floor_and_do_not_under_rceil() -> None:
    gains = torch.normal(0.92, 0.02, (32 * 2000,), generator=torch.Generator().manual_seed(1))
    floor, rceil = mx.damage(gains), mx.damage(gains, scale="rceil")
    assert abs(floor.bias + 0.049) < 0.003
    assert floor.collapsed > 0.99
    assert floor.saturated > 0.99
    assert abs(rceil.bias) < 0.005
    assert rceil.saturated == 0
    assert mx.damage(torch.zeros(40)) == mx.Damage(0, 0, 0, 0)


def test_what_is_illegal_is_refused_by_name() -> None:
    x = torch.ones(4)
    for how, message in (
        ({"format": "mxfp8_e4m2"}, "mxfp8_e4m3"),
        ({"scale": "flor"}, "floor"),
        ({"rounding": "evn"}, "even"),
        ({"axis": 1}, "axis 1"),
        ({"block": 0}, "at least one"),
    ):
        with pytest.raises(UsageError, match=message):
            mx.quantise(x, **how)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="int64"):
        mx.quantise(torch.ones(3, dtype=torch.int64))
