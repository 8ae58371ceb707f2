"""The ledger: exact sums, exact round trips, refusals."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.contracts import Stateful
from isoflop.core.cost import Cost
from isoflop.core.errors import DataError, UsageError
from isoflop.ledger.ledger import AXES, CHARGED, PHASES, Ledger

AMOUNT = st.integers(0, 2**200)
ENTRY = st.tuples(
    st.sampled_from(PHASES),
    st.builds(Cost, AMOUNT, AMOUNT, AMOUNT, AMOUNT),
    st.fixed_dictionaries({"steps": AMOUNT, "tokens": AMOUNT, "text_bytes": AMOUNT, "seconds": st.floats(0, 1e9)}),
)


def ledger_of(entries) -> Ledger:
    ledger = Ledger()
    for phase, cost, amounts in entries:
        ledger.add(phase, cost, **amounts)
    return ledger


@given(st.lists(ENTRY, max_size=6), st.lists(ENTRY, max_size=6))
def test_sums_are_exact_and_survive_json(first, second):
    whole, left, right = ledger_of(first + second), ledger_of(first), ledger_of(second)
    for axis, of in [("flops", "flops"), ("hardware_flops", "executed"), ("elementwise",) * 2, ("moved",) * 2]:
        assert whole.total(axis, PHASES) == sum(getattr(cost, of) for _, cost, _ in first + second)
    for axis in ("steps", "tokens", "text_bytes"):
        charged = sum(amounts[axis] for phase, _, amounts in first + second if phase in CHARGED)
        assert whole.total(axis) == charged
        assert isinstance(whole.total(axis), int)
    for axis in AXES[:-1]:
        assert left.total(axis, PHASES) + right.total(axis, PHASES) == whole.total(axis, PHASES)
    seconds = left.total("seconds", PHASES) + right.total("seconds", PHASES)
    assert seconds == pytest.approx(whole.total("seconds", PHASES))
    again = Ledger.from_json(json.loads(json.dumps(whole.to_json())))
    assert again == whole
    assert again.to_json() == whole.to_json()


def test_integers_beyond_double_precision_keep_their_last_digit():
    ledger = Ledger()
    ledger.add("train", Cost(flops=2**80))
    ledger.add("train", Cost(flops=1))
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))).total("flops") == 2**80 + 1


def test_tuning_and_evaluation_are_not_charged():
    ledger = Ledger()
    for number, phase in enumerate(PHASES):
        ledger.add(phase, steps=10**number)
    assert ledger.total("steps") == 1_111_111
    assert ledger.total("steps", PHASES) == 111_111_111
    assert ledger.total("steps", ["evaluation"]) == 100_000_000
    assert ledger.total("seconds") == 0.0


def test_order_of_phases_is_fixed_and_untouched_ones_are_left_out():
    ledger = Ledger()
    ledger.add("evaluation", steps=1)
    ledger.add("train", steps=1)
    assert list(ledger.to_json()) == ["train", "evaluation"]
    assert list(ledger.to_json()["train"]) == list(AXES)


def test_equality_sees_amounts_only():
    ledger = Ledger()
    ledger.add("rollout")
    assert ledger == Ledger()
    ledger.add("rollout", seconds=1e-9)
    assert ledger != Ledger()
    assert ledger != {}


def test_state_is_loaded_in_place():
    source, target = Ledger(), Ledger()
    source.add("train", Cost(1, 2, 3, 4), steps=5, tokens=6, text_bytes=7, seconds=8.5)
    target.add("search", steps=1)
    state = source.state_dict()
    target.load_state_dict(state)
    assert target == source
    source.add("train", steps=1)
    target.add("train", steps=2)
    assert (state["train"]["steps"], source.total("steps"), target.total("steps")) == (5, 6, 7)  # nothing is shared
    assert isinstance(source, Stateful)
    assert "steps 6" in repr(source)
    assert repr(Ledger()) == "Ledger(empty)"


@pytest.mark.parametrize(
    ("phase", "amounts", "message"),
    [
        ("trian", {}, "did you mean train"),
        ("train", {"steps": -1}, "steps"),
        ("train", {"tokens": 1.0}, "integer"),
        ("train", {"steps": True}, "integer"),
        ("train", {"seconds": math.nan}, "seconds"),
        ("train", {"seconds": math.inf}, "seconds"),
    ],
)
def test_wrong_amounts_are_refused_and_nothing_is_charged(phase, amounts, message):
    ledger = Ledger()
    with pytest.raises(UsageError, match=message):
        ledger.add(phase, Cost(flops=1), **amounts)
    assert ledger == Ledger()


def test_unknown_axis_or_phase_of_a_total():
    with pytest.raises(UsageError, match="did you mean flops"):
        Ledger().total("flop")
    with pytest.raises(UsageError, match="did you mean scoring"):
        Ledger().total("flops", ["score"])


@pytest.mark.parametrize(
    "tree",
    [{"train": {"flops": -1}}, {"train": {"flops": 1.5}}, {"trains": {}}, {"train": {"watts": 1}}, {"train": 3}],
)
def test_damaged_ledgers_are_refused(tree):
    with pytest.raises(DataError, match="stored ledger"):
        Ledger.from_json(tree)
