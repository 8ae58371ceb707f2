"""The one reader: whatever lies in a file's place is an error that names it, at once, and quotes nothing of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from isoflop.core.digests import digest_file
from isoflop.core.errors import DataError, IsoflopError, StorageError, UsageError
from isoflop.core.files import append_jsonl, clear_leftovers, mend_jsonl, write_atomic
from isoflop.core.reading import contained, parse_json, read_bytes, read_json, read_jsonl, read_text, user_path
from isoflop.core.recipe import Recipe
from isoflop.core.table import Table
from isoflop.data.reading import read_records
from isoflop.data.reading import read_text as read_document
from isoflop.data.tokenizing import open_tokenizer
from isoflop.train.state import load_tensors


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    """A socket stands for what can be neither read nor waited for."""
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        listener.bind(path.name)
        os.chdir(here)


SPECIAL = [folder, pipe, sparse, device, endless]
READERS: list[Callable[[Path], Any]] = [
    read_bytes,
    read_text,
    read_json,
    read_jsonl,
    Recipe.load,
    Table.read_csv,
    read_document,
    lambda path: list(read_records(path, "text")),
    open_tokenizer,
    load_tensors,
]


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("read", READERS)
def test_whatever_lies_in_a_files_place_is_an_error_that_names_it(
    tmp_path: Path, make: Callable[[Path], None], read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "input.json"
    make(path)
    with pytest.raises(IsoflopError) as refusal:
        read(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("make", [folder, pipe, device, endless])
def test_what_is_no_file_has_no_digest(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(DataError, match="not a file"):
        digest_file(tmp_path / "x")


@pytest.mark.parametrize("make", [folder, pipe, device, endless, lambda path: path.symlink_to("nowhere")])
def test_output_goes_to_regular_files_only(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "out"
    make(path)
    before = path.lstat()
    for write in (lambda: write_atomic(path, "text"), lambda: append_jsonl(path, {}), lambda: mend_jsonl(path)):
        with pytest.raises(StorageError, match=r"out: is a .* regular files only"):
            write()
    assert path.lstat() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text('{"whole": 1}\ntorn')
    (tmp_path / "log").symlink_to("theirs")
    for write in (write_atomic, append_jsonl):
        with pytest.raises(StorageError, match="is a link"):
            write(tmp_path / "log", "x")
    with pytest.raises(StorageError, match="is a link"):
        mend_jsonl(tmp_path / "log")
    assert (tmp_path / "theirs").read_text() == '{"whole": 1}\ntorn'


def test_sweeping_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".partial-x").symlink_to(tmp_path / "theirs")
    assert clear_leftovers(tmp_path / "here") == 1
    assert list((tmp_path / "here").iterdir()) == []
    assert (tmp_path / "theirs" / "file").exists()


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "é" * 127):
        write_atomic(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


def test_a_limit_is_the_largest_size(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(DataError, match="is larger than 4 bytes"):
        read_bytes(tmp_path / "x", 4)
    assert read_bytes(Path("/proc/self/status"), 1 << 16)  # whose size is said to be 0
    with pytest.raises(DataError, match="is larger than 10 bytes"):
        read_bytes(Path("/proc/self/status"), 10)


def test_a_pipe_is_read_where_one_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert read_text(path, pipe=True) == ""  # nobody writes
    ours, theirs = os.pipe()  # what a shell makes of <(command)
    os.write(theirs, b"N,loss\n1,2\n")
    os.close(theirs)
    assert Table.read_csv(f"/dev/fd/{ours}")["N"].tolist() == [1.0]
    os.close(ours)


def test_links_out_of_a_directory_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run" / "inner").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("run")
    (tmp_path / "run" / "good").symlink_to("inner")
    (tmp_path / "run" / "loop").symlink_to("loop")
    assert contained(tmp_path / "alias", "good/file") == tmp_path / "alias" / "good" / "file"
    for name, target in (("out", tmp_path), ("up", ".."), ("sibling", "../running")):
        (tmp_path / "run" / name).symlink_to(target)
        for below in (name, f"{name}/x"):
            with pytest.raises(DataError, match="leads out of its directory"):
                contained(tmp_path / "run", below)
    with pytest.raises(DataError, match="leads out"):
        contained(tmp_path / "run", "../x")
    with pytest.raises(DataError, match="loop: cannot be read"):
        read_bytes(contained(tmp_path / "run", "loop"))


# ---------------------------------------------------------------- numbers and text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "NaN is no JSON number"),
        ('[{"a": {"b": 1, "c": 2, "b": 1}}]', "the key 'b' stands twice in one object"),
        ("[-Infinity]", "Infinity is no JSON number"),
        ("1e999", "beyond 64-bit floats"),
        ("9" * 301, "an integer of 301 digits"),
        ("9" * 10_000, "an integer of 10,000 digits"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_values_that_no_reader_could_use_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "x")
    (tmp_path / "x").write_text(f"{text}\n{{}}\n")
    with pytest.raises(DataError, match=rf"x: line 1: .*{message}"):
        read_jsonl(tmp_path / "x")


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.lists)
)
def test_finite_values_come_back(value: Any) -> None:
    assert parse_json(json.dumps(value), "x") == value


def test_every_integer_that_is_read_is_a_finite_float() -> None:
    assert float(parse_json("9" * 300, "x")) < float("inf")
    assert parse_json('"\\ud83d\\ude00"', "x") == "\U0001f600"


def test_errors_about_kinds_name_the_key_and_quote_no_value(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": {"key": "secret"}, "b": ["secret"]}')
    with pytest.raises(DataError, match=r"x\.json: .*a\.key: should be a number") as refusal:
        read_json(path, dict[str, dict[str, float]])
    assert "secret" not in str(refusal.value)
    assert TypeAdapter(dict[str, Any]).validate_python(read_json(path, dict[str, Any]))
    path.write_text("password = 'secret'")
    with pytest.raises(DataError) as refusal:
        read_json(path)
    assert "secret" not in str(refusal.value)


# ---------------------------------------------------------------- paths


def test_a_tilde_is_a_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~") == tmp_path
    assert user_path("~/a/~b") == user_path(Path("~/a/~b")) == tmp_path / "a" / "~b"
    assert user_path("a/~") == Path("a/~")
    for wrong, message in (("~nobody-here/x", "who is not known"), ("", "empty path"), ("a\0b", "holds a NUL")):
        with pytest.raises(UsageError, match=message):
            user_path(wrong)
    (tmp_path / "~nobody-here").touch()
    assert user_path("~nobody-here") == Path("~nobody-here")
