"""MX formats beside what microxcaling, torchao and ml_dtypes made of the same numbers, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from compress_tables import tables
from isoflop.compress import mx


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal numbers, NaN where NaN is; zeros have no sign."""
    return bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())


def check(inputs: torch.Tensor, expected: torch.Tensor, where: str, **how: Any) -> None:
    assert same(mx.quantise(inputs, **how), expected), where
    assert same(mx.encode(inputs, **how).decode(), expected), where


def test_every_block_is_microxcalings(shared: Path) -> None:
    stored, seen = tables(shared, "mx_golden.npz"), 0
    for key, expected in stored.items():
        kind, *rest = key.split("__")
        if kind == "in":
            continue
        seen += 1
        if kind == "out":
            format, rounding, case = rest
            check(stored[f"in__{case}"], expected, key, format=format, rounding=rounding)
        elif kind == "out_axis1":
            format, rounding, case = rest
            check(stored[f"in__{case}"], expected, key, format=format, rounding=rounding, axis=1)
        elif kind.startswith("out_bs"):
            format, rounding, case = rest
            check(
                stored[f"in__{case}"],
                expected,
                key,
                format=format,
                rounding=rounding,
                block=int(kind.removeprefix("out_bs")),
            )
        else:
            assert kind == "scale_e8m0", key
            format, case = rest
            inputs = stored[f"in__{case}"]
            found = mx.encode(inputs, format).scales
            blocks = mx.Blocks.of(inputs, -1, 32)
            some = blocks.split(inputs).abs().amax(1).reshape(blocks.scales) > 0  # a block of zeros may have any scale
            if case != "special_nonfinite":
                assert torch.equal(found[some], expected[some]), key
    assert seen > 250


def test_every_scale_rule_is_torchaos(shared: Path) -> None:
    stored, seen = tables(shared, "mx_scale_modes_torchao.npz"), 0
    golden = tables(shared, "mx_golden.npz")
    for key, expected in stored.items():
        mode, format, case = key.split("__")
        inputs = golden[f"in__{case}"]
        rule: Any = mode.removesuffix("_scale")
        if mode == rule:
            check(inputs, expected, key, format=format, scale=rule)
        else:
            found = mx.encode(inputs, format, scale=rule).scales
            some = inputs.reshape(*inputs.shape[:-1], -1, 32).abs().amax(-1) > 0
            assert torch.equal(found[some], expected.reshape(found.shape)[some]), key
        seen += 1
    assert seen == len(stored) > 100


def elements() -> Iterator[tuple[str, mx.Element]]:
    for name, element in mx.FORMATS.items():
        if element.exponent:
            yield name.removeprefix("mx"), element


def test_every_code_is_ml_dtypes(shared: Path) -> None:
    stored = tables(shared, "mx_elements_and_edges.npz")
    for name, element in elements():
        assert same(element.values(), stored[f"decode__{name}"]), name
        inputs = stored[f"in__{name}"]
        rounded = mx.round_(inputs.clone(), element)
        assert same(rounded, stored[f"value__{name}"]), name
        assert torch.equal(element.codes(rounded, inputs.signbit()), stored[f"code__{name}"]), name
    assert same(mx.powers(torch.arange(256)), stored["decode__e8m0"])


def test_just_below_a_power_of_two_the_exponent_is_the_lower_one(shared: Path) -> None:
    stored = tables(shared, "mx_elements_and_edges.npz")
    for name in mx.FORMATS:
        check(stored["edge_in"], stored[f"edge_out__{name}"], name, format=name)
        assert torch.equal(mx.encode(stored["edge_in"], name).scales, stored[f"edge_scale__{name}"]), name
