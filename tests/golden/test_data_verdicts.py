"""A catalogue of right and wrong record files with the verdict on each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from isoflop.core.errors import DataError
from isoflop.data.reading import read_records
from isoflop.data.shards import open_tokens, token_type

OWN = {  # name -> (content, verdict)
    "ok.jsonl": (b'{"text":"one"}\n{"text":"two"}\n', "accept"),
    "crlf.jsonl": (b'{"text":"one"}\r\n{"text":"two"}\r\n', "accept"),
    "bom.jsonl": (b'\xef\xbb\xbf{"text":"one"}\n', "accept"),
    "blank.jsonl": (b'\n{"text":"one"}\n\n\n', "accept"),
    "empty.jsonl": (b"", "reject"),
    "torn.jsonl": (b'{"text":"one"}\n{"text":"tw', "reject_with_line"),
    "middle.jsonl": (b'{"text":"one"}\n{{{\n{"text":"three"}\n', "reject_with_line"),
    "nan.jsonl": (b'{"text":"zero"}\n{"text":"one","w":NaN}\n', "reject_with_line"),
    "crc.jsonl.gz": (gzip.compress(b'{"text":"one"}\n')[:-8] + b"\0" * 8, "reject"),
}


def judge(path: Path, verdict: str, line: int | None = None) -> None:
    if verdict == "accept":
        found = [text for _, text, *_ in read_records(path, "text")]
        assert found
        assert set(found) <= {"one", "two"}
        return
    with pytest.raises(DataError) as caught:
        list(read_records(path, "text"))
    place = str(path) if line is None else f"{path}:{line}"
    assert caught.value.where == place
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", OWN)
def test_our_own_catalogue(tmp_path: Path, name: str) -> None:
    content, verdict = OWN[name]
    path = tmp_path / name
    path.write_bytes(content)
    judge(path, verdict, 2 if verdict == "reject_with_line" else None)


def test_the_reference_catalogue(shared: Path) -> None:
    folder = shared / "data" / "anchors" / "faults"
    entries = [entry for entry in json.loads((folder / "manifest.json").read_text()) if entry["kind"] == "data"]
    assert len(entries) >= 12
    lines = {"torn_last.jsonl": 2, "nan_json.jsonl": 1}
    for entry in entries:
        path = folder / entry["file"]
        if path.suffix == ".bin":
            tokens = open_tokens(path, token_type(256))
            assert len(tokens) == 1000
            assert tokens.max() < 256
            continue
        verdict = "reject_with_line" if entry["expect"] == "skip_last_or_reject" else entry["expect"]
        judge(path, verdict, lines.get(path.name, 2) if verdict == "reject_with_line" else None)
