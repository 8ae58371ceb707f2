"""What every filter of documents must do, whatever its rules."""

from __future__ import annotations

import pytest

from isoflop.core.contracts import FilterPart
from isoflop.core.registry import get, names
from isoflop.data.engine.pages import Pages

PROSE = "The quick brown fox, which has to be fed, jumps over the dog of a friend and that is all. " * 8
STORY = """A river ran past the town, and its people had to build a bridge with their own hands. It took nine years.
When the first cart rolled over, the mayor wept; he said that nobody would have believed it. Children threw flowers.
Later a flood came. The pillars held, but the mill and two barns were lost, and with them most of the harvest.
So they dug a canal. Today you can walk along it for an hour, under poplars that were planted by the school of 1911.
Would you call that progress? Of all the visitors who ask, few wait to hear the answer that the miller has ready."""
TEXTS = [
    STORY,
    PROSE,
    "",
    " \n\t\n",
    "a",
    "#### ... …\n- \n• ",
    "one line\n" * 40,
    "3 likes\nHOME\nSign-in\n" + PROSE,
    "{ code }\nlorem ipsum dolor sit amet now.\n" + PROSE,
    "\u4e2d\u6587\u6ca1\u6709\u7a7a\u683c\u3002" * 30,
    "e\u0301\u200d\U0001f600 " * 60,
    "x" * 5000,
    "\x00\x1f" + PROSE,
    ("word " * 300 + "\n") * 3,
]


@pytest.mark.parametrize("name", names("filter"))
def test_a_document_is_judged_by_itself(name: str) -> None:
    """Whatever lies in the same batch; and what is mended or dropped is so for a reason that has a name."""
    part = get("filter", name)()
    assert isinstance(part, FilterPart)
    assert part.card.summary
    assert part.card.paper
    together = part.judge(Pages(TEXTS))
    assert len(together.reasons) == len(TEXTS)
    for number, text in enumerate(TEXTS):
        alone = part.judge(Pages([text]))
        assert alone.reasons[0] == together.reasons[number]
        assert alone.edited.get(0) == together.edited.get(number)
        assert not (alone.reasons[0] and alone.edited)
    assert all(reason.isidentifier() for reason in together.reasons if reason)


@pytest.mark.parametrize("name", names("filter"))
def test_prose_stays(name: str) -> None:
    verdicts = get("filter", name)().judge(Pages([STORY]))  # type: ignore[attr-defined]
    assert list(verdicts.reasons) == [""]
    assert not verdicts.edited
