"""Odd documents in files: none is lost, and what comes out is strict JSON in UTF-8 whatever went in."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from isoflop.data.engine.cleaning import clean, filter_of
from isoflop.data.engine.dedup import Keying, dedup
from isoflop.data.engine.inputs import DocumentRow, rows_of, units_of, values_of
from isoflop.data.engine.jobs import ATTRIBUTES, DOCUMENTS, JobSettings
from isoflop.data.engine.minhash import PRESETS
from isoflop.data.engine.scoring import SCORES, score
from isoflop.data.engine.statistics import statistics
from isoflop.data.scorers.length import LengthPart
from isoflop.evals.local_tasks import LocalTask


def strict(line: bytes) -> Any:
    """A line's value; an error where it is no JSON in UTF-8."""

    def refuse(name: str) -> float:
        raise ValueError(name)

    return json.loads(line.decode("utf-8"), parse_constant=refuse)


def lines_of(folder: Path) -> list[Any]:
    return [strict(line) for path in sorted(folder.iterdir()) for line in gzip.open(path)]


ODD: list[tuple[bytes, Any]] = [
    (
        b'{"text": "price http://a.b", "price": NaN, "most": [-Infinity, {"x": Infinity}]}',
        {"price": None, "most": [None, {"x": None}]},
    ),
    (b'{"text": "name http://a.b", "name": "\\udc80", "NaN": "NaN"}', {"name": "\udc80", "NaN": "NaN"}),
    (b'{"id": "\\ud800", "text": "id http://a.b"}', {"id": "\ud800"}),
    (b'{"id": {"a": 1}, "text": "object http://a.b", "big": 1e999}', {"id": {"a": 1}}),
    (b'{"id": 7, "text": "twice http://a.b"}', {"id": 7}),
    (b'{"id": "7", "text": "again http://a.b", "deep": [[[[]]]]}', {"id": "7", "deep": [[[[]]]]}),
    (b'{"text": "\\u0000 \\ufeff\\u2028 http://a.b", "s": "\\u0085"}', {"s": "\u0085"}),
]


@pytest.fixture
def out(tmp_path: Path) -> JobSettings:
    return JobSettings(tmp_path / "out")


def records(settings: JobSettings) -> list[Any]:
    return lines_of(settings.out / DOCUMENTS)


@pytest.mark.parametrize("changes", [True, False])
def test_what_json_cannot_hold_is_written_as_what_it_can(tmp_path: Path, out: JobSettings, changes: bool) -> None:
    """Whether a document is passed on as it was or written anew."""
    path = tmp_path / "odd.jsonl"
    path.write_bytes(b"\n".join(line for line, _ in ODD))
    units = units_of([str(path)])
    if changes:
        clean(units, [filter_of("strip_urls")], out)
    else:
        dedup(units, Keying("exact", PRESETS["datatrove"]), out)
    found = records(out)
    assert len(found) == len(ODD)
    for record, (_, wanted) in zip(found, ODD, strict=True):
        assert ("http" in record["text"]) is not changes
        assert {key: record[key] for key in wanted} == wanted
    score(units_of([str(out.out / DOCUMENTS)]), LengthPart(), JobSettings(tmp_path / "scores"), {}, {})
    assert len(lines_of(tmp_path / "scores" / SCORES)) == len(ODD)


def test_numbers_that_are_none_in_a_table_are_null(tmp_path: Path, out: JobSettings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"text": ["a b", "c d"], "price": [math.nan, 1.5], "raw": [b"\xff", None], "few": [[math.inf], []]}
    pq.write_table(pa.table(table), tmp_path / "odd.parquet")
    dedup(units_of([str(tmp_path / "odd.parquet")]), Keying("exact", PRESETS["datatrove"]), out)
    assert [(row["price"], row["few"]) for row in records(out)] == [(None, [None]), (1.5, [])]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("lines", [1, 3])
def test_another_encoding_is_said_and_never_passed_on(tmp_path: Path, encoding: str, lines: int) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes("\n".join(['{"text": "caf\u00e9"}'] * lines).encode(encoding))
    rows = [row for unit in units_of([str(path)]) for row in rows_of(unit)]
    assert len(rows) >= lines
    assert not any(isinstance(row, DocumentRow) for row in rows)


@pytest.mark.parametrize("packed", [True, False])
def test_a_byte_order_mark_before_the_first_line_is_no_part_of_it(tmp_path: Path, packed: bool) -> None:
    """Of documents, of tests and vectors, which are read record by record, and of tasks."""
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    record = {"text": "two", "query": "1 + 1 =", "answer": "2"}
    line = json.dumps(record).encode()
    path.write_bytes((gzip.compress if packed else bytes)(b"\xef\xbb\xbf" + line + b"\n" + line))
    (unit,) = units_of([str(path)])
    assert [value for _, value in values_of(unit)] == [record] * 2
    assert [row.raw for row in rows_of(unit) if isinstance(row, DocumentRow)] == [line] * 2
    assert len(LocalTask.read(path).items) == 2


def test_a_file_whose_name_is_not_utf_8_gives_its_documents(tmp_path: Path, out: JobSettings) -> None:
    name = os.fsdecode(b"caf\xe9.jsonl")
    (tmp_path / name).write_bytes(b'{"text": "one"}\n{"text": torn}\n{"text": "two"}\n')
    units = units_of([str(tmp_path / name)])
    dedup(units, Keying("exact", PRESETS["datatrove"]), out)
    assert len(records(out)) == 2
    assert [row["id"] for row in lines_of(out.out / ATTRIBUTES)] == [f"{name}:1", f"{name}:3"]
    found = statistics(units, JobSettings(tmp_path / "stats"), "domain")
    assert (found["counts"]["documents"], found["counts"]["broken"]) == (2, 1)


@pytest.mark.parametrize("text", ["", " ", "\n" * 1000, "x" * 300_000, "word " * 50_000, "\u0000" * 100, ". " * 10_000])
def test_every_filter_and_key_takes_empty_and_enormous_documents(tmp_path: Path, text: str) -> None:
    from isoflop.core.registry import names

    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text, "url": "http://a.b"}) + "\n" + json.dumps({"text": "plain words"}))
    units = units_of([str(path)])
    filters = [filter_of(name) for name in names("filter") if name != "language"]
    found = clean(units, filters, JobSettings(tmp_path / "clean"))
    assert found["counts"]["documents"] == 2
    assert len(lines_of(tmp_path / "clean" / ATTRIBUTES)) == 2
    for method in ("exact", "minhash"):
        kept = dedup(units, Keying(method, PRESETS["datatrove"]), JobSettings(tmp_path / method))["counts"]["kept"]  # type: ignore[arg-type]
        assert kept == 2
