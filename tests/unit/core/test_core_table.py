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


NAMES = ["007", "+7", "1_1", "4000e901", "1e-999", "00.5", "0x1f", "١٢", "12 34", "2023_12_14", "1,5", "1e"]
NUMBERS = [
    "0",
    "-0",
    "7",
    "-7",
    "0.10",
    "1.",
    ".5",
    "+0.5",
    "1e3",
    "1E+3",
    "5.76e-23",
    "nan",
    "-inf",
    "9007199254740992",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_number_is_what_prints_back_as_itself(tmp_path: Path, name: str) -> None:
    """Whatever else Python takes for a float is a name: one in a column, and all are compared as texts."""
    (tmp_path / "t.csv").write_text(f'id,x\n"{name}",1\n12,2\n')
    table = Table.read_csv(tmp_path / "t.csv")
    assert table["id"].tolist() == [name, "12"]
    assert table.equal("id", name).tolist() == [True, False]
    assert table.equal("id", "12").tolist() == [False, True]
    assert table["x"].dtype == float


def test_numbers_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x\n" + "\n".join(NUMBERS) + "\n")
    table = Table.read_csv(tmp_path / "t.csv")
    assert table["x"].dtype == float
    np.testing.assert_array_equal(table["x"], [float(text) for text in NUMBERS])


@given(
    values=st.lists(st.one_of(st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False)), min_size=1),
    names=st.lists(st.text("0123456789e._+-abc", min_size=1, max_size=24), min_size=1, unique=True),
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_gives_back_what_was_written(tmp_path: Path, values: list[Any], names: list[str]) -> None:
    """Numbers of any size to the last digit; different names stay different and are found by what they are."""
    Table({"x": values}).to_csv(tmp_path / "x.csv")
    x = Table.read_csv(tmp_path / "x.csv")
    assert x["x"].tolist() == np.asarray(values, dtype=object).tolist()
    np.testing.assert_array_equal(x.numbers("x"), np.asarray([float(v) for v in values]))
    Table({"id": np.asarray(names, dtype=object)}).to_csv(tmp_path / "id.csv")
    table = Table.read_csv(tmp_path / "id.csv")
    assert table.texts("id").tolist() == names
    for row, name in enumerate(names):
        assert np.flatnonzero(table.equal("id", name)).tolist() == [row]


def test_long_integers_stay_exact(tmp_path: Path) -> None:
    ids = [1382016600011617603 + i for i in range(20)]
    (tmp_path / "t.csv").write_text("run,x\n" + "\n".join(f"{i},{i % 7}" for i in ids))
    for table in (
        Table.read_csv(tmp_path / "t.csv"),
        Table({"run": ids}),
        Table.from_records([{"run": i} for i in ids]),
    ):
        assert table["run"].tolist() == ids
        assert table.equal("run", str(ids[3])).sum() == 1
        assert len(list(table.groups("run"))) == 20
    assert Table({"x": [2**63 + 1, -1]})["x"].tolist() == [2**63 + 1, -1]


def test_long_integers_stay_exact_however_they_were_exported(tmp_path: Path) -> None:
    """With a blank beside them, with a point behind them, with another notation below them."""
    (tmp_path / "t.csv").write_text("a,b,c\n20230301181139587.0,,135217135789158401\n")
    with (tmp_path / "t.csv").open("a") as file:
        file.write("20230301181139589.0,1234567890123456789,1352171357E+5\n")
    table = Table.read_csv(tmp_path / "t.csv")
    assert table["a"].tolist() == [20230301181139587, 20230301181139589]
    assert table["b"].tolist()[1] == 1234567890123456789
    assert math.isnan(table["b"][0])
    assert table["c"].tolist() == [135217135789158401, 1352171357e5]


def test_a_line_for_excel_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=,\nN,D\n1,2\n")
    assert list(Table.read_csv(tmp_path / "t.csv")) == ["N", "D"]


def test_what_was_written_is_compared_first(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("version,lr\n3.1,1e-3\n3.10,1e-2\n3.1,1e-3\n")
    table = Table.read_csv(tmp_path / "t.csv")
    for form in (
        table,
        table.where([0, 1, 2]),
        table.select(["version", "lr"]),
        table.with_columns(y=[1, 2, 3]),
        Table(table),
    ):
        assert form.equal("version", "3.1").tolist() == [True, False, True]
        assert form.texts("version").tolist() == ["3.1", "3.10", "3.1"]
    assert table.rename({"version": "v"}).texts("v").tolist() == ["3.1", "3.10", "3.1"]
    assert table.select({"v": "version"}).texts("v").tolist() == ["3.1", "3.10", "3.1"]
    assert table.with_columns(version=[1.0, 2.0, 3.0]).texts("version").tolist() == ["1.0", "2.0", "3.0"]
    assert table.equal("lr", "0.001").tolist() == [True, False, True]  # no row says so: the number decides
    assert not table.equal("lr", "1_0").any()


def test_columns_are_read_as_numbers_or_refused_by_row() -> None:
    mixed = Table({"x": np.asarray([1, 2.5, None, "3e2", 10**400, np.float32(0.5)], dtype=object)})
    np.testing.assert_array_equal(mixed.numbers("x"), [1.0, 2.5, np.nan, 300.0, np.inf, 0.5])
    for entry in ("n/a", "1_000", True, 1j, [1.0], b"1"):
        column = np.empty(2, dtype=object)
        column[:] = [1.0, entry]
        with pytest.raises(DataError, match="column x is not numeric: row 2"):
            Table({"x": column}).numbers("x")
    with pytest.raises(DataError, match="decimals with a point"):
        Table({"x": ["2,5", "2,6"]}).numbers("x")
    for odd in (np.asarray(["2024-01-01"], dtype="datetime64"), np.asarray([1j]), np.asarray([True])):
        with pytest.raises(DataError, match="not numeric"):
            Table({"x": odd}).numbers("x")


def test_missing_entries_have_no_text() -> None:
    assert Table({"x": np.asarray([None, "", np.nan, " a ", 3], dtype=object)}).texts("x").tolist() == [
        "",
        "",
        "",
        "a",
        "3",
    ]
    assert Table({"x": [np.nan, 1.0]}).texts("x").tolist() == ["", "1.0"]
    masked = np.ma.masked_array([1, 2], mask=[False, True])
    np.testing.assert_array_equal(Table({"x": masked}).numbers("x"), [1.0, np.nan])
    assert [group.rows for _, group in Table({"x": [np.nan, 1.0, np.nan, 1.0]}).groups("x")] == [1, 2, 1]


def test_blanks_around_names_and_numbers_are_layout(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("N, D , loss\n1 , 2, 3.5\n4,\t5,6\n")
    table = Table.read_csv(tmp_path / "t.csv")
    assert list(table) == ["N", "D", "loss"]
    assert table["D"].tolist() == [2.0, 5.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("N;D;loss\n1;2;3,5\n", "separated by semicolons"),
        ("N\tD\tloss\n1\t2\t3.5\n", "separated by tabs"),
        ("N|D|loss\n1|2|3.5\n", "separated by bars"),
        ("N,D,loss\n1,2,3,5\n", "decimals with a point"),
        ("# made by hand\nN,D\n1,2\n", "first line must name the columns"),
        ("sep=;\nN;D\n1;2\n", "separated by semicolons"),
        ("N, N\n1,2\n", "repeats a column name"),
    ],
)
def test_another_delimiter_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        Table.read_csv(tmp_path / "t.csv")


def records_of(table: Table) -> list[dict[str, Any]]:
    return table.records()


@pytest.mark.parametrize("form", [lambda t: Table(dict(t)), lambda t: Table.from_records(t.records())])
def test_forms_agree(form: Callable[[Table], Table]) -> None:
    assert records_of(form(SMALL)) == [
        {"n": 3, "name": "c", "y": 0.5},
        {"n": 1, "name": "a", "y": 1.5},
        {"n": 2, "name": "b", "y": 2.5},
    ]


@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_that_a_float_would_round_stays_whole_beside_floats(sign: int) -> None:
    """Up to 2^53 every integer is a float64; the next odd one is not."""
    assert Table({"x": [sign * 2**53, 0.5]})["x"].dtype == np.float64
    kept = Table({"x": [sign * (2**53 + 1), 0.5]})["x"].tolist()
    assert kept == [sign * (2**53 + 1), 0.5]
    assert isinstance(kept[0], int)
