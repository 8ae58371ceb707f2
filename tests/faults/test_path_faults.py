"""Paths as people type them, and output that goes where it was asked to go and nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.digests import digest_bytes
from isoflop.data.tokenizers.file import FilePart

Tiny = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory; the working directory is another one, and empty."""
    place, here = tmp_path / "home", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(here)
    return place


def test_a_tilde_is_the_home_directory_wherever_a_path_comes_from_outside(
    home: Path, tiny: Tiny, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "texts").symlink_to(corpus)
    (home / "tiny.toml").write_text(tiny('source.paths="~/texts/*.txt"', "budget.steps=2").read_text())
    assert invoke(["train", "~/tiny.toml", "--root=~/runs", "--name=first"]) == 0
    (home / "tokenizer.json").write_text("{}")
    assert FilePart(path="~/tokenizer.json").inputs() == digest_bytes(b"{}")
    monkeypatch.setenv("ISOFLOP_ROOT", "~/runs")
    capsys.readouterr()
    assert invoke(["runs", "--json"]) == 0
    assert [row["path"] for row in json.loads(capsys.readouterr().out)] == ["first"]
    for arguments in (
        ["runs", "show", "~/runs/first"],
        ["report", "~/runs/first"],
        ["show", "--markdown=~/cards.md"],
    ):
        assert invoke(arguments) == 0
    assert (home / "cards.md").exists()
    (home / "table.csv").write_text("C,loss\n" + "".join(f"1e{k},{2 + 2**-k}\n" for k in range(1, 9)))
    assert invoke(["fit", "~/table.csv", "--law", "power_floor", "--columns", "x=C", "--out=~/fits"]) == 0
    for arguments in (["convert", "~/none", "~/out"], ["merge", "fold", "~/none", "~/none", "~/out"]):
        capsys.readouterr()
        assert invoke(arguments) in (2, 3)
        assert f"{home}/none" in capsys.readouterr().err
    assert invoke(["train", "~/tiny.toml", "--root=~nobody-here/runs"]) == 2
    assert "user who is not known" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_a_file_where_a_folder_is_wanted_is_said_to_be_one(
    home: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").touch()
    verbs = (
        (["train", str(tiny()), "--root", str(home / "file")], "file: is a file, not a folder"),
        (["train", str(tiny()), "--root", str(home / "file" / "runs")], "no such folder can be made"),
        (["show", "--markdown", str(home / "file" / "cards.md")], "no such folder can be made"),
        (["runs", "--root", str(home / "file")], "is no directory of runs"),
    )
    for arguments, message in verbs:
        assert invoke(arguments) == 3
        assert message in capsys.readouterr().err


def test_an_empty_path_is_no_path(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["runs", "--root="], ["show", "--markdown="], ["fit", ""], ["runs", "show", ""]):
        assert invoke(arguments) == 2
        assert "is an empty path" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("verb", [["runs"], ["runs", "studies"], ["runs", "index"]])
def test_verbs_that_read_leave_nothing_where_there_is_no_root(
    home: Path, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "photos").mkdir()
    assert invoke([*verb, "--root", str(home)]) == 0
    assert [path.name for path in home.iterdir()] == ["photos"]
    assert invoke(["fit", str(home)]) == 3
    assert [path.name for path in home.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Path.mkdir, "a folder"),
        (os.mkfifo, "a named pipe"),
        (lambda path: path.symlink_to("/dev/null"), "a link"),
        (lambda path: path.symlink_to("nowhere"), "a link"),
    ],
)
def test_output_replaces_regular_files_only(
    home: Path, make: Callable[[Path], None], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "cards.md"
    make(path)
    before = path.lstat()
    assert invoke(["show", "--markdown", str(path)]) == 3
    assert f"cards.md: is {what}, and output goes to regular files only" in capsys.readouterr().err
    assert path.lstat() == before


@pytest.mark.parametrize("name", ["cache", "machine.json", "index.sqlite"])
def test_reserved_names_are_refused_before_anything_runs(
    home: Path, tiny: Tiny, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["train", str(tiny()), "--root", str(home / "runs"), "--name", name]) == 2
    assert invoke(["compare", "demo", f"name={name}", "--root", str(home / "runs")]) == 2
    assert capsys.readouterr().err.count("a name that the store uses itself") == 2
    assert not (home / "runs").exists()
