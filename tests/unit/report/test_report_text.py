"""Numbers and names as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.report import text


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, "FLOP", "0 FLOP"),
        (1.5, "", "1.50"),
        (999.6, "", "1.00 k"),
        (1.234e12, "FLOP", "1.23 TFLOP"),
        (9.996e20, "FLOP", "1.00 ZFLOP"),
        (2.5e28, "FLOP", "25000 YFLOP"),
        (11_204_331, "B", "11.2 MB"),
    ],
)
def test_si_prefixes(value: float, unit: str, shown: str) -> None:
    assert text.si(value, unit) == shown


@given(st.floats(1, 1e24))
def test_si_keeps_three_digits(value: float) -> None:
    number, _, prefix = text.si(value).partition(" ")
    assert float(number) * 1000.0 ** ["", *"kMGTPEZY"].index(prefix) == pytest.approx(value, rel=0.0051)
    assert 0.99 < float(number) < 1000


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0123, "0.012 s"), (8.44, "8.4 s"), (61.6, "1 min 2 s"), (3599.9, "1 h 0 min"), (7505, "2 h 5 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("factor", "side", "shown"),
    [(7.419, "above", "> 7.41"), (7.41, "above", "> 7.41"), (0.711, "below", "< 0.72"), (123.9, "above", "> 123")],
)
def test_a_bound_is_rounded_so_that_it_claims_no_more(factor: float, side: str, shown: str) -> None:
    assert text.bound(factor, side) == shown


@given(st.floats(0.02, 500), st.sampled_from(["above", "below"]))
def test_a_printed_bound_never_exceeds_the_true_one(factor: float, side: str) -> None:
    printed = float(text.bound(factor, side)[2:])
    assert printed <= factor * (1 + 1e-9) if side == "above" else printed >= factor * (1 - 1e-9)
    assert math.isclose(printed, factor, rel_tol=0.11)


def test_names_lose_what_could_drive_a_terminal() -> None:
    hostile = "a\x1b[31mb\x07c\u202ed\ne"
    assert text.clean(hostile) == "a[31mbcd e"
    assert text.clean_lines("x\x1b[2J = 1\n\n  y\t= 2\n") == "x[2J = 1\n\n  y = 2"


def test_nested_json_becomes_key_paths_with_units() -> None:
    tree = {
        "text_bytes": 2_000_000,
        "epochs": {"adamw": 0.45},
        "dirty": True,
        "OMP_X": None,
        "list": [{"a": 1}, 2],
        "no": [1, 2],
    }
    assert text.flatten(tree) == [
        ("text bytes", "2.00 MB"),
        ("epochs · adamw", "0.45"),
        ("dirty", "yes"),
        ("OMP_X", "none"),
        ("list · 1 · a", "1"),
        ("list · 2", "2"),
        ("no", "1, 2"),
    ]


def test_small_texts() -> None:
    assert [text.probability(p) for p in (None, 0.0002, 0.0312, 0.4)] == ["", "<0.001", "0.031", "0.40"]
    assert text.moment("2026-01-31T12:00:00Z") == "2026-01-31 12:00 UTC"
    assert text.moment("yesterday") == "yesterday"
    assert text.signed(-0.5) == "\N{MINUS SIGN}0.5000"
    assert [text.times(f) for f in (2.811, 9.999, 0.04567)] == ["2.81", "10.0", "0.0457"]
    assert text.amount("steps", 1600.0) == "1,600"
    assert text.amount("unheard_of", 2000.0) == "2.00 k"
