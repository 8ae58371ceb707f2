"""Texts that are written in any order: what a call computes anew equals a whole pass, and is charged exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Documents
from isoflop.core.cost import Cost
from isoflop.models.patterns.blocks import BlocksPattern
from isoflop.models.patterns.full import FullPattern
from isoflop.models.sheet import SheetPlan, WritingSheet, sheets_of
from transformer_toys import VOCAB, context, part

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"mixer": {"heads": 4, "kv_heads": 2, "qk_norm": True}},
    "capped": {"mixer": {"heads": 4, "cap": 5.0}, "cap": 10.0},
    "places": {"positions": 16, "mixer": {"heads": 2, "position": "none"}},
    "window": {"mixer": {"heads": 4, "pattern": {"name": "window", "size": 3}}},
    "tied": {"tied": True},
}
SIZES = np.array([9, 4, 12])


def sheet_of(model: Any, rows: int, length: int) -> WritingSheet:
    made = sheets_of(model)
    assert made is not None
    return made(rows, length)


def inside() -> Any:
    return np.arange(12) < SIZES[:, None]


@pytest.mark.parametrize("pattern", [FullPattern(), BlocksPattern(size=4)], ids=["full", "blocks"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_equals_a_whole_pass(kind: str, pattern: Any) -> None:
    model, draw = part(**KINDS[kind]).build(context()), torch.Generator().manual_seed(0)
    tokens, shown = torch.randint(0, VOCAB, (3, 12), generator=draw), inside()
    with torch.no_grad():
        whole = model(tokens, Documents(torch.from_numpy((~shown).astype(np.int64)), pattern))
        sheet = sheet_of(model, 3, 12)
        wanted = shown & (np.arange(12) % 2 == 1)
        found = sheet.call(tokens, shown, shown, wanted, pattern)
    assert torch.allclose(found, whole[torch.from_numpy(wanted)], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_that_are_kept_give_what_a_whole_pass_gives(kind: str) -> None:
    """The keys and values of a block do not change with what comes later, whatever that is at first."""
    model, draw = part(**KINDS[kind]).build(context()), torch.Generator().manual_seed(1)
    first, pattern = torch.randint(0, VOCAB, (3, 12), generator=draw), BlocksPattern(size=4)
    then = torch.cat((first[:, :4], torch.randint(0, VOCAB, (3, 8), generator=draw)), 1)
    shown, fresh = inside(), inside() & (np.arange(12) >= 4)
    sheet = sheet_of(model, 3, 12)
    with torch.no_grad():
        sheet.call(first, shown, shown, shown, pattern)
        found = sheet.call(then, fresh, shown, fresh, pattern)
        whole = model(then, Documents(torch.from_numpy((~shown).astype(np.int64)), pattern))
        sheet.select([2, 0])
        again = sheet.call(then[[2, 0]], fresh[[2, 0]], shown[[2, 0]], fresh[[2, 0]], pattern)
    assert torch.allclose(found, whole[torch.from_numpy(fresh)], atol=1e-5)
    order = torch.cat((found[5:], found[:5]))
    assert torch.allclose(again, order, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_for_everything_costs_what_a_pass_costs(kind: str) -> None:
    model, everything = part(**KINDS[kind]).build(context()), np.ones((2, 12), bool)
    sheet = sheet_of(model, 2, 12)
    sheet.call(torch.zeros(2, 12, dtype=torch.int64), everything, everything, everything, FullPattern())
    pass_ = model.flops(1, 12, FullPattern()).forward
    for cost in sheet.costs(FullPattern(), everything):
        assert cost.flops == pass_.flops
        assert cost.executed >= pass_.executed


def test_a_call_is_charged_its_own_pairs_and_logits() -> None:
    model = part().build(context())
    sheet = sheet_of(model, 3, 12)
    fresh = inside() & (np.arange(12) >= 4)
    sheet.call(torch.zeros(3, 12, dtype=torch.int64), fresh, inside(), fresh, FullPattern())
    five, none, eight = sheet.costs(FullPattern(), fresh)
    assert none == Cost()
    alone = model.flops(1, 5, FullPattern()).forward
    pairs = 2 * 4 * 32 * (5 * 9 - 5 * 5)  # two layers, 4 FLOPs for each of 32 numbers of a pair
    assert five.flops == alone.flops + pairs
    assert eight.flops == model.flops(1, 8, FullPattern()).forward.flops + 2 * 4 * 32 * (8 * 12 - 8 * 8)
    fewer = sheet.costs(FullPattern(), fresh & (np.arange(12) == 4))
    assert five.flops - fewer[0].flops == 4 * 2 * 32 * VOCAB


def test_rows_of_which_nothing_is_computed_take_no_part() -> None:
    fresh = np.zeros((3, 4), bool)
    fresh[1, 2:] = True
    plan = SheetPlan(fresh, np.ones((3, 4), bool), FullPattern(), torch.device("cpu"))
    assert (plan.counts.tolist(), plan.taking.tolist(), plan.even, plan.mask(None)) == ([0, 2, 0], [1], True, None)


def test_models_with_other_mixers_keep_no_sheet() -> None:
    assert sheets_of(torch.nn.Linear(2, 2)) is None
    assert sheets_of(part(mixer={"heads": 4, "convolution": 3}).build(context())) is None
