"""Ancestors of several runs joined: each once, whatever the order and however often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isoflop.store.records import Ancestor, Ancestors, joined

LEDGERS = st.dictionaries(
    st.sampled_from(["train", "teacher"]),
    st.dictionaries(st.sampled_from(["flops", "steps"]), st.integers(0, 9), min_size=1),
)
BILLS = st.dictionaries(st.sampled_from("abc"), st.builds(lambda ledger: Ancestor(name="n", ledger=ledger), LEDGERS))


@given(st.lists(BILLS, max_size=4))
def test_joining_keeps_each_ancestor_once_with_the_most_that_it_had_spent(bills: list[Ancestors]) -> None:
    whole = joined(bills)
    assert whole.keys() == {key for bill in bills for key in bill}
    assert joined([*bills, *reversed(bills), whole]) == whole == joined(reversed(bills))
    for key, ancestor in whole.items():
        told = [bill[key].ledger for bill in bills if key in bill]
        for phase, amounts in ancestor.ledger.items():
            for axis, amount in amounts.items():
                assert amount == max(ledger.get(phase, {}).get(axis, 0) for ledger in told)


def test_two_points_of_one_run_are_the_later_one() -> None:
    early, late = (Ancestor(name="a", ledger={"train": {"flops": flops, "steps": flops}}) for flops in (3, 8))
    assert joined([{"x": early}, {"x": late}, {"y": early}]) == {"x": late, "y": early}
