"""Checkpoints: sealed, verified byte by byte, pruned, never lost."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from isoflop.core.errors import DataError
from isoflop.store import checkpoint as module
from isoflop.store.checkpoint import MANIFEST, commit, damage, newest, steps


def save(directory: Path, step: int, keep: int = 2, heard: list[str] | None = None) -> Path:
    def write(partial: Path) -> None:
        (partial / "model.safetensors").write_bytes(random.Random(step).randbytes(3000))
        (partial / "optim.safetensors").write_bytes(random.Random(-step).randbytes(5000))
        (partial / "state.json").write_text(json.dumps({"step": step}))
        (partial / "more").mkdir()
        (partial / "more" / "empty").write_bytes(b"")

    return commit(directory, step, write, keep, (heard if heard is not None else []).append)


def test_a_checkpoint_holds_what_was_written_under_a_sealed_manifest(tmp_path: Path) -> None:
    path = save(tmp_path / "c", 20)
    assert path == tmp_path / "c" / "20"
    assert newest(tmp_path / "c") == (20, path)
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["step"] == 20
    assert sorted(manifest["files"]) == ["model.safetensors", "more/empty", "optim.safetensors", "state.json"]
    assert manifest["files"]["more/empty"]["size"] == 0
    assert damage(path) == ""


def test_no_checkpoints_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "nothing here") is None
    (tmp_path / "latest").mkdir()
    (tmp_path / "12").write_text("a file")
    (tmp_path / "²").mkdir()
    assert newest(tmp_path) is None


def test_newest_is_by_number_not_by_name_or_time(tmp_path: Path) -> None:
    for step in (100, 9, 20):
        save(tmp_path, step, keep=9)
    assert newest(tmp_path) == (20, tmp_path / "20")  # 100 lay on a path that was left


def test_one_that_only_makes_a_step_safe_goes_with_the_next_and_takes_no_place(tmp_path: Path) -> None:
    for step in range(10, 90, 10):
        commit(tmp_path, step, lambda partial: None, 2, due={20, 40, 60})
        assert steps(tmp_path) == sorted({step, *(s for s in (20, 40, 60) if s <= step)}, reverse=True)[:2], step


def test_only_the_newest_whole_ones_are_kept(tmp_path: Path) -> None:
    for step in range(10, 60, 10):
        save(tmp_path, step, keep=3)
    assert steps(tmp_path) == [50, 40, 30]
    (tmp_path / "50" / "state.json").unlink()
    save(tmp_path, 60, keep=2)
    assert steps(tmp_path) == [60, 40]
    with pytest.raises(ValueError, match="at least 1"):
        save(tmp_path, 70, keep=0)


def test_after_a_fallback_the_damaged_future_never_displaces_the_good_one(tmp_path: Path) -> None:
    save(tmp_path, 20, keep=2)
    save(tmp_path, 40, keep=2)
    file = tmp_path / "40" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")  # of the same size: only the digest can see it
    assert newest(tmp_path) == (20, tmp_path / "20")
    save(tmp_path, 30, keep=1)
    assert newest(tmp_path) == (30, tmp_path / "30")
    assert steps(tmp_path) == [30]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced_and_a_good_one_kept(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    inode = path.stat().st_ino
    assert save(tmp_path, 20).stat().st_ino == inode
    (path / "state.json").write_text("{}")
    save(tmp_path, 20)
    assert damage(path) == ""
    assert not list(tmp_path.glob(".*"))


def test_a_failed_delete_is_reported_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    save(tmp_path, 10, 1, heard)

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(module, "_discard", refuse)
        save(tmp_path, 20, 1, heard)
    assert heard == ["checkpoint 10 could not be deleted (Operation not permitted)"]
    assert newest(tmp_path) == (20, tmp_path / "20")
    save(tmp_path, 30, 1, heard)
    assert steps(tmp_path) == [30]


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    save(tmp_path, 10)

    def broken(partial: Path) -> None:
        (partial / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        commit(tmp_path, 20, broken, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["10"]


def test_leftovers_of_a_kill_are_swept_by_the_next_commit_not_by_a_reader(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (tmp_path / ".partial-abc-20").mkdir()
    newest(tmp_path)
    assert (tmp_path / ".partial-abc-20").exists()
    save(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20"]


def test_any_changed_byte_of_any_file_is_found_and_named(tmp_path: Path) -> None:
    save(tmp_path, 20)
    save(tmp_path, 40)
    draw = random.Random(5)
    for name in ("model.safetensors", "optim.safetensors", "state.json", MANIFEST):
        file = tmp_path / "40" / name
        good = file.read_bytes()
        for _ in range(40):
            place, change = draw.randrange(len(good)), draw.randrange(1, 256)
            file.write_bytes(good[:place] + bytes([good[place] ^ change]) + good[place + 1 :])
            heard: list[str] = []
            assert newest(tmp_path, heard.append) == (20, tmp_path / "20")
            assert len(heard) == 1
            assert heard[0].startswith(f"checkpoint 40 is damaged ({name}: ")
            assert heard[0].endswith("; falling back to 20")
        file.write_bytes(good)
    assert newest(tmp_path) == (40, tmp_path / "40")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_any_truncated_file_is_found(tmp_path: Path, share: float) -> None:
    save(tmp_path, 20)
    save(tmp_path, 40)
    for name in ("model.safetensors", "optim.safetensors", "state.json", MANIFEST):
        file = tmp_path / "40" / name
        good = file.read_bytes()
        file.write_bytes(good[: int(share * len(good))])
        assert newest(tmp_path) == (20, tmp_path / "20"), name
        file.write_bytes(good)


def test_missing_files_manifests_and_moved_directories_are_damage(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    shutil.copytree(path, tmp_path / "40")
    assert damage(tmp_path / "40") == f"{MANIFEST}: digest differs"
    (path / "more" / "empty").unlink()
    assert damage(path) == "more/empty: cannot be read (No such file or directory)"
    (path / MANIFEST).unlink()
    assert damage(path) == f"{MANIFEST}: missing"
    for text in (
        "",
        "[]",
        "null",
        '{"format": 1}',
        "[" * 100_000,
        '{"format": 1, "step": 20, "files": [], "sha256": ""}',
    ):
        (path / MANIFEST).write_text(text)
        assert damage(path).startswith(f"{MANIFEST}: "), text


def test_a_later_format_says_so(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    (path / MANIFEST).write_text('{"format": 2, "content": "unknown"}')
    with pytest.raises(DataError, match="format 2, this version of isoflop reads 1"):
        newest(tmp_path)


def test_when_all_are_damaged_the_error_names_each_and_says_what_to_do(tmp_path: Path) -> None:
    for file in [save(tmp_path, step) / "state.json" for step in (20, 40)]:
        file.write_text("{}")
    with pytest.raises(DataError) as refusal:
        newest(tmp_path)
    problem = "state.json: 2 bytes, not 12"
    assert f"40 ({problem}), 20 ({problem})" in str(refusal.value)
    assert "delete this directory to begin again" in refusal.value.fix
    assert refusal.value.where == str(tmp_path)


def test_a_checkpoint_that_is_a_link_elsewhere_is_damage_and_its_target_is_kept(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    save(theirs, 20)
    save(ours, 10)
    (ours / "20").symlink_to(theirs / "20")
    assert "leads out of its directory" in damage(ours / "20")
    assert newest(ours) == (10, ours / "10")
    save(ours, 20, keep=1)
    assert not (ours / "20").is_symlink()
    assert [path.name for path in ours.iterdir()] == ["20"]
    assert not damage(theirs / "20")


def test_a_checkpoints_file_that_is_a_link_elsewhere_is_damage(tmp_path: Path) -> None:
    path = save(tmp_path / "c", 10)
    file = next(file for file in sorted(path.iterdir()) if file.name != MANIFEST and file.is_file())
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    assert "leads out" in damage(path)
