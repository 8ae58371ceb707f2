"""No error of a file speaks pydantic: whatever bound a value breaks, the words are ours, with key and value."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from isoflop.core.complaints import words
from isoflop.core.documents import Frozen
from isoflop.core.recipe import Recipe


class Bounded(Frozen):
    above: Annotated[float, Field(gt=0.5)] = 1.0
    least: Annotated[int, Field(ge=1)] = 1
    below: Annotated[float, Field(lt=1)] = 0.0
    most: Annotated[int, Field(le=3)] = 1
    multiple: Annotated[int, Field(multiple_of=4)] = 4
    finite: float = 0.0
    word: Literal["near", "exact"] = "near"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("above", 0.5, "should be above 0.5"),
        ("least", 0, "should be at least 1"),
        ("below", 1.0, "should be below 1"),
        ("most", 4, "should be at most 3"),
        ("multiple", 6, "should be a multiple of 4"),
        ("finite", float("nan"), "should be a finite number"),
        ("word", "some", "should be 'near' or 'exact'"),
    ],
)
def test_a_broken_bound_is_told_in_words(field: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Bounded(**{field: value})
    (error,) = caught.value.errors()
    assert words(error) == said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=-1", "optimizer.lr: should be above 0, got -1"),
        ("train.batch=0", "train.batch: should be at least 1, got 0"),
        ("optimizer.betas.0=1.5", "optimizer.betas.0: should be below 1, got 1.5"),
        ("train.precision=fp8", "train.precision: should be 'fp32' or 'bf16', got 'fp8'"),
    ],
)
def test_key_and_value_stand_beside_it(override: str, said: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        Recipe.load("small", override)
    assert said in str(caught.value)
    assert "nput should" not in str(caught.value)
