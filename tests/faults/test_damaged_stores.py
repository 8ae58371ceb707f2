"""A store that somebody or something damaged: every verb answers, or says in one sentence which file is at fault.

Nothing outside the store changes, nothing of a file elsewhere is shown, and no verb waits for ever.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from report_sample import make_study

SECRET = "hunter2-do-not-quote"
TOOK_TOO_LONG = 60
RECIPE = (
    *("small", 'source={name="hmm",text_bytes=20000}', "tokenizer=bytes", "train.length=16", "train.batch=2"),
    *("budget.steps=4", "model.d_model=16", "model.layers=1", "model.mixer.heads=2", "model.feed_forward.hidden=16"),
    *("train.evaluations=2", "train.checkpoints=2", "averaging=ema"),
)
VERBS: tuple[tuple[str, ...], ...] = (
    ("runs",),
    ("runs", "--json"),
    ("runs", "studies"),
    ("runs", "index"),
    ("runs", "show", "one"),
    ("runs", "show", "one", "--json"),
    ("report", "one"),
    ("report", "sample"),
    ("report", "fits"),
    ("eval", "one"),
    ("generate", "one", "--tokens", "3"),
    ("train", *RECIPE, "--name", "one"),
    ("fit", "."),
    ("fit", "sample", "--where", "arm=adamw", "--law", "power"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a finished run, a study and a fit; ``elsewhere`` beside it belongs to somebody else."""
    place = tmp_path_factory.mktemp("whole")
    root = place / "runs"
    assert invoke(["train", *RECIPE, "--name", "one", "--root", str(root)]) == 0
    make_study().write(root / "sample" / "study.json")
    table = place / "table.csv"
    table.write_text("C,loss\n" + "".join(f"1e{k},{1 + 2**-k}\n" for k in range(1, 9)))
    assert invoke(["fit", str(table), "--law", "power", "--columns", "x=C,y=loss", "--out", str(root / "fits")]) == 0
    assert invoke(["runs", "--root", str(root)]) == 0
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text(f'{SECRET} = "{SECRET}"\n{{torn')
    (elsewhere / ".partial-1-x").mkdir()
    shutil.copytree(root / "one" / "checkpoints", elsewhere / "checkpoints")
    return place


# ---------------------------------------------------------------- damage


VALUES: tuple[str, ...] = (
    *("null", "true", "[]", "{}", '"x"', '""', "-1", "0", "1.5", "1e308", "1e999", "NaN", "-Infinity"),
    *("9" * 30, "9" * 400, "9" * 5000, '"\\ud800"', '"\\u001b[31m"', '"../../x"', "[" * 500 + "]" * 500),
)


def replaced_value(text: str, draw: random.Random) -> str:
    """JSON text with one value, anywhere in it, replaced by something else, removed, or one key added."""
    tree = json.loads(text)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(tree)
    if not places or draw.random() < 0.1:
        return draw.choice(VALUES)
    node, key = draw.choice(places)
    act = draw.random()
    if act < 0.3:
        del node[key]
        return json.dumps(tree)
    if act < 0.4 and isinstance(node, dict):
        key = "unknown"
    node[key] = "\0here\0"
    return json.dumps(tree).replace(json.dumps("\0here\0"), draw.choice(VALUES))


def spoil_text(path: Path, draw: random.Random) -> None:
    """Change what a file holds."""
    data = path.read_bytes()
    act = draw.randrange(5)
    if act == 0:
        path.write_bytes(data[: draw.randrange(len(data) + 1)])
    elif act == 1 and data:
        at = draw.randrange(len(data))
        path.write_bytes(data[:at] + draw.randbytes(draw.randint(1, 4)) + data[at + 1 :])
    elif act == 2:
        path.write_bytes(draw.choice([b"", b"\0" * 100, b"\xff\xfe", b"\n\n", b"text", b"[" * 10_000]))
    elif path.suffix == ".jsonl":
        lines = data.decode().splitlines()
        at = draw.randrange(len(lines))
        lines[at] = replaced_value(lines[at], draw)
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".json":
        path.write_text(replaced_value(data.decode(), draw))


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


def spoil_kind(path: Path, draw: random.Random, elsewhere: Path) -> None:
    """Put something else in the place of a file or folder."""
    is_folder = path.is_dir()
    shutil.rmtree(path) if is_folder else path.unlink()
    own = "one" in path.parts  # a run's; a cache may be kept elsewhere
    target = elsewhere / ("checkpoints" if is_folder and own else "file")
    makers: list[Callable[[Path], Any]] = [
        lambda path: None,
        folder,
        os.mkfifo,
        lambda path: path.symlink_to(target),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("/dev/zero"),
        Path.touch,
    ]
    draw.choice(makers if path.suffix in (".bin", ".safetensors") else [*makers, sparse])(path)


def damage(root: Path, draw: random.Random, elsewhere: Path) -> Path:
    """Damage one thing in a store; what it was."""
    places = [path for path in sorted(root.rglob("*")) if "charts" not in path.parts and path.name != "report.html"]
    path = draw.choice(places)
    if path.is_dir() or draw.random() < 0.4:
        spoil_kind(path, draw, elsewhere)
    else:
        spoil_text(path, draw)
    return path


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise KeyboardInterrupt  # which nothing takes for a fault of the disk

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def check(whole: Path, place: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage a copy of the store as ``seed`` says and ask some verbs about it."""
    draw = random.Random(seed)
    shutil.copytree(whole, place, symlinks=True)
    root, elsewhere = place / "runs", place / "elsewhere"
    before = state_of(elsewhere)
    spoilt = damage(root, draw, elsewhere)
    for verb in draw.sample(VERBS, 4):
        fits = verb[0] == "fit"
        arguments = [verb[0], str(root / verb[1]), *verb[2:]] if fits else [*verb, "--root", str(root)]
        said = f"seed {seed}: {spoilt.relative_to(place)} damaged, isoflop {' '.join(arguments)}"
        with no_longer_than(TOOK_TOO_LONG):
            code = invoke(arguments)
        told = "".join(capsys.readouterr())
        assert code in (0, 2, 3, 4, 5), f"{said}: {code}: {told}"
        assert "unexpected" not in told, f"{said}: {told}"
        assert SECRET not in told, f"{said}: {told}"
        assert state_of(elsewhere) == before, said
    shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_every_verb_answers_or_names_what_is_damaged(
    whole: Path, tmp_path: Path, block: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(6 * block, 6 * block + 6):
        check(whole, tmp_path / str(seed), seed, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(3))
def test_the_same_of_many_more(whole: Path, tmp_path: Path, block: int, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(1000 + 100 * block, 1000 + 100 * (block + 1)):
        check(whole, tmp_path / str(seed), seed, capsys)
