"""The guides are true: every file, command and example of a page, in the order in which it stands there."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from isoflop.cli.main import invoke

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
PAGES = ("train", "generate", "compare", "report", "memory", "objective", "optimizers", "diffusion", "compress")
FENCE = re.compile(r"(?:`([\w./-]+)`:\n\n)?```(\w*)\n(.*?)```", re.DOTALL)


class Reader:
    """Somebody who does what a page says, in one folder: writes its files, types its commands, runs its Python.

    ``environment`` is that of a shell, in which a page may export variables and install packages.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.packages: list[Path] = []
        self.python = ""
        self.said = ""

    def follow(self, page: str) -> None:
        for file, language, text in FENCE.findall(page):
            if file:
                (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / file).write_text(text)
            elif language == "python":
                self.python += text
            elif language == "":
                for line in text.strip().splitlines():
                    self.type(line)
        if self.python:
            self.run([sys.executable, "-c", self.python])

    def type(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        match words:
            case ["isoflop", *arguments] if self.packages:
                self.run([sys.executable, "-m", "isoflop", *arguments])
            case ["isoflop", *arguments]:  # in this process, which has loaded torch already
                with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
                    code = invoke(arguments)
                self.said += out.getvalue() + err.getvalue()
                assert code == 0, f"{line}\n{self.said[-3000:]}"
            case ["export", assignment]:
                name, _, value = assignment.partition("=")
                self.environment[name] = value
            case ["pip", "install", "-e", package]:
                self.install(self.folder / package)
            case _:
                raise AssertionError(f"no such command is known here: {line}")

    def install(self, package: Path) -> None:
        """What pip would do with a package of modules: its name and entry points are found beside them."""
        self.packages.append(package)
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        about = package / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items())
                 for group, points in project["entry-points"].items()]  # fmt: skip
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        path = [str(package), self.environment.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))

    def run(self, command: list[str]) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        self.said += done.stdout + done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of the standard library, which several pages train on."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def reader(tmp_path: Path, corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """One with a folder ``texts``, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOFLOP_ROOT", raising=False)
    shutil.copytree(corpus, tmp_path / "texts")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cache").symlink_to(cache)
    return Reader(tmp_path)


SAID = {
    "compress": ("4.5 bits a weight", "3.5 bits", "collapsed", "a llama", "recovered: ", "taught: "),
    "train": ("goes on from", "texts/002.txt", "report.html", "removed"),
    "generate": ("The first", "sample 3 of 3", "log-probability", '"ended"', "6 of them new", "0 of them new", "1 1 "),
    "compare": ("report.html", "freed", "muon", "squared-relu"),
    "report": ("columns guessed", "loss at N=1e+09, D=2e+10", "report.html", "index.html"),
    "memory": ("Best: ", "Yes: 2 runs (2 done).", "No: no run here has 'soap'", "12 runs of tuning written to out"),
    "objective": ("z_loss", "bits per byte"),
    "diffusion": ("<= ", "8 random masks of each window", "8 random times of each window"),
    "optimizers": ("['hidden.weight']", "did you mean lr", "minimise the negative", "is the state of Lion"),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_reader_who_follows_the_page_gets_there(page: str, reader: Reader) -> None:
    reader.follow((GUIDE / f"{page}.md").read_text())
    for words in SAID[page]:
        assert words in reader.said, (words, reader.said[-3000:])


def test_every_link_of_the_pages_leads_somewhere() -> None:
    index = (GUIDE.parent / "README.md").read_text()
    for page in GUIDE.glob("*.md"):
        assert f"](guide/{page.name})" in index, page
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert target.startswith("http") or (GUIDE / target).exists(), (page, target)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", index):
        assert target.startswith("http") or (GUIDE.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("page", ["train", "report"])
def test_an_installed_wheel_is_all_that_a_page_needs(page: str, reader: Reader, tmp_path: Path) -> None:
    """Nothing of the checkout is in reach: what the package needs lies within it."""
    root, built = GUIDE.parents[1], tmp_path / "built"
    shutil.copytree(root / "src", built / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, built)
    pip = [sys.executable, "-m", "pip", "-q"]
    reader.run([*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path / "dist"), str(built)])
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    reader.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)])
    shutil.rmtree(built)
    reader.environment["PYTHONPATH"] = str(tmp_path / "site")
    reader.run([sys.executable, "-c", "import isoflop; print(isoflop.__file__)"])
    assert str(tmp_path / "site") in reader.said
    reader.packages.append(tmp_path / "site")
    reader.follow((GUIDE / f"{page}.md").read_text())
    for words in SAID[page]:
        assert words in reader.said, words
