"""Bad data on its way into a run: refused before anything is kept, with exit code 3 or 2 and a place."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.core.context import Context
from isoflop.core.errors import DataError, StorageError
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.data import making
from isoflop.data.corpus import Corpus
from isoflop.data.sources.jsonl import JsonlPart
from isoflop.data.sources.text import TextPart
from isoflop.store.run import Run


def context(cache: Path, length: int = 16) -> Context:
    tokenizer = get("tokenizer", "bytes")()
    return Context(Rng(0), cache, tokenizer, 257, batch=2, length=length)  # type: ignore[arg-type]


def build(part: Any, cache: Path) -> Corpus:
    corpus = part.build(context(cache))
    assert isinstance(corpus, Corpus)
    return corpus


def records(path: Path, count: int = 60, more: str = "") -> JsonlPart:
    lines = [json.dumps({"text": f"document {n} " * 30}) for n in range(count)]
    path.write_text("\n".join(lines) + "\n" + more)
    return JsonlPart(paths=(str(path),))


@pytest.mark.parametrize("more", ['{"text": "torn', "{}\n", '{"text": NaN}\n', "\0\n"])
def test_a_broken_line_leaves_no_corpus_behind(tmp_path: Path, more: str) -> None:
    with pytest.raises(DataError) as caught:
        build(records(tmp_path / "a.jsonl", more=more), tmp_path / "cache")
    assert caught.value.exit_code == 3
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:61"
    assert [path.name for path in (tmp_path / "cache" / "corpora").iterdir() if not path.name.startswith(".lock")] == []
    assert build(records(tmp_path / "a.jsonl"), tmp_path / "cache").describe()["documents"] == 60


def test_a_document_of_10_megabytes_on_one_line(tmp_path: Path) -> None:
    text = "lorem ipsum 0123456789 " * 450_000
    part = records(tmp_path / "a.jsonl", more=json.dumps({"text": text}))
    corpus = build(part, tmp_path / "cache")
    facts = corpus.describe()
    assert len(text) == 10_350_000
    assert facts["text_bytes"] == len(text) + sum(len(f"document {n} ") * 30 for n in range(60))
    batches = corpus.batches(context(tmp_path, length=128))
    assert batches.windows == sum(amount["tokens"] for amount in facts["train"].values()) // 128
    assert next(batches).inputs.shape == (2, 128)
    assert corpus.heldout()["text"].text_bytes <= 65_536


def test_a_changed_file_makes_another_corpus_and_an_old_position_is_refused(tmp_path: Path) -> None:
    part = records(tmp_path / "a.jsonl")
    old = build(part, tmp_path / "cache")
    ctx = context(tmp_path)
    state = old.batches(ctx).state_dict()
    times = os.stat(tmp_path / "a.jsonl")
    data = (tmp_path / "a.jsonl").read_bytes().replace(b"document 7 ", b"document 8 ", 1)
    (tmp_path / "a.jsonl").write_bytes(data)
    os.utime(tmp_path / "a.jsonl", ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
    new = build(part, tmp_path / "cache")
    assert new.fingerprint != old.fingerprint
    with pytest.raises(DataError, match=f"corpus was {old.fingerprint}, is {new.fingerprint}"):
        new.batches(ctx).load_state_dict(state)


def test_a_corrupt_shard_is_refused(tmp_path: Path) -> None:
    part = records(tmp_path / "a.jsonl")
    shard = build(part, tmp_path / "cache").directory / "train.bin"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="does not match the SHA-256") as caught:
        build(part, tmp_path / "cache")
    assert caught.value.where == str(shard)


def test_one_file_alone_cannot_be_held_out(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {n} of the book\n" for n in range(2000)))
    with pytest.raises(DataError, match="chunk_bytes"):
        build(TextPart(paths=(str(path),)), tmp_path / "cache")
    facts = build(TextPart(paths=(str(path),), chunk_bytes=500), tmp_path / "cache").describe()
    assert 0 < facts["heldout"]["text"]["documents"] < facts["train"]["text"]["documents"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = records(tmp_path / "a.jsonl")

    class Full(io.BytesIO):
        def write(self, *_: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how: Full() if path.suffix == ".bin" else opened(path, *how))
    with pytest.raises(StorageError, match="no space left"):
        build(part, tmp_path / "cache")
    monkeypatch.undo()
    left = [path.name for path in (tmp_path / "cache" / "corpora").iterdir()]
    assert [name for name in left if not name.startswith(".lock")] == []
    assert build(part, tmp_path / "cache").describe()["documents"] == 60


def _dawdle(part: JsonlPart, cache: Path) -> None:
    """Make a corpus, and fall asleep with its shards written but not sealed."""
    making.seal = lambda *_, **__: time.sleep(60)  # type: ignore[assignment]
    build(part, cache)


def test_a_process_killed_in_the_middle_hinders_nobody(tmp_path: Path) -> None:
    part, cache = records(tmp_path / "a.jsonl"), tmp_path / "cache"
    process = multiprocessing.get_context("spawn").Process(target=_dawdle, args=(part, cache))
    process.start()
    deadline = time.monotonic() + 60
    while not list(cache.glob("corpora/.partial-*/heldout-0.bin")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(cache.glob("corpora/.partial-*"))
    assert build(part, cache).describe()["documents"] == 60
    assert not list(cache.glob("corpora/.partial-*"))


def test_a_run_says_which_documents_it_does_not_train_on(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when the corpus comes from the cache, and with --json."""
    folder = tmp_path / "text"
    folder.mkdir()
    for n in range(60):
        words = [f"w{i}" for i in Rng(4)("w").at(n // 2).integers(0, 300, 80)]
        (folder / f"{n}.txt").write_text(" ".join([*words, f"end{n}"]))
    recipe, paths = str(tiny()), f'source.paths=["{folder}/*.txt"]'
    for n, options in enumerate((["seed=1"], ["seed=2", "--json"])):
        assert invoke(["train", recipe, paths, *options, "--root", str(tmp_path / "runs"), "--name", f"r{n}"]) == 0
        said = capsys.readouterr().err
        assert "note: 30 of 60 documents are left out as duplicates (0 exact, 30 near)" in said
    assert invoke(["train", recipe, paths, "source.deduplicate=none", "--root", str(tmp_path / "runs")]) == 0
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(5))
def test_names_of_files_do_not_change_a_corpus(tmp_path: Path, seed: int) -> None:
    texts = [" ".join(f"w{i}" for i in Rng(5)("w").at(n // 2).integers(0, 300, 60)) + f" {n}" for n in range(60)]
    prints = set()
    for name, order in (("a", range(60)), ("b", Rng(seed)("order").at().permutation(60))):
        (tmp_path / name).mkdir()
        for place, n in enumerate(order):
            (tmp_path / name / f"{place:02}.txt").write_text(texts[n])
        corpus = build(TextPart(paths=(f"{tmp_path}/{name}/*.txt",)), tmp_path / f"cache {name}")
        assert corpus.describe()["documents"] == 30
        prints.add(corpus.fingerprint)
    assert len(prints) == 1


NOT_UTF_8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """A folder with files whose names are Latin-1."""
    folder = tmp_path / NOT_UTF_8
    try:
        folder.mkdir()
    except OSError:  # a file system of UTF-8 names
        pytest.skip("this file system takes no other names than UTF-8")
    for n in range(40):
        (folder / f"{n}{NOT_UTF_8}.txt").write_text(f"text number {n} " * 30)
    return folder


def test_an_error_in_a_file_whose_name_is_not_utf_8_is_told_and_stored(
    tiny: Callable[..., Path], tmp_path: Path, latin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (latin / f"broken{NOT_UTF_8}.txt").write_bytes(b"one\ntwo\0")
    root = tmp_path / "runs"
    paths = f'source.paths=["{tmp_path}/c*/*.txt"]'
    assert invoke(["train", str(tiny()), paths, "--root", str(root), "--name", "a"]) == 3
    said = capsys.readouterr().err
    assert r"caf\xe9/brokencaf\xe9.txt: line 2 holds a NUL byte" in said
    run = Run.read(root / "a")
    assert run.state == "failed"
    assert r"DataError: " in run.status.message
    assert r"caf\xe9/brokencaf\xe9.txt: line 2 holds a NUL byte" in run.status.message
    assert run.events("failed")
    assert invoke(["runs", "show", str(root / "a")]) == 0
    assert "line 2 holds a NUL byte" in "".join(capsys.readouterr().out.split("\n"))


def test_a_run_lives_in_a_folder_whose_name_is_not_utf_8(
    tiny: Callable[..., Path], tmp_path: Path, latin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, root = f'source.paths=["{tmp_path}/c*/*.txt"]', str(latin / "runs")
    assert invoke(["train", str(tiny()), paths, "--root", root, "--name", "a", "--json"]) == 0
    assert invoke(["train", str(tiny()), paths, "budget={steps=20}", "--root", root, "--name", "b", "--json"]) == 0
    for verb in (["eval"], ["generate", "--tokens", "3"], ["runs", "show"]):
        assert invoke([*verb, str(latin / "runs" / "a")]) == 0, verb
    assert invoke(["runs", "--root", root]) == 0
    capsys.readouterr()
    assert invoke(["train", str(tiny()), f'source.paths=["{latin}/*.txt"]', "--root", root]) == 2
    assert "holds bytes that are no UTF-8" in capsys.readouterr().err


def test_names_cannot_hide_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2K\x07\r\u202eb\nc.jsonl"
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(DataError) as caught:
        list(JsonlPart(paths=(f"{tmp_path}/*",)).documents())
    assert caught.value.where == rf"{tmp_path}/a\x1b[2K\x07\r\u202eb\nc.jsonl:1"
