"""Every slot says in one sentence what its parts are for."""

from __future__ import annotations

import re

import pytest

from isoflop.cli.main import invoke
from isoflop.core.registry import SLOTS, get, names
from isoflop.core.slots import base_of, purpose


@pytest.mark.parametrize("slot", SLOTS)
def test_a_slot_has_a_purpose_of_one_sentence(slot):
    assert re.fullmatch(r"[A-Z][^.]{14,}\.", purpose(slot)), purpose(slot)
    assert len(purpose(slot)) < 120
    assert not purpose(slot).endswith(("e.g.", "i.e.", "etc."))  # cut within a sentence
    assert all(issubclass(get(slot, name), base_of(slot)) for name in names(slot)[:3])


def test_show_lists_every_slot_with_its_purpose_and_heads_a_slot_with_it(capsys):
    assert invoke(["show"]) == 0
    listed = capsys.readouterr().out
    for slot in SLOTS:
        assert re.search(rf"^{slot} +{re.escape(purpose(slot))}$", listed, re.MULTILINE)
        assert ", ".join(names(slot)) in listed
    assert invoke(["show", "schedule"]) == 0
    assert capsys.readouterr().out.startswith(f"schedule: {purpose('schedule')}\n")
