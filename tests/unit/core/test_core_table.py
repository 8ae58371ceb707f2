"""Tables: named columns of equal length, immutable, in and out of records and CSV."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoflop.core.errors import DataError
from isoflop.core.table import Table

SMALL = Table({"n": [3, 1, 2], "name": ["c", "a", "b"], "y": [0.5, 1.5, 2.5]})


def test_a_table_is_a_mapping_of_read_only_columns() -> None:
    assert (list(SMALL), len(SMALL), SMALL.rows) == (["n", "name", "y"], 3, 3)
    assert ("n" in SMALL, "m" in SMALL) == (True, False)
    assert repr(SMALL) == "Table(3 rows: n, name, y)"
    with pytest.raises(ValueError, match="read-only"):
        SMALL["n"][0] = 9
    source = np.array([1.0, 2.0])
    table = Table({"x": source})
    source[0] = 5.0  # the caller's own array stays writeable
    assert Table(table)["x"].tolist() == table["x"].tolist() == [5.0, 2.0]  # and nothing is copied


def test_columns_that_do_not_fit_are_refused_with_their_sizes() -> None:
    with pytest.raises(DataError, match=r"differ in length \(a 1, b 2\)"):
        Table({"a": [1], "b": [1, 2]})
    with pytest.raises(DataError, match=r"column a has shape \(1, 2\)"):
        Table({"a": [[1, 2]]})
    with pytest.raises(DataError, match=r"no column 'nam'; did you mean name\?"):
        SMALL["nam"]


def test_an_empty_table() -> None:
    assert (Table({}).rows, Table({"a": []}).rows) == (0, 0)
    assert Table.from_records([]).records() == []


def test_records_fill_gaps_and_keep_types() -> None:
    table = Table.from_records([{"a": 1, "b": "x", "c": True}, {"a": None, "d": 2.5}])
    assert list(table) == ["a", "b", "c", "d"]
    assert table["a"].tolist()[0] == 1.0
    assert math.isnan(table["a"][1])
    assert table["b"].tolist() == ["x", None]
    assert table["c"].tolist() == [True, None]
    assert math.isnan(table["d"][0])
    assert Table.from_records([{"a": 1}, {"a": 2}])["a"].dtype.kind == "i"


def test_rows_are_chosen_sorted_and_grouped() -> None:
    assert SMALL.where(SMALL["n"] > 1)["name"].tolist() == ["c", "b"]
    assert SMALL.where([2, 0])["name"].tolist() == ["b", "c"]
    assert SMALL.sort("n")["name"].tolist() == ["a", "b", "c"]
    table = Table({"k": ["b", "a", "b", "a"], "j": [1, 1, 1, 2], "v": [1, 2, 3, 4]})
    assert table.sort("k", "j")["v"].tolist() == [2, 4, 1, 3]
    assert [(key, group["v"].tolist()) for key, group in table.groups("k")] == [(("b",), [1, 3]), (("a",), [2, 4])]
    assert [key for key, _ in table.groups("k", "j")] == [("b", 1), ("a", 1), ("a", 2)]


def test_columns_are_renamed_and_replaced() -> None:
    assert list(SMALL.rename({"n": "m"})) == ["m", "name", "y"]
    with pytest.raises(DataError, match="no column 'm'"):
        SMALL.rename({"m": "n"})
    replaced = SMALL.with_columns(y=[1, 2, 3], z=[0, 0, 0])
    assert list(replaced) == ["n", "name", "y", "z"]
    assert replaced["y"].tolist() == [1, 2, 3]
    assert SMALL["y"].tolist() == [0.5, 1.5, 2.5]


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=5)


@given(
    rows=st.integers(1, 5).flatmap(
        lambda n: st.fixed_dictionaries(
            {
                "x": st.lists(st.floats(allow_nan=True), min_size=n, max_size=n),
                "words": st.lists(WORDS.map(lambda w: f"w{w}"), min_size=n, max_size=n),
            }
        )
    )
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_gives_back_every_digit_and_every_word(tmp_path: Path, rows: dict[str, list[Any]]) -> None:
    Table(rows).to_csv(tmp_path / "t.csv")
    again = Table.read_csv(tmp_path / "t.csv")
    np.testing.assert_array_equal(again["x"], np.asarray(rows["x"]))
    assert again["words"].tolist() == rows["words"]


def test_csv_as_others_write_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfx,name\r\n1,"a, b"\r\n,c\r\n\r\n1e-3,nan\r\n')
    table = Table.read_csv(path)
    assert table["name"].tolist() == ["a, b", "c", "nan"]
    np.testing.assert_array_equal(table["x"], [1.0, np.nan, 1e-3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b"a,b\n", "holds no rows"),
        (b"a,a\n1,2\n", "repeats a column name"),
        (b"a,b\n1,2\n\n3\n", "line 4 has 1 fields, the header 2"),
        (b"a\n\xff\n", "is not UTF-8 text .byte 2."),
        (b"a\n" + b"x" * 200_000 + b"\n", "cannot be read as a CSV table"),
        (None, "cannot be read .No such file"),
    ],
)
def test_what_is_no_table_is_a_data_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refusal:
        Table.read_csv(path)
    assert refusal.value.where == str(path)


def records_of(table: Table) -> list[dict[str, Any]]:
    return table.records()


@pytest.mark.parametrize("form", [lambda t: Table(dict(t)), lambda t: Table.from_records(t.records())])
def test_forms_agree(form: Callable[[Table], Table]) -> None:
    assert records_of(form(SMALL)) == [
        {"n": 3, "name": "c", "y": 0.5},
        {"n": 1, "name": "a", "y": 1.5},
        {"n": 2, "name": "b", "y": 2.5},
    ]
