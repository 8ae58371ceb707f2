"""Fixtures that every suite may use."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: small tensors, and processes side by side
os.environ.pop("COLUMNS", None)  # which tests that run side by side are given: output has the width of a pipe

import toy

gc.disable()  # while tests are collected, which took twice as long where garbage was looked for among all of them

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is timed once per machine is kept elsewhere than in the user's cache directory."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data; tests that need it skip where it is absent."""
    path = Path(os.environ.get("ISOFLOP_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip("reference data not found: set ISOFLOP_SHARED to its folder")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 150 small English-like text files, the same on every machine."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(7)
    words = ["".join(draw.choice(list("aeioubcdfgst"), size=draw.integers(2, 7))) for _ in range(120)]
    weights = 1 / np.arange(1, 121)
    for number in range(150):
        text = " ".join(draw.choice(words, size=90, p=weights / weights.sum()))
        (folder / f"{number:03}.txt").write_text(f"{text}.\n")
    return folder


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus that a test may change."""
    return Path(shutil.copytree(corpus, tmp_path / "copy"))


TINY = """
name = "tiny"
seed = 3
tokenizer = "bytes"
objective = "next_token"

[source]
name = "text"
paths = ["{corpus}/*.txt"]

[model]
name = "transformer"
d_model = 16
layers = 1
mixer = {{name = "attention", heads = 2}}
feed_forward = {{name = "swiglu", hidden = 24}}

[optimizer]
name = "adamw"
lr = 0.01

[budget]
steps = 12

[train]
batch = 4
length = 16
evaluations = 2
checkpoints = 3
"""


@pytest.fixture(scope="session")
def tiny_recipe(corpus: Path) -> str:
    """The text of the recipe that ``tiny`` changes."""
    return TINY.format(corpus=corpus)


@pytest.fixture
def tiny(tiny_recipe: str, tmp_path: Path) -> Callable[..., Path]:
    """``tiny("budget.steps=3")`` writes a recipe that trains in a moment and returns its path."""

    def write(*overrides: str, name: str = "tiny.toml") -> Path:
        from isoflop.core.recipe import Recipe

        path = tmp_path / name
        path.write_text(Recipe.from_toml(tiny_recipe, *overrides).to_toml())
        return path

    return write


@pytest.fixture
def toys() -> Iterator[None]:
    """The parts of ``toy`` are legal in recipes for the time of one test."""
    with toy.registered():
        yield


LONGEST = {
    "test_another_device.py",
    "test_compare_for_real.py",
    "test_damaged_stores.py",
    "test_guides.py",
    "test_planning_page.py",
    "test_readme.py",
}
"""Files with tests of half a minute and more: begun last, one of them alone would keep the others waiting."""


def pytest_configure() -> None:
    """Signals end this process as in a terminal; below ``nohup`` SIGHUP does not, and its tests would wait for ever."""
    for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()  # what was collected is no garbage before the end
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)  # stable: the others stay in their order
