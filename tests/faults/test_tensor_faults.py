"""Checkpoints that are damaged or lie, disks that are full, writers that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from isoflop.core.errors import DataError, NumericsError, StorageError, UsageError
from isoflop.store.safetensors_dir import read_directory
from isoflop.store.tensor_writer import UNFINISHED, lay_out, open_output, partial_path
from isoflop.store.tensors import Checkpoint, as_bytes

INDEX = "model.safetensors.index.json"


def header(tree: object, data: bytes = b"") -> bytes:
    text = (tree if isinstance(tree, str) else json.dumps(tree)).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


ENTRY = json.dumps(entry(0, 8, [2]))
HEADERS = {
    "empty file": b"",
    "cut short": header({"w": entry(0, 8, [2])}, bytes(4)),
    "longer than its tensors": header({"w": entry(0, 8, [2])}, bytes(12)),
    "header longer than the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "not JSON": header("{"),
    "no table": header("[]"),
    "overlap": header({"w": entry(0, 8, [2]), "v": entry(4, 12, [2])}, bytes(12)),
    "hole": header({"w": entry(0, 8, [2]), "v": entry(12, 20, [2])}, bytes(20)),
    "shape against bytes": header({"w": entry(0, 8, [3])}, bytes(8)),
    "negative offset": header({"w": entry(-8, 0, [2])}, bytes(8)),
    "fractional shape": header('{"w": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}', bytes(8)),
    "unknown type": header({"w": entry(0, 8, [2], "F33")}, bytes(8)),
    "no offsets": header({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "entry is a list": header({"w": [1]}),
    "key twice": header(f'{{"w": {ENTRY}, "w": {ENTRY}}}', bytes(8)),
    "nested too deeply": header("[" * 100_000),
}


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS)
def test_a_header_that_does_not_describe_its_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors: "):
        read_directory(tmp_path)


def shards(path: Path, weight_map: object, **files: dict[str, torch.Tensor]) -> Path:
    for name, tensors in files.items():
        save_file(tensors, path / f"{name}.safetensors")
    text = weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map})
    (path / INDEX).write_text(text)
    return path


@pytest.mark.parametrize(
    "file",
    [
        "../a.safetensors",
        "/etc/a.safetensors",
        "sub/a.safetensors",
        "..",
        "a.bin",
        "a\0.safetensors",
        "b\\a.safetensors",
    ],
)
def test_an_index_cannot_lead_out_of_its_directory(tmp_path: Path, file: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"places tensor 'w'"):
        read_directory(shards(inner, {"w": file}))


def test_an_index_and_its_shards_must_agree(tmp_path: Path) -> None:
    one, two = {"w": torch.ones(2)}, {"v": torch.ones(2)}
    cases: dict[str, tuple[object, dict[str, dict[str, torch.Tensor]]]] = {
        "missing": ({"w": "a.safetensors", "v": "b.safetensors"}, {"a": one}),
        "lacks tensor 'v'": ({"w": "a.safetensors", "v": "a.safetensors"}, {"a": one}),
        "lies in a.safetensors too": ({"w": "a.safetensors", "v": "b.safetensors"}, {"a": one, "b": {**one, **two}}),
        "does not name": ({"w": "a.safetensors"}, {"a": {**one, **two}}),
        "twice": ('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', {"a": one, "b": two}),
        "no weight_map": ('{"weights": {}}', {}),
        "has no weight_map": ('{"weight_map": {"w": 3}}', {}),
    }
    for number, (message, (weight_map, files)) in enumerate(cases.items()):
        directory = tmp_path / str(number)
        directory.mkdir()
        with pytest.raises(DataError, match=message):
            read_directory(shards(directory, weight_map, **files))
    both = shards(tmp_path, {"w": "a.safetensors"}, a=one, model=one)
    with pytest.raises(DataError, match="which one counts"):
        read_directory(both)


def test_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin.*isoflop convert "):
        read_directory(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named_with_its_file(tmp_path: Path, dtype: torch.dtype, bad: float) -> None:
    values = torch.ones(100, dtype=dtype)
    values[17] = bad
    save_file(
        {"layers.3.w": values, "huge": torch.full((8,), torch.finfo(dtype).max, dtype=dtype)},
        tmp_path / "model.safetensors",
    )
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.read("huge").isfinite().all(), "an overflow of the sum is no fault"
    with pytest.raises(NumericsError, match=r"model\.safetensors: tensor 'layers\.3\.w' holds NaN"):
        checkpoint.read("layers.3.w")


def test_a_file_cut_after_its_header_was_read_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1000)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 200)
    with pytest.raises(DataError, match="'w'"):
        checkpoint.read("w")


# ---------------------------------------------------------------- writing

TENSORS = {f"t{i}": torch.full((10,), float(i)) for i in range(3)}
LAYOUT = lay_out([(name, "F32", (10,)) for name in TENSORS], 80)


def fill(path: Path, identity: str = "1" * 64, layout: object = LAYOUT) -> list[str]:
    """Write what is missing; the names that were written by this call."""
    written = []
    with open_output(path, layout, identity) as output:  # type: ignore[arg-type]
        for name, tensor in TENSORS.items():
            if name not in output.done:
                output.write(name, 0, as_bytes(tensor))
                output.finished(name)
                output.flush()
                written.append(name)
    return written


def complete(path: Path) -> bool:
    """False if the output is absent; True if it is whole; anything between is an AssertionError."""
    if not path.exists():
        return False
    checkpoint = Checkpoint(path)
    assert {name: checkpoint.read(name).tolist() for name in TENSORS} == {n: t.tolist() for n, t in TENSORS.items()}
    assert sorted(p.name for p in path.iterdir()) == sorted([*LAYOUT.headers, INDEX])
    return True


def prepare(where: Path) -> None: ...


KILLING = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {faults!r}]
from killing import at_every_call
from test_tensor_faults import complete, fill, prepare

def check(where):
    complete(where / "out")
    if not complete(where / "out"):
        fill(where / "out")
    assert complete(where / "out")
    assert [p.name for p in where.iterdir()] == ["out"]

kills = at_every_call(prepare, lambda where: fill(where / "out"), check)
assert kills > 20, kills
"""


def test_a_writer_killed_at_any_call_leaves_nothing_or_all_and_goes_on() -> None:
    here = Path(__file__).parent
    code = KILLING.format(tests=str(here.parent), faults=str(here))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_was_safe_is_not_done_again_unless_the_work_is_another(tmp_path: Path) -> None:
    def stop_after(count: int, identity: str) -> None:
        with contextlib.suppress(KeyboardInterrupt), open_output(tmp_path / "out", LAYOUT, identity) as output:
            for name in list(TENSORS)[:count]:
                output.write(name, 0, as_bytes(TENSORS[name]))
                output.finished(name)
            raise KeyboardInterrupt

    other = tmp_path / f"{UNFINISHED}{'3' * 16}-another-out"
    other.mkdir()
    stop_after(2, "1" * 64)
    assert not (tmp_path / "out").exists()
    assert fill(tmp_path / "out", "1" * 64) == ["t2"]
    shutil.rmtree(tmp_path / "out")
    stop_after(2, "1" * 64)
    assert fill(tmp_path / "out", "2" * 64) == list(TENSORS)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out", other.name]), "another output's work stays"


def test_two_writers_of_one_output_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another process"), open_output(tmp_path / "out", LAYOUT, "1" * 64):
        fill(tmp_path / "out")


def test_an_output_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        fill(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Callable[..., object] = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=r"bytes are needed, 1,000 are free"):
        fill(tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []
    assert partial_path(tmp_path / "out", "1" * 64).parent == tmp_path
