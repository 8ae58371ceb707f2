"""Errors say what, where and what to do; costs add; contexts are copied, not changed."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import isoflop
import toy
from isoflop import errors
from isoflop.core.context import Context
from isoflop.core.cost import ZERO, Cost, Work
from isoflop.core.errors import DataError, nearest, shown
from isoflop.core.rng import Rng

COSTS = st.builds(Cost, *(st.integers(0, 2**70) for _ in range(4)))
WORKS = st.builds(Work, COSTS, COSTS, COSTS)


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = errors.UsageError("is busy", where="runs/a", fix="wait")
    assert str(error) == "runs/a: is busy; wait"
    assert (error.what, error.where, error.fix) == ("is busy", "runs/a", "wait")
    assert str(errors.UsageError("is busy")) == "is busy"


def test_exit_codes() -> None:
    codes = {
        errors.IsoflopError: 1,
        errors.UsageError: 2,
        errors.DataError: 3,
        errors.StorageError: 3,
        errors.NumericsError: 4,
        errors.BudgetError: 5,
    }
    for kind, code in codes.items():
        assert kind("x").exit_code == code
        assert issubclass(kind, errors.IsoflopError)
    assert errors.RecipeError(["a", "b"], source="r.toml").exit_code == 2
    assert str(errors.RecipeError(["a", "b"], source="r.toml")) == "r.toml: a\nr.toml: b"
    assert errors.Stopped(signal.SIGINT, "stopped").exit_code == 130
    assert errors.Stopped(signal.SIGTERM, "stopped").exit_code == 143


@pytest.mark.parametrize(
    ("word", "legal", "remedy"),
    [
        ("learning_rate", ["lr", "betas"], "did you mean lr? (legal: betas, lr)"),
        ("weight_deacy", ["lr", "weight_decay"], "did you mean weight_decay? (legal: lr, weight_decay)"),
        ("xyz", ["lr"], "legal: lr"),
        ("xyz", [], "none exist"),
        ("", ["lr"], "legal: lr"),
    ],
)
def test_the_nearest_legal_name(word: str, legal: list[str], remedy: str) -> None:
    assert nearest(word, legal) == remedy


def test_the_package_offers_its_public_names_lazily() -> None:
    assert set(dir(isoflop)) == set(isoflop.__all__)
    assert isoflop.errors is errors
    assert isoflop.Recipe is toy.Recipe
    with pytest.raises(AttributeError, match="no attribute 'Recipes'"):
        _ = isoflop.Recipes


@given(a=COSTS, b=COSTS, n=st.integers(0, 50))
def test_costs_add_and_multiply_field_by_field(a: Cost, b: Cost, n: int) -> None:
    for field in dataclasses.fields(Cost):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert getattr(a + b, field.name) == x + y
        assert getattr(a * n, field.name) == getattr(n * a, field.name) == n * x
    assert a + ZERO == a


@given(a=WORKS, b=WORKS, n=st.integers(0, 5))
def test_work_adds_by_direction(a: Work, b: Work, n: int) -> None:
    assert (a + b).forward == a.forward + b.forward
    assert (a + b).total == a.total + b.total
    assert (n * a).total == (a * n).total == n * a.total
    assert a.total == a.forward + a.backward + a.recompute


def test_a_context_is_copied_with_more_in_it() -> None:
    first = Context(Rng(1), Path("cache"), toy.ToyTokenizer(), vocab_size=9, batch=2, length=4)
    second = first.having(horizon=7, models={"policy": "the model"})
    assert (first.horizon, second.horizon, second.policy) == (0, 7, "the model")
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.horizon = 3  # type: ignore[misc]
    with pytest.raises(KeyError):
        _ = first.policy


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain, naïve 日本語 text", "plain, naïve 日本語 text"),
        ("two\nlines", "two\nlines"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("\x1b[31m\x07\r\t\x00", r"\x1b[31m\x07\r\t\x00"),
        ("a\u202eb\u2028c\x85", r"a\u202eb\u2028c\x85"),
    ],
)
def test_what_cannot_be_seen_or_written_is_escaped(text: str, wanted: str) -> None:
    assert shown(text) == wanted
    error = DataError(text, where=text, fix=text)
    one_line = wanted.replace("\n", r"\n")
    assert str(error) == f"{one_line}: {wanted}; {wanted}"
    assert str(error).encode()
    assert len(DataError("w", where=text).where.splitlines()) == 1
