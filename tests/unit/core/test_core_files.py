"""Files that are whole or absent, lines that may be torn, digests that never change."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import killing
from isoflop.core import files
from isoflop.core.digests import canonical_json, digest, digest_bytes, digest_file, document_hash
from isoflop.core.errors import DataError, StorageError
from isoflop.core.files import (
    append_jsonl,
    clear_leftovers,
    disk_errors,
    mend_jsonl,
    publish_directory,
    write_atomic,
    write_json,
)
from isoflop.core.reading import read_json, read_jsonl

# ---------------------------------------------------------------- atomic files


def test_writing_replaces_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "é")
    assert path.read_bytes() == "é".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_a_failed_write_keeps_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StorageError, match="no space left to write") as refusal:
                write_atomic(path, "new")
        assert refusal.value.where == str(path)
        assert path.read_text() == "old"
        assert [file.name for file in tmp_path.iterdir()] == ["file"]


def kill_at_every_call_of_a_write() -> int:
    def check(where: Path) -> None:
        assert (where / "file").read_text() in ("old" * 1000, "new" * 1000)
        clear_leftovers(where)
        assert [file.name for file in where.iterdir()] == ["file"]

    return killing.at_every_call(
        lambda where: write_atomic(where / "file", "old" * 1000),
        lambda where: write_atomic(where / "file", "new" * 1000),
        check,
    )


def kill_at_every_call_of_a_publication() -> int:
    def publish(where: Path) -> None:
        with publish_directory(where / "made") as partial:
            (partial / "inner").mkdir()
            for name in ("a", "b", "inner/c"):
                (partial / name).write_text(name * 1000)

    def check(where: Path) -> None:
        if (where / "made").exists():
            assert all((where / "made" / name).read_text() == name * 1000 for name in ("a", "b", "inner/c"))
        clear_leftovers(where)
        assert [file.name for file in where.iterdir()] in ([], ["made"])

    return killing.at_every_call(lambda where: None, publish, check)


def kill_at_every_call_of_an_append() -> int:
    def check(where: Path) -> None:
        mend_jsonl(where / "log")
        append_jsonl(where / "log", {"step": 2})
        assert [record["step"] for record in read_jsonl(where / "log")] in ([0, 2], [0, 1, 2])

    return killing.at_every_call(
        lambda where: append_jsonl(where / "log", {"step": 0}),
        lambda where: append_jsonl(where / "log", {"step": 1}),
        check,
    )


@pytest.mark.parametrize(("what", "least"), [("write", 5), ("publication", 14), ("append", 1)])
def test_a_kill_at_any_call_leaves_the_old_or_the_new(what: str, least: int) -> None:
    here = Path(__file__).parent
    places = f"import sys; sys.path[:0] = {[str(here), str(here.parent.parent)]!r}"
    code = f"{places}; import test_core_files as t; print(t.kill_at_every_call_of_a{'n' * (what == 'append')}_{what}())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least


def test_a_directory_appears_filled_or_not_at_all(tmp_path: Path) -> None:
    with publish_directory(tmp_path / "a" / "b") as partial:
        (partial / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x").read_text() == "1"

    def broken() -> None:
        with publish_directory(tmp_path / "c") as partial:
            (partial / "x").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_directory_is_never_published_over_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("1")

    def publish() -> None:
        with publish_directory(tmp_path / "a") as partial:
            (partial / "new").write_text("2")

    with pytest.raises(OSError, match="not empty"):
        publish()
    assert [file.name for file in tmp_path.rglob("*")] == ["a", "old"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc")
def test_everything_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(handle: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def renamed(*paths: Any, **more: Any) -> None:
        order.append("rename")
        rename(*paths, **more)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    with publish_directory(tmp_path / "made") as partial:
        (partial / "d").mkdir()
        (partial / "d" / "f").write_text("1")
        (partial / "e").write_text("2")
        name = partial.name
    assert sorted(order[:4]) == sorted(["d", "e", "f", name])
    assert order[4:] == ["rename", tmp_path.name]


def test_sweeping_removes_only_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".partial-1-x").mkdir()
    (tmp_path / ".partial-1-x" / "file").write_text("1")
    (tmp_path / ".partial-2-y").write_text("2")
    (tmp_path / "kept").write_text("3")
    assert clear_leftovers(tmp_path) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert clear_leftovers(tmp_path / "missing") == 0


# ---------------------------------------------------------------- what a disk says


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no space left to write"),
        (errno.EDQUOT, "no space left to write"),
        (errno.EFBIG, "no space left to write"),
        (errno.EACCES, "not allowed to write"),
        (errno.EPERM, "not allowed to write"),
        (errno.EROFS, "not allowed to write"),
        (errno.EIO, "cannot be written .Input/output error."),
        (errno.ENAMETOOLONG, "cannot be written .File name too long."),
    ],
)
def test_refusals_of_the_disk_name_the_path_whoever_reports_them(code: int, message: str) -> None:
    for error in (OSError(code, os.strerror(code)), ValueError(f"I/O error: {os.strerror(code)} (os error {code})")):
        with pytest.raises(StorageError, match=message) as refusal, disk_errors(Path("some/file")):
            raise error
        assert refusal.value.where == "some/file"
        assert refusal.value.exit_code == 3


@pytest.mark.parametrize(
    "error", [FileExistsError(errno.EEXIST, "File exists"), ValueError("(os error none)"), KeyboardInterrupt()]
)
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as passed, disk_errors(Path("file")):
        raise error
    assert passed.value is error


# ---------------------------------------------------------------- JSON


def test_json_is_readable_exact_and_finite(tmp_path: Path) -> None:
    tree = {"a": [1, 0.1 + 0.2, "é", None, True], "b": {}}
    write_json(tmp_path / "x", tree)
    assert read_json(tmp_path / "x") == tree
    assert "é" in (tmp_path / "x").read_text()
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Out of range"):
            write_json(tmp_path / "x", {"a": value})
    assert read_json(tmp_path / "x") == tree


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, None])
def test_what_is_no_json_is_a_data_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_json(tmp_path / "x")
    assert refusal.value.where == str(tmp_path / "x")


SURROGATES = st.characters(exclude_categories=["Cs"])


@given(records=st.lists(st.dictionaries(st.text(SURROGATES, max_size=4), st.text(SURROGATES, max_size=4)), max_size=5))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_come_back_as_they_were(tmp_path: Path, records: list[dict[str, str]]) -> None:
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    for record in records:
        append_jsonl(path, record)
    assert read_jsonl(path) == records
    mend_jsonl(path)
    assert read_jsonl(path) == records


def test_a_log_torn_at_every_byte_keeps_its_whole_records_and_takes_more(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    records = [{"step": step, "text": "é\n\"'", "value": 1.5 * step} for step in range(3)]
    for record in records:
        append_jsonl(path, record)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = read_jsonl(path)
        assert kept == records[: len(kept)]
        assert len(kept) >= whole[:cut].count(b"\n")
        mend_jsonl(path)
        assert read_jsonl(path) == kept
        append_jsonl(path, {"step": "next"})
        assert read_jsonl(path) == [*kept, {"step": "next"}]


def test_the_last_line_is_found_from_behind_however_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    for length in (0, 1, (1 << 16) - 1, 1 << 16, 200_000):
        path.write_bytes(b'{"a": 1}\n' + b"x" * length)
        mend_jsonl(path)
        assert read_jsonl(path) == [{"a": 1}]
    path.write_text('"' + "x" * 200_000 + '"')
    mend_jsonl(path)
    assert read_jsonl(path) == ["x" * 200_000]
    monkeypatch.setattr(files, "LARGEST", 100_000)
    path.write_bytes(b"x" * 200_000)
    with pytest.raises(StorageError, match="its last line is longer than"):
        mend_jsonl(path)


def test_a_broken_line_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"b"\n{"c": 3}\n')
    with pytest.raises(DataError, match=r"log\.jsonl: line 3: is not JSON"):
        read_jsonl(path)
    path.write_bytes(b'{"a": 1}\n\xff\n')
    with pytest.raises(DataError, match="line 2"):
        read_jsonl(path)


def test_missing_and_empty_logs_are_empty(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "none") == []
    mend_jsonl(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").touch()
    mend_jsonl(tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    assert read_jsonl(tmp_path / "empty") == []


@pytest.mark.parametrize(("file", "steps"), [("metrics_ok.jsonl", [1, 2]), ("metrics_torn.jsonl", [1])])
def test_the_reference_corpus_of_logs(shared: Path, tmp_path: Path, file: str, steps: list[int]) -> None:
    path = tmp_path / file
    path.write_bytes((shared / "data" / "anchors" / "faults" / "metrics" / file).read_bytes())
    assert [record["step"] for record in read_jsonl(path)] == steps
    mend_jsonl(path)
    append_jsonl(path, {"step": steps[-1] + 1})
    assert [record["step"] for record in read_jsonl(path)] == [*steps, steps[-1] + 1]


def test_a_record_that_is_not_finite_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        append_jsonl(tmp_path / "log", {"loss": float("nan")})
    assert not (tmp_path / "log").exists()


# ---------------------------------------------------------------- digests


def test_canonical_json_and_digests_never_change() -> None:
    assert canonical_json({"b": 1, "a": [1.0, "é", None, True]}) == '{"a":[1.0,"é",null,true],"b":1}'
    assert digest({"b": 1, "a": 2}) == "d3626ac30a87e6f7a6428233b3c68299976865fa5508e4267c5415c76af7a772"
    assert digest_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert document_hash("").hex() == "cae66941d9efbd404e4d88758ea67670"
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("inf"))


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(256)) * 5000)
    assert digest_file(tmp_path / "x") == digest_bytes(bytes(range(256)) * 5000)


def test_a_document_may_hold_a_lone_surrogate() -> None:
    assert document_hash("\ud800") != document_hash("\ud801")


@given(a=st.dictionaries(st.text(SURROGATES), st.integers()), b=st.dictionaries(st.text(SURROGATES), st.integers()))
def test_digests_are_equal_where_values_are(a: dict[str, int], b: dict[str, int]) -> None:
    assert (digest(a) == digest(b)) == (a == b)
    assert digest(dict(reversed(a.items()))) == digest(a)
    assert json.loads(canonical_json(a)) == a


def test_the_partial_prefix_is_hidden() -> None:
    assert files.PARTIAL.startswith(".")


def test_names_that_are_no_utf_8_are_stored_readably(tmp_path: Path) -> None:
    name = os.fsdecode(b'caf\xe9 "\\')
    write_json(tmp_path / "a.json", {"message": name, "naïve": "日本語 \x1b"})
    append_jsonl(tmp_path / "a.jsonl", {"message": name})
    wanted = 'caf\\xe9 "\\'
    assert read_json(tmp_path / "a.json") == {"message": wanted, "naïve": "日本語 \x1b"}
    assert read_jsonl(tmp_path / "a.jsonl") == [{"message": wanted}]
