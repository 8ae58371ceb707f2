"""The split: by group, by content, stable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.errors import DataError
from isoflop.data.document import Document, group_of
from isoflop.data.split import held_out_groups, point

files = st.lists(st.tuples(st.text(min_size=1), st.sampled_from("ab")), min_size=2, max_size=60, unique=True)


def documents_of(pairs: list[tuple[str, str]]) -> list[Document]:
    return [Document(text, domain, "", group_of(text)) for text, domain in pairs]


def test_points_are_spread_evenly_over_the_unit_interval() -> None:
    points = sorted(point(group_of(str(number))) for number in range(4000))
    assert points[0] >= 0
    assert points[-1] < 1
    assert max(abs(value - i / 4000) for i, value in enumerate(points)) < 0.03  # Kolmogorov-Smirnov, p < .002


def test_about_the_share_is_held_out() -> None:
    documents = documents_of([(str(number), "text") for number in range(4000)])
    assert 160 <= len(held_out_groups(documents, 0.05)) <= 240
    assert 1850 <= len(held_out_groups(documents, 0.5)) <= 2150


def test_adding_files_moves_no_other_one() -> None:
    documents = documents_of([(str(number), "text") for number in range(1000)])
    before = held_out_groups(documents[:400], 0.05)
    after = held_out_groups(documents, 0.05)
    assert after & {document.group for document in documents[:400]} == before
    assert len(after) > len(before)


@given(files)
def test_every_domain_of_two_groups_has_held_out_text(pairs: list[tuple[str, str]]) -> None:
    documents = documents_of(pairs)
    try:
        held = held_out_groups(documents, 0.01)
    except DataError:
        assert all(len({d.group for d in documents if d.domain == domain}) < 3 for domain in "ab")
        return
    for domain in "ab":
        groups = {document.group for document in documents if document.domain == domain}
        assert len(groups) < 2 or groups & held
    assert held < {document.group for document in documents}
    assert held >= {document.group for document in documents if point(document.group) < 0.01}
    assert len(held) <= 2 or min(map(point, held)) < 0.01  # one of each domain is given up, no more


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match="chunk_bytes"):
        held_out_groups(documents_of([("only", "a")]), 0.05)
    with pytest.raises(DataError, match="to train on"):
        held_out_groups(documents_of([("one", "a"), ("two", "a")]), 1.0)


def test_a_group_at_the_share_itself_is_trained_on() -> None:
    """Below the share and not at it: a share of 0 holds nothing out by itself, one of 1 everything."""
    documents = documents_of([(str(number), "a") for number in range(40)])
    points = sorted(point(document.group) for document in documents)
    for count in (1, 7, 20):
        held = held_out_groups(documents, points[count])
        assert sorted(map(point, held)) == points[:count]


def test_a_small_domain_gives_up_the_group_that_a_larger_share_would_take_first() -> None:
    documents = documents_of([(str(number), "ab"[number % 2]) for number in range(40)])
    for domain in "ab":
        own = sorted(point(document.group) for document in documents if document.domain == domain)
        given = held_out_groups([document for document in documents if document.domain == domain], own[0])
        assert list(map(point, given)) == own[:1]
