"""Runs in real trackers: what they wrote is read back from their own files, and is what the run recorded."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import Stopped
from isoflop.core.recipe import Recipe
from isoflop.lab.tracking import Trackers
from isoflop.store.records import numbers
from isoflop.store.run import Run
from isoflop.train.run import train
from study_toys import TOML

for _library in ("tensorboard", "wandb", "trackio"):
    pytest.importorskip(_library, reason="needs the extra track")

pytestmark = pytest.mark.filterwarnings("default")  # theirs
Tiny = Callable[..., Path]
Curves = dict[str, dict[int, float]]
"""Curve -> step -> value."""


@pytest.fixture(autouse=True, scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """trackio's database lies in a folder of the tests', chosen before the library is imported."""
    import trackio.sqlite_storage
    import trackio.utils

    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        for module in (trackio, trackio.utils, trackio.sqlite_storage):
            patch.setattr(module, "TRACKIO_DIR", folder)
        yield folder


def stopped_and_finished(tiny: Tiny, root: Path, name: str) -> Run:
    """A run that a signal stops at step 7 of 12, and that is trained to its end then, tracked both times."""
    recipe = Recipe.load(tiny())

    def stop(at: Any) -> None:
        if at.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(recipe, root, follower=Trackers([name], "duel"), progress=stop)
    time.sleep(1.1)  # W&B names folders by the second
    run = train(recipe, root, follower=Trackers([name], "duel"))
    assert run.events("tracker") == [], "none failed"
    return run


def recorded(run: Run) -> Curves:
    """What the run's own file says."""
    found: Curves = {}
    for record in run.metrics():
        kind = "train" if record["kind"] == "step" else record["kind"]
        for name, value in numbers(record):
            if name != "step":
                found.setdefault(f"{kind}/{name}", {})[record["step"]] = float(value)
    return found


def in_tensorboard(run: Run) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        assert len({point.step for point in points}) == len(points), "no step twice"
        found[tag] = {point.step: point.value for point in points}
    return found


def in_trackio(run: Run, folder: Path) -> Curves:
    with sqlite3.connect(folder / "isoflop.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics WHERE run_name = ?", [run.path.name]).fetchall()
        (config,) = database.execute("SELECT config FROM configs WHERE run_name = ?", [run.path.name]).fetchone()
    assert json.loads(config)["seed"] == run.resolved["seed"]
    found: Curves = {}
    for step, metrics in rows:
        for name, value in json.loads(metrics).items():
            assert step not in found.setdefault(name, {}), "no step twice"
            found[name][step] = value
    return found


def records_of_wandb(file: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: LevelDB's log format, in blocks of 32 KiB behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def in_wandb(run: Run) -> tuple[Curves, list[Any]]:
    found: Curves = {}
    begun = []
    give_up = time.monotonic() + 60
    while _ends(run) < 2 and time.monotonic() < give_up:  # its own process writes the file, after the run has ended
        time.sleep(0.2)
    for file in sorted((run.path.parent / "wandb").glob(f"offline-run-*-{run.id}/*.wandb")):
        for record in records_of_wandb(file):
            if record.WhichOneof("record_type") == "run":
                begun.append(record.run)
            if record.WhichOneof("record_type") != "history":
                continue
            line = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in line.items():
                if not name.startswith("_"):
                    found.setdefault(name, {})[line["_step"]] = value
    return found, begun


def _ends(run: Run) -> int:
    """How many of a run's files are whole."""
    files = (run.path.parent / "wandb").glob(f"offline-run-*-{run.id}/*.wandb")
    kinds = [record.WhichOneof("record_type") for file in files for record in records_of_wandb(file)]
    return kinds.count("exit")


def agree(found: Curves, run: Run, rel: float = 0.0) -> None:
    for name, curve in recorded(run).items():
        assert found[name].keys() == curve.keys(), name
        for step, value in curve.items():
            assert found[name][step] == pytest.approx(value, rel=rel or 1e-15), (name, step)


def test_tensorboard_reads_what_the_run_recorded(tiny: Tiny, tmp_path: Path) -> None:
    run = stopped_and_finished(tiny, tmp_path, "tensorboard")
    found = in_tensorboard(run)
    agree(found, run, rel=1e-6)  # its scalars are fp32
    assert found["result/value"][12] == pytest.approx(run.result["value"], rel=1e-6)


def test_trackio_reads_what_the_run_recorded(tiny: Tiny, tmp_path: Path, apart: Path) -> None:
    run = stopped_and_finished(tiny, tmp_path, "trackio")
    agree(in_trackio(run, apart), run)


def test_wandb_holds_what_the_run_recorded_offline(tiny: Tiny, tmp_path: Path) -> None:
    run = stopped_and_finished(tiny, tmp_path, "wandb")
    found, begun = in_wandb(run)
    agree(found, run)
    assert len({each.run_id for each in begun}) == 1
    assert {(each.run_id, each.display_name, each.run_group) for each in begun} == {(run.id, run.path.name, "duel")}
    config = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in begun[0].config.update}
    assert config["optimizer"] == run.resolved["optimizer"]


def test_a_run_that_was_killed_is_shown_without_the_steps_that_are_done_again(tiny: Tiny, tmp_path: Path) -> None:
    """A kill leaves steps behind the last checkpoint in the trackers' files, which the run takes again."""
    recipe = Recipe.load(tiny("train.checkpoints=2", "train.evaluations=2"))
    follower = Trackers(["tensorboard"])

    class Killed(BaseException):
        pass

    def die(at: Any) -> None:
        if at.step == 8:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isoflop.train.session.Session.saved_at_exit", lambda self: nullcontext())
        with pytest.raises(Killed):
            train(recipe, tmp_path, follower=follower, progress=die)
    run = train(recipe, tmp_path, follower=Trackers(["tensorboard"]))
    agree(in_tensorboard(run), run, rel=1e-6)


def test_a_study_is_shown_run_by_run(tmp_path: Path) -> None:
    """Its workers are processes of their own."""
    (tmp_path / "tiny.toml").write_text(TOML)
    root = tmp_path / "runs"
    asked = ["compare", str(tmp_path / "tiny.toml"), "--root", str(root), "--track", "tensorboard"]
    assert invoke(asked) == 0
    runs = [Run.read(file.parent) for file in root.glob("*/resolved.json")]
    assert len(runs) >= 12
    for run in runs[:3]:
        agree(in_tensorboard(run), run, rel=1e-6)
