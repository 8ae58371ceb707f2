"""Room for sequences: never more than its limit, and made anew only where what there is will not do."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.serve.room import Room


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 500), st.integers(0, 8000), st.data())
def test_what_is_made_holds_all_and_stays_within_the_limit(
    rows: int, context: int, more: int, data: st.DataObject
) -> None:
    room = Room(rows=rows, context=context, tokens=context + more)
    have = (0, 0)
    for _ in range(data.draw(st.integers(1, 9))):
        reserves = data.draw(st.lists(st.integers(1, context), min_size=1, max_size=rows))
        made = room.shape(reserves, *have)
        if len(reserves) * max(reserves) > room.tokens:
            assert made[0] * made[1] > room.tokens, "which tells that it does not fit"
            continue
        assert made[0] * made[1] <= room.tokens
        assert len(reserves) <= made[0] <= rows
        assert max(reserves) <= made[1] <= context
        if have[0] >= len(reserves) and have[1] >= max(reserves):
            assert made == have
        have = made


def test_room_grows_by_doubling() -> None:
    room, have, changes = Room(rows=64, context=1024, tokens=64 * 1024), (0, 0), 0
    for count in range(1, 65):
        made = room.shape([16 * count] * count, *have)
        changes, have = changes + (made != have), made
    assert changes <= 12
