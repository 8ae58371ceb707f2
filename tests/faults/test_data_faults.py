"""Bad data on its way into a run: refused before anything is kept, with exit code 3 or 2 and a place."""

from __future__ import annotations

import errno
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
from isoflop.data import corpus as corpus_module
from isoflop.data.corpus import Corpus
from isoflop.data.sources.jsonl import JsonlPart
from isoflop.data.sources.text import TextPart


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

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus_module, "write_tokens", full)
    with pytest.raises(StorageError, match="no space left"):
        build(part, tmp_path / "cache")
    monkeypatch.undo()
    left = [path.name for path in (tmp_path / "cache" / "corpora").iterdir()]
    assert [name for name in left if not name.startswith(".lock")] == []
    assert build(part, tmp_path / "cache").describe()["documents"] == 60


def _dawdle(part: JsonlPart, cache: Path) -> None:
    """Make a corpus, and fall asleep with its shards written but not sealed."""
    corpus_module.seal = lambda *_, **__: time.sleep(60)  # type: ignore[assignment]
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
