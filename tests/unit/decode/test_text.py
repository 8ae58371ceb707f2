"""Text of samples: stops across tokens and characters, and what is held back for them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isoflop.data.tokenizers.bytes import Bytes
from isoflop.decode.text import SampleText

LETTERS = st.text(alphabet="abé\n", max_size=30)


@given(LETTERS, st.lists(st.text(alphabet="abé\n", max_size=4), max_size=3))
def test_the_text_ends_where_the_first_stop_begins(text: str, stops: list[str]) -> None:
    """First is the one that is complete first; of those complete at once, the one that begins first."""
    written, shown, cut = SampleText(Bytes(), [256], stops), "", None
    stops = [stop for stop in stops if stop]
    for end in range(len(text) + 1):
        begins = [text.index(stop) for stop in stops if stop in text[:end]]
        if begins and cut is None:
            cut = min(begins)
    for i in text.encode():
        new = written.add(i)
        shown += new
        assert written.text == shown
        assert not any(stop in shown for stop in stops)
    shown += written.finish()
    assert shown == written.text == text[:cut]
    assert written.stopped == (cut is not None)


@given(LETTERS)
def test_without_stops_only_half_characters_are_held_back(text: str) -> None:
    written, whole = SampleText(Bytes(), list(b"prompt")), b""
    for i in text.encode():
        written.add(i)
        whole += bytes([i])
        assert written.text == whole.decode(errors="ignore")
    written.finish()
    assert written.text == text
