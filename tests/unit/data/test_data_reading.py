"""The user's files, right and wrong."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.contracts import SourcePart
from isoflop.core.errors import DataError
from isoflop.core.registry import get
from isoflop.data.document import Document
from isoflop.data.reading import files_of, read_records, read_text
from isoflop.data.sources.text import chunks


def part(name: str, **fields: Any) -> Any:
    made = get("source", name).model_validate_json(json.dumps(fields))
    assert isinstance(made, SourcePart)
    return made


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_text_files_are_read_whole(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.txt", "\ufeffone\r\ntwo\r")
    write(tmp_path / "b.txt", "b é 𝄞\n")
    found = list(part("text", paths=f"{tmp_path}/**/*.txt", domain="books").documents())
    assert [document.text for document in found] == ["one\ntwo\n", "b é 𝄞\n"]
    assert {document.domain for document in found} == {"books"}
    assert found[0].origin == str(tmp_path / "a" / "one.txt")
    assert found[0].group != found[1].group


def test_files_come_once_and_in_order(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, "x") for name in ("b.txt", "a.txt", "[c].txt")]
    found = files_of([str(paths[0]), f"{tmp_path}/?.txt", str(paths[2])])
    assert found == dict.fromkeys([paths[0], paths[2]], False) | {paths[1]: True}
    assert list(found) == paths


@pytest.mark.parametrize("name", ["[old]", "what?", "a*b", "[!x]", "[[]"])
def test_a_folder_whose_name_looks_like_a_pattern_is_meant(tmp_path: Path, name: str) -> None:
    mine = [write(tmp_path / name / part / "1.txt", "mine") for part in ("", "deeper")]
    for other in ("o", "l", "whatX", "aXb", "y", "["):
        write(tmp_path / other / "1.txt", "not mine")
        write(tmp_path / other / "deeper" / "1.txt", "not mine")
    assert list(files_of([f"{tmp_path}/{name}/*.txt"])) == mine[:1]
    assert list(files_of([f"{tmp_path}/{name}/**/*.txt"])) == sorted(mine)
    assert list(files_of([f"{tmp_path}/{name}/d*/*.txt"])) == mine[1:]
    inner = write(tmp_path / "above" / name / "1.txt", "mine")
    write(tmp_path / "above" / "o" / "1.txt", "not mine")
    assert list(files_of([f"{tmp_path}/abov?/{name}/*.txt"])) == [inner]


def test_patterns_still_match_where_no_such_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / name / "1.txt", "x") for name in ("l", "o")]
    assert list(files_of([f"{tmp_path}/[old]/*.txt"])) == paths
    monkeypatch.chdir(tmp_path)
    assert list(files_of(["[old]/*.txt", "./?/1.txt"])) == [Path("l/1.txt"), Path("o/1.txt")]


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("name", ["text", "jsonl"])
def test_an_empty_file_among_others_is_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path / "a" / "__init__.py", content)
    write(tmp_path / "a" / "code.py", '{"text": "one"}\n')
    found = list(part(name, paths=f"{tmp_path}/**/*.py").documents())
    assert [document.origin.partition(":")[0] for document in found] == [str(tmp_path / "a" / "code.py")]
    assert list(part(name, paths=f"{tmp_path}/**/__*.py").documents()) == []
    with pytest.raises(DataError, match=r"is empty|holds no records") as caught:
        list(part(name, paths=[f"{tmp_path}/a/__init__.py"]).documents())
    assert caught.value.where == str(tmp_path / "a" / "__init__.py")
    if name == "text":
        assert len(list(part(name, paths=f"{tmp_path}/**/*.py", chunk_bytes=3).documents())) == 3


@pytest.mark.parametrize("name", ["text", "jsonl"])
def test_paths_that_name_nothing_are_refused(tmp_path: Path, name: str) -> None:
    for pattern, message in [("no.txt", "does not exist"), ("*.txt", "matches no file"), ("", "is a folder")]:
        with pytest.raises(DataError, match=message) as caught:
            list(part(name, paths=str(tmp_path / pattern)).documents())
        assert caught.value.where == str(tmp_path / pattern)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"one\ntwo\0three", "line 2 holds a NUL byte"),
        (b"one\n\ntw\xffo", "line 3 holds byte 0xff"),
        ("text".encode("utf-16"), "line 1 holds byte 0xff"),
        ("é".encode("latin-1"), "line 1 holds byte 0xe9"),
    ],
)
def test_text_files_that_are_none(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "broken.txt", data)
    with pytest.raises(DataError, match=message) as caught:
        read_text(path)
    assert caught.value.where == str(path)


def test_what_the_system_refuses_to_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt", "text")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    for name in ("text", "jsonl"):
        source = part(name, paths=str(path))
        for read in (source.inputs, lambda source=source: list(source.documents())):
            with pytest.raises(DataError, match=r"a.txt: cannot be read \(Permission denied\)"):
                read()


def test_long_files_are_cut_at_line_ends(tmp_path: Path) -> None:
    text = "".join(f"line {n} é\n" * (n % 3 + 1) for n in range(50)) + "end"
    pieces = list(chunks(text, 40))
    assert "".join(piece for _, piece in pieces) == text
    assert all(len(piece.encode()) >= 40 for _, piece in pieces[:-1])
    assert max(len(piece.encode()) for _, piece in pieces) < 40 + 15
    for line, piece in pieces:
        assert text.split("\n")[line - 1] == piece.split("\n")[0]
    path = write(tmp_path / "long.txt", text)
    found = list(part("text", paths=str(path), chunk_bytes=40).documents())
    assert [document.text for document in found] == [piece for _, piece in pieces]
    assert len({document.group for document in found}) > 10
    assert found[1].origin == f"{path}:{pieces[1][0]}"


def test_a_long_line_is_cut_at_blanks() -> None:
    text = " ".join(f"word{n}" for n in range(20_000))
    pieces = list(chunks(text, 1000))
    assert "".join(piece for _, piece in pieces) == text
    assert {line for line, _ in pieces} == {1}
    assert len(pieces) > 150
    assert all(1000 <= len(piece) <= 1010 and piece.endswith(" ") for _, piece in pieces[:-1])


@pytest.mark.parametrize("letter", ["a", "é", "日", "𝄞"])
def test_a_line_without_a_blank_is_cut_between_characters(letter: str) -> None:
    pieces = list(chunks(letter * 5000, 100))
    assert "".join(piece for _, piece in pieces) == letter * 5000
    assert max(len(piece.encode()) for _, piece in pieces) <= 203


@given(
    text=st.text("ab \té日\n\r\x0b\x0c\x1c\x85\u2028\u2029", max_size=300),
    size=st.integers(1, 40),
)
def test_only_a_newline_ends_a_line_and_no_piece_is_long(text: str, size: int) -> None:
    pieces = list(chunks(text, size))
    place = 0
    for line, piece in pieces:
        skipped = text[place:].index(piece)
        assert not text[place : place + skipped].strip()
        place += skipped
        assert line == text.count("\n", 0, place) + 1
        place += len(piece)
        assert len(piece.encode()) <= 2 * size + 3
    assert not text[place:].strip()


def test_short_lines_are_cut_as_ever() -> None:
    """Where no line is longer than a piece, pieces end at the first line end from ``size`` bytes on."""
    lines = [f"{'x' * (n % 37)}\n" for n in range(400)]
    wanted, held = [], ""
    for line in lines:
        held += line
        if len(held) >= 50:
            wanted, held = [*wanted, held], ""
    assert [piece for _, piece in chunks("".join(lines), 50)] == [*wanted, held] if held else wanted


def test_records_have_text_and_domain(tmp_path: Path) -> None:
    lines = [{"t": "one\u2028", "d": "web"}, {"t": "  "}, {"t": "two", "d": "books", "more": [1, None]}]
    path = write(tmp_path / "a.jsonl", "\n\n".join(json.dumps({"d": "x", **line}) for line in lines))
    assert list(part("jsonl", paths=str(path), key="t", domain_key="d").documents()) == [
        Document("one\u2028", "web", f"{path}:1", found_group("one\u2028")),
        Document("two", "books", f"{path}:5", found_group("two")),
    ]
    assert [d.domain for d in part("jsonl", paths=str(path), key="t", domain="all").documents()] == ["all", "all"]


def found_group(text: str) -> str:
    from isoflop.data.document import group_of

    return group_of(text)


def test_gzipped_records_are_read_alike(tmp_path: Path) -> None:
    data = b"".join(json.dumps({"text": f"document {n}"}).encode() + b"\r\n" for n in range(100))
    plain, packed = write(tmp_path / "a.jsonl", data), write(tmp_path / "b.jsonl.gz", gzip.compress(data))
    assert list(read_records(plain, "text")) == list(read_records(packed, "text"))
    assert len(list(read_records(plain, "text"))) == 100
    for name in ("c.JSONL.GZ", "d.jsonl", "e.gz.part"):  # it is the content that tells
        assert list(read_records(write(tmp_path / name, gzip.compress(data)), "text")) == list(
            read_records(plain, "text")
        )
    assert list(read_records(write(tmp_path / "unpacked.jsonl.gz", data), "text")) == list(read_records(plain, "text"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "tw', r"is not JSON .*; the file ends within it"),
        (b"{{{\n", "is not JSON"),
        (b'{"text": "a", "w": NaN}\n', "NaN is no JSON number"),
        (b'{"text": "a", "w": -Infinity}\n', "-Infinity is no JSON number"),
        (b'{"text": "a", "w": 1, "text": "b"}\n', "the key 'text' stands twice in one object"),
        (b'{"text": "a", "w": [{"v": 1, "v": 1}]}\n', "the key 'v' stands twice in one object"),
        (b'{"txt": "two"}\n', r"lacks the key 'text'; set source.key \(it has: txt\)"),
        (b'{"text": 5}\n', "key 'text' holds a int, not a string"),
        (b'{"text": null}\n', "key 'text' holds a NoneType"),
        (b'["text"]\n', "holds a list, not an object"),
        (b'"text"\n', "holds a str, not an object"),
        (b'{"text": "a\\ud800"}\n', r"lone surrogate U\+D800"),
        (b'{"text": "\xff"}\n', "byte 0xff"),
        (b'{"text": "\0"}\n', "NUL"),
        (b"[" * 100_000 + b"\n", "is not JSON"),
        (b'[\n {"text": "a"}\n]\n', "is not JSON .*; write one object a line"),
        (b'{\n "text": "a"\n}\n', "is not JSON .*; write one object a line"),
        (b'[{"text": "a"}]\n', "holds a list, not an object; write one object a line"),
        (b'{"text": "a"}\r{"text": "b"}\r', "is not JSON .*; write one object a line"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_broken_lines_are_named(tmp_path: Path, line: bytes, message: str, packed: bool) -> None:
    data = b'{"text": "one"}\n' + line
    path = write(tmp_path / ("a.jsonl.gz" if packed else "a.jsonl"), gzip.compress(data) if packed else data)
    with pytest.raises(DataError, match=message) as caught:
        list(read_records(path, "text"))
    assert caught.value.where == f"{path}:2"


def test_joined_files_and_long_numbers_are_read(tmp_path: Path) -> None:
    one, two = (b"\xef\xbb\xbf" + json.dumps({"text": text}).encode() + b"\n" for text in ("one", "two"))
    number = b'{"text": "three", "n": ' + b"9" * 10_000 + b"}\n"
    for name, data in (("a", one + two + number), ("b", gzip.compress(one) + gzip.compress(two + number))):
        assert [text for _, text, *_ in read_records(write(tmp_path / name, data), "text")] == ["one", "two", "three"]


def test_a_missing_domain_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "one"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:1: lacks the key 'source'"):
        list(read_records(path, "text", "source"))


def test_damaged_gzip_files_are_refused(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(json.dumps({"text": f"document {n * n}"}).encode() + b"\n" for n in range(3000)))
    flipped = data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]
    inside = data[: len(data) // 2] + b"\0" * 20 + data[len(data) // 2 + 20 :]
    for number, damaged in enumerate((flipped, data[:-100], inside, b"plain text\n")):
        path = write(tmp_path / f"{number}.jsonl.gz", damaged)
        with pytest.raises(DataError) as caught:
            list(read_records(path, "text"))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\n\n \r\n", b"\xef\xbb\xbf"])
def test_files_without_records_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match="holds no records"):
        list(read_records(write(tmp_path / "a.jsonl", data), "text"))


def test_one_line_of_10_megabytes_takes_bounded_memory(tmp_path: Path) -> None:
    size = 10_000_000
    path = write(tmp_path / "a.jsonl", b'{"text": "' + b"abcde fgh " * (size // 10) + b'"}\n{"text": "b"}')
    tracemalloc.start()
    try:
        lengths = [len(text) for _, text, *_ in read_records(path, "text")]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lengths == [size, 1]
    assert peak < 8 * size


def test_changed_files_change_the_inputs(tmp_path: Path) -> None:
    for name, old, new in [("text", "one", "two"), ("jsonl", '{"text": "one"}', '{"text": "two"}')]:
        path = write(tmp_path / name, old)
        source = part(name, paths=str(path))
        before = source.inputs()
        assert source.inputs() == before
        write(path, new)
        assert source.inputs() != before
