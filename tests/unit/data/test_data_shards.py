"""Token shards and their seal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isoflop.core.errors import DataError
from isoflop.data.shards import MANIFEST, Manifest, open_tokens, seal, token_type, unseal


@pytest.mark.parametrize(("vocab_size", "size"), [(257, 2), (65536, 2), (65537, 4)])
def test_tokens_come_back(tmp_path: Path, vocab_size: int, size: int) -> None:
    dtype = token_type(vocab_size)
    ids = np.array([0, 5, vocab_size - 1])
    np.concatenate([ids, ids[:1]]).astype(dtype).tofile(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").stat().st_size == 4 * size
    read = open_tokens(tmp_path / "a.bin", dtype)
    assert read.tolist() == [0, 5, vocab_size - 1, 0]
    assert not read.flags.writeable


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    for name in ("a.bin", "b.bin"):
        np.arange(100, dtype="<u2").tofile(tmp_path / name)
    seal(tmp_path, Manifest)
    return tmp_path


def test_an_untouched_directory_opens(sealed: Path) -> None:
    assert sorted(unseal(sealed, Manifest).files) == ["a.bin", "b.bin"]


@pytest.mark.parametrize("name", ["a.bin", "b.bin"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_named(sealed: Path, name: str, damage: str) -> None:
    file = sealed / name
    data = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "cut" else data[:50] + bytes([data[50] ^ 1]) + data[51:])
    with pytest.raises(DataError, match="delete that folder") as caught:
        unseal(sealed, Manifest)
    assert caught.value.where == str(file)


@pytest.mark.parametrize("damage", ["cut", "empty", "remove", "alien"])
def test_a_damaged_manifest_is_named(sealed: Path, damage: str) -> None:
    file = sealed / MANIFEST
    data = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "alien": b'{"files": {"a.bin": 3}}'}[damage])
    with pytest.raises(DataError, match="delete that folder") as caught:
        unseal(sealed, Manifest)
    assert caught.value.where == str(file)
