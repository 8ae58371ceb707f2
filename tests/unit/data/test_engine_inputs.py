"""Whatever files hold documents: the same rows, however packed and cut; what is none is said with its place."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from isoflop.core.errors import DataError
from isoflop.data.engine import inputs, packed
from isoflop.data.engine.inputs import BrokenRow, DocumentRow, Keys, Unit, blocks, rows_of, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.packed import FORMATS, line_writer
from isoflop.data.engine.scoring import score
from isoflop.data.engine.statistics import statistics
from isoflop.data.scorers.length import LengthPart

RECORDS = [{"id": f"d{i}", "text": f"Text number {i}: \u00fc\n" * (i % 7), "n": i} for i in range(100)]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"a.{kind}"
    with line_writer(path, kind) as write:
        for record in RECORDS:
            write(json.dumps(record).encode())
    return path


def all_rows(units: list[Unit]) -> list[Any]:
    return [row for unit in units for row in rows_of(unit)]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = all_rows(units_of([str(written(tmp_path, kind))]))
    assert [(row.id, row.text, row.record["n"]) for row in rows] == [(r["id"], r["text"], r["n"]) for r in RECORDS]
    again = tmp_path / "b"
    again.mkdir()
    assert written(again, kind).read_bytes() == (tmp_path / f"a.{kind}").read_bytes()


def test_files_of_a_folder_that_is_called_as_a_pattern_are_found(tmp_path: Path) -> None:
    (tmp_path / "[old]").mkdir()
    path = written(tmp_path / "[old]", "jsonl")
    assert [unit.files for unit in units_of([f"{tmp_path}/[old]/*.jsonl"])] == [(str(path),)]


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, "jsonl")
    os.symlink(path, "b.jsonl")
    units = units_of([str(path), "a.jsonl", "./*.jsonl", str(tmp_path)])
    assert [unit.files for unit in units] == [(str(path),)]


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([pa.array(["one"]), pa.array(["two"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns 'text'"):
        all_rows(units_of([str(tmp_path)]))


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(RECORDS)
    for number, opener in enumerate((pa.ipc.new_stream, pa.ipc.new_file)):
        with pa.OSFile(str(tmp_path / f"data-{number}.arrow"), "wb") as sink, opener(sink, table.schema) as writer:
            writer.write_table(table, 30)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text("{}")
    assert [row.id for row in all_rows(units_of([str(tmp_path)]))] == [r["id"] for r in RECORDS] * 2


@pytest.mark.parametrize("unit", [1, 17, 100, 5000, 1 << 20])
def test_a_file_that_is_cut_gives_every_line_once(tmp_path: Path, unit: int) -> None:
    path = written(tmp_path, "jsonl")
    rows = all_rows(units_of([str(path)], unit))
    assert [(row.where, row.id) for row in rows] == [(f"{path}:{i + 1}", f"d{i}") for i in range(100)]


def test_row_groups_are_units_and_rows_are_counted_over_them(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_pylist([{"text": f"t{i}"} for i in range(50)]), tmp_path / "a.parquet", row_group_size=9
    )
    units = units_of([str(tmp_path)], unit=1)
    assert len(units) == 6
    assert [row.id for row in all_rows(units)] == [f"a.parquet:{i + 1}" for i in range(50)]


def test_text_files_are_documents_of_a_few_units(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_bytes(b"\xef\xbb\xbfline\r\n" * number)
    (tmp_path / "picture.png").write_bytes(b"\x89")
    (tmp_path / "bad.md").write_bytes(b"one\ntwo \xff")
    units = units_of([str(tmp_path)], unit=100)
    rows = all_rows(units)
    assert 1 < len(units) < 10
    assert [row.id for row in rows if isinstance(row, DocumentRow)] == [f"{i}.txt" for i in range(10)]
    (broken,) = [row for row in rows if isinstance(row, BrokenRow)]
    assert broken.where == f"{tmp_path / 'bad.md'}:2"
    assert "0xff" in broken.what


BROKEN = [
    (b'{"text": "torn', "is not JSON"),
    (b'["text"]', "holds a list"),
    (b'{"content": "x"}', "lacks the key 'text' (it has: content)"),
    (b'{"text": null}', "holds a NoneType"),
    (b'{"text": "\xff"}', "is no UTF-8"),
    (b'{"text": "\\ud800"}', "lone surrogate U+D800"),
    (b"[" * 100_000, "is not JSON"),
]


@pytest.mark.parametrize(("line", "what"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_line_is_said_with_its_number_and_the_rest_is_read(
    tmp_path: Path, line: bytes, what: str, packed: bool
) -> None:
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    data = b'{"text": "one"}\n\n' + line + b'\n\xef\xbb\xbf{"text": "two"}'
    path.write_bytes(gzip.compress(data) if packed else data)
    one, broken, two = all_rows(units_of([str(path)]))
    assert (one.text, two.text, two.where) == ("one", "two", f"{path}:4")
    assert broken.where == f"{path}:3"
    assert what in broken.what
    assert broken.quote.isprintable()
    assert len(broken.quote) < 500


@pytest.mark.parametrize("kind", FORMATS[1:])
def test_a_damaged_file_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    with line_writer(path, kind) as write:
        for number in range(3000):
            write(json.dumps({"text": os.urandom(50).hex() + str(number)}).encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as caught:
        all_rows(units_of([str(path)]))
    assert str(path) in caught.value.where


@pytest.mark.parametrize("name", ["missing.jsonl", "*.jsonl", "a.png", "."])
def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"")
    with pytest.raises(DataError):
        units_of([name])


def test_a_line_is_passed_on_as_it_was() -> None:
    raw = b'{"text":"a","x":1.50,"id":7}'
    row = DocumentRow("w", "7", "a", json.loads(raw), raw)
    assert row.line() == raw
    row.text = "b"
    assert json.loads(row.line()) == {"text": "b", "x": 1.5, "id": 7}


def test_other_keys_and_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": "x" * 10, "url": f"u{i}"}) + "\n" for i in range(9)))
    rows = list(rows_of(units_of([str(path)])[0], Keys("body", "url")))
    assert [len(block) for block in blocks(rows, 30)] == [3, 3, 3]  # type: ignore[arg-type]
    assert rows[3].id == "u3"  # type: ignore[union-attr]


def test_only_wanted_columns_are_read(tmp_path: Path) -> None:
    """Of files with columns; whatever else lies in them, rows and their names are the same."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{**record, "large": "x" * 1000, "host": "h"} for record in RECORDS]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet", row_group_size=9)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink:
        table = pa.Table.from_pylist(records)
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    for name in ("a.parquet", "b.arrow"):
        units = units_of([str(tmp_path / name)], unit=2000)
        whole, some = ([row for unit in units for row in rows_of(unit, keys)] for keys in (Keys(), Keys().only("host")))
        assert [(row.where, row.id, row.text) for row in whole] == [(row.where, row.id, row.text) for row in some]
        assert set(some[0].record) == {"id", "text", "host"}
        assert set(whole[0].record) == set(records[0])
        (broken, *_) = [row for unit in units for row in rows_of(unit, Keys(text="body").only())]
        assert "it has: host, id, large, n, text" in broken.what


def test_verbs_that_write_no_documents_read_no_more_than_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{**record, "large": "x" * 100, "domain": "d"} for record in RECORDS]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    seen: set[tuple[str, ...] | None] = set()
    real = packed.unpacked

    def noted(path: Path, kind: str, start: int, stop: int, columns: Any = None) -> Any:
        seen.add(columns)
        return real(path, kind, start, stop, columns)

    monkeypatch.setattr(inputs, "unpacked", noted)
    units = units_of([str(tmp_path / "a.parquet")])
    statistics(units, JobSettings(tmp_path / "stats"))
    assert seen == {("text", "id", "domain")}
    seen.clear()
    score(units, LengthPart(), JobSettings(tmp_path / "scores"), {}, {})
    assert seen == {("text", "id")}
