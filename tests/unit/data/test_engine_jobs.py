"""Jobs over files: killed anywhere and started again, by one process or several, they leave the same bytes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoflop.core import files
from isoflop.core.errors import DataError, UsageError
from isoflop.data.engine.cleaning import chain_of, clean
from isoflop.data.engine.dedup import Keying, dedup
from isoflop.data.engine.inputs import Unit, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.minhash import MinHash

WORDS = [
    "there",
    "be",
    "a",
    "time",
    "when",
    "all",
    "that",
    "people",
    "have",
    "to",
    "say",
    "of",
    "the",
    "river",
    "and",
    "its",
    "boats",
    "with",
    "care",
    "is",
    "known",
]
STORIES = [" ".join(WORDS[(i * k) % len(WORDS)] + str(i * k % 11) for k in range(1, 90)) + "." for i in range(40)]
RUNS: dict[str, Callable[[list[Unit], JobSettings], dict[str, Any]]] = {
    "clean": lambda units, settings: clean(units, chain_of("dclm"), settings),
    "exact": lambda units, settings: dedup(units, Keying("exact"), settings),
    "minhash": lambda units, settings: dedup(units, Keying("minhash", MinHash(verify=0.7)), settings),
}


@pytest.fixture
def units(tmp_path: Path) -> list[Unit]:
    """Five files: stories, some twice, some nearly so; empty texts; broken lines; equal ids."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        lines = [
            json.dumps({"id": i % 9, "text": text}) for i, text in enumerate(STORIES[number * 6 : number * 6 + 12])
        ]
        near = STORIES[number].replace("river", "brook")
        lines += [json.dumps({"text": near + " And more."}), '{"text": ""}', '{"text": "torn']
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    return units_of([str(folder)])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / kind).glob("*")):
        with gzip.open(path) as file:
            found += [json.loads(line) for line in file]
    return found


@pytest.mark.parametrize("verb", RUNS)
def test_killed_anywhere_it_leaves_the_same_bytes(
    verb: str, units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before or after each file appears: what is half done is done again."""
    RUNS[verb](units, JobSettings(tmp_path / "whole"))
    whole = tree(tmp_path / "whole")
    assert sum(name.startswith("documents/") for name in whole) == len(units)
    real, count, killed = files.fsync_directory, 0, 0

    def fails(path: Path) -> None:
        nonlocal count
        real(path)
        count += 1
        if count % 4 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "fsync_directory", fails)
    for _ in range(100):
        try:
            RUNS[verb](units, JobSettings(tmp_path / "cut"))
            break
        except KeyboardInterrupt:
            killed += 1
            (tmp_path / "cut" / "documents").mkdir(exist_ok=True)
            (tmp_path / "cut" / "documents" / ".partial-dead-part").write_bytes(b"half")
    assert killed > 3
    assert tree(tmp_path / "cut") == whole


@pytest.mark.slow
@pytest.mark.parametrize("verb", RUNS)
def test_the_number_of_workers_changes_nothing(verb: str, units: list[Unit], tmp_path: Path) -> None:
    for workers in (1, 3):
        RUNS[verb](units, JobSettings(tmp_path / str(workers), workers))
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_attributes_stand_beside_every_document(units: list[Unit], tmp_path: Path) -> None:
    found = clean(units, chain_of("gopher"), JobSettings(tmp_path / "out"))
    counts, notes, kept = found["counts"], rows(tmp_path / "out", "attributes"), rows(tmp_path / "out", "documents")
    assert len(notes) == counts["documents"] == 5 * 14
    assert [note["keep"] for note in notes].count(True) == len(kept) == counts["kept"]
    assert counts["dropped.empty.empty"] == counts["broken"] == 5
    assert all(bool(note["reasons"]) != note["keep"] for note in notes)


def test_the_first_of_equal_documents_stays(units: list[Unit], tmp_path: Path) -> None:
    exact = dedup(units, Keying("exact"), JobSettings(tmp_path / "exact"))
    texts = [row["text"] for row in rows(tmp_path / "exact", "documents")]
    assert len({*texts}) == len([text for text in texts if text]) + 1 == exact["counts"]["kept"] - 4
    near = dedup(units, Keying("minhash"), JobSettings(tmp_path / "near"))
    assert near["counts"]["kept"] < exact["counts"]["kept"]
    notes = rows(tmp_path / "near", "attributes")
    for note in notes:
        if "duplicate_of" in note:
            unit, row = map(int, note["duplicate_of"].split(":"))
            assert notes[14 * unit + row]["keep"]


def test_new_data_are_held_against_an_index(units: list[Unit], tmp_path: Path) -> None:
    dedup(units, Keying("exact"), JobSettings(tmp_path / "one"))
    path = tmp_path / "new.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in [STORIES[3], "new text", "new text"]))
    new = units_of([str(path)])
    assert dedup(new, Keying("exact"), JobSettings(tmp_path / "two"), [tmp_path / "one"])["counts"]["kept"] == 1
    notes = rows(tmp_path / "two", "attributes")
    assert [note.get("duplicate_of", "")[:6] for note in notes] == ["index:", "", "0:1"]
    with pytest.raises(UsageError, match="other settings"):
        dedup(new, Keying("minhash"), JobSettings(tmp_path / "three"), [tmp_path / "one"])
    with pytest.raises(DataError):
        dedup(new, Keying("exact"), JobSettings(tmp_path / "four"), [tmp_path / "in"])


def test_other_settings_or_changed_input_are_refused(units: list[Unit], tmp_path: Path) -> None:
    clean(units, chain_of("c4"), JobSettings(tmp_path / "out"))
    with pytest.raises(UsageError, match="was begun with other filters"):
        clean(units, chain_of("gopher"), JobSettings(tmp_path / "out"))
    with Path(units[0].files[0]).open("a") as file:
        file.write('\n{"text": "more"}')
    with pytest.raises(UsageError, match="was begun with other files"):
        clean(units_of([str(tmp_path / "in")]), chain_of("c4"), JobSettings(tmp_path / "out"))
    with pytest.raises(UsageError, match="holds the input"):
        clean(units, chain_of("c4"), JobSettings(tmp_path / "in"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="is not empty"):
        clean(units, chain_of("c4"), JobSettings(tmp_path / "full"))


def test_too_many_broken_lines_are_an_error_that_quotes_one(units: list[Unit], tmp_path: Path) -> None:
    for limit in (0, 3):
        with pytest.raises(DataError, match=r'is not JSON .*: \{"text": "torn; .* lines hold no document'):
            clean(units, chain_of("c4"), JobSettings(tmp_path / str(limit), broken=limit))
    clean(units, chain_of("c4"), JobSettings(tmp_path / "5", broken=5))
    listed = [json.loads(path.read_text()) for path in sorted((tmp_path / "5" / "broken").iterdir())]
    assert [each["where"].rpartition("/")[2] for each in listed] == [f"{i}.jsonl:15" for i in range(5)]
