"""What a terminal, a pipe or an encoding cannot show: the verb ends as it would have, and nothing is left out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from isoflop.cli.main import invoke
from isoflop.cli.training import live_bar
from isoflop.core.scale import Scale
from isoflop.store.run import Run
from isoflop.train.watch import Progress
from report_sample import make_study

Tiny = Callable[..., Path]

EVERY_VERB = """
import json, sys
from isoflop.cli.main import run
for arguments in json.loads(sys.argv[1]):
    try:
        run(arguments)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
"""


@pytest.mark.slow
def test_what_the_outputs_encoding_lacks_is_replaced_in_every_verb(tiny: Tiny, tmp_path: Path) -> None:
    root, home = ["--root", str(tmp_path)], tmp_path / "名前-[é]"
    assert invoke(["train", str(tiny("budget.steps=1")), *root, "--name", "mine"]) == 0
    home.mkdir()
    study = make_study().model_copy(update={"title": "тест ×"})
    study.write(home / "study.json")
    (tmp_path / "mine").rename(tmp_path / "日本")
    table = tmp_path / "表.csv"
    table.write_text("N,D,loss\n" + "".join(f"{n}e6,{d}e8,{1 + 1 / n + 1 / d}\n" for n in (1, 2, 4) for d in (1, 2, 3)))
    verbs: list[list[str]] = [
        ["generate", "日本", *root, "--prompt", "→", "--tokens", "20", "--threads", "1"],
        ["generate", "日本", *root, "--prompt", "→", "--tokens", "2", "--threads", "1", "--json"],
        ["eval", "日本", *root, "--threads", "1"],
        ["runs", *root],
        ["runs", *root, "--json"],
        ["runs", "show", "日本", *root],
        ["runs", "studies", *root],
        ["runs", "index", *root],
        ["report", "日本", *root],
        ["report", str(home), *root],
        ["fit", str(table), "--law", "chinchilla"],
        ["show", "optimizer"],
        ["schema"],
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-c", EVERY_VERB, json.dumps(verbs)]
    done = subprocess.run(command, capture_output=True, encoding="latin-1", env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "?" in done.stdout
    objects = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(('{"prompt', '[{"id'))]
    assert objects[0]["prompt"] == "→", "JSON escapes what it cannot show, and so loses nothing"
    assert objects[1][0]["name"] == "日本"


def full_pipe() -> tuple[int, int]:
    """Both ends of a pipe that takes no byte more, and does not let its writer wait."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b" " * 4096)
    return reader, writer


def test_messages_are_lost_and_results_wait_where_a_reader_is_slow() -> None:
    reader, writer = full_pipe()
    command = [sys.executable, "-c", "import sys; from isoflop.cli.main import run; run(sys.argv[1:])"]
    failed = subprocess.run([*command, "show", "optimiser"], stderr=writer, stdout=subprocess.DEVNULL, timeout=60)
    assert failed.returncode == 2, "nobody waits for a message to be read"
    with subprocess.Popen([*command, "schema"], stdout=writer) as process:
        os.close(writer)
        with os.fdopen(reader) as file:
            told = file.read()
    assert process.returncode == 0
    assert "slot_optimizer" in json.loads(told)["$defs"]


def rows(root: Path, capsys: pytest.CaptureFixture[str], *verb: str) -> list[str]:
    assert invoke(["runs", *verb, "--root", str(root)]) == 0
    return capsys.readouterr().out.splitlines()


def test_names_in_brackets_and_whole_ids_are_listed(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x" * 55
    assert invoke(["train", str(tiny("budget.steps=1")), "--root", str(tmp_path), "--name", long]) == 0
    (tmp_path / long).rename(tmp_path / f"[red]{long}\\[bold]")
    (tmp_path / "[bold]").mkdir()
    make_study().model_copy(update={"name": "[link=x]"}).write(tmp_path / "[bold]" / "study.json")
    capsys.readouterr()
    run = Run.read(tmp_path / f"[red]{long}\\[bold]")
    _, row = rows(tmp_path, capsys)
    assert row.startswith(f"{run.id} ")
    assert f"[red]{long}\\[bold]" in row, "a pipe takes lines of any length"
    assert "…" not in row
    assert rows(tmp_path, capsys, "studies")[1].startswith("[bold] "), "studies are told apart by their directories"
    monkeypatch.setenv("COLUMNS", "80")
    lines = rows(tmp_path, capsys)
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith(f"{run.id} ")
    assert "…" not in "".join(lines)
    width = lines[0].index("status") - lines[0].index("name")
    names = "".join(line[lines[0].index("name") :][: width - 1].strip() for line in lines[1:])
    assert names == f"[red]{long}\\[bold]"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("horizon", [0, 1_000_000])
def test_the_live_bar_keeps_step_and_time_at_any_width(width: int, horizon: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    with live_bar(console) as show:
        for step in (123_455, 123_456):
            show(Progress(step, horizon, 3.21, 60.0, 1_234_567.0, 0.41, 1.234, False, Scale("bits per byte")))
    last = [line for line in file.getvalue().replace("\r", "\n").splitlines() if "123456" in line][-1]
    place = "step 123456/1000000  7 min 6 s left" if horizon else "step 123456  1 min 0 s spent"
    assert f"{place}  loss 3.210  " in last
    assert ("of the matmul rate" in last) == (width >= 120)
    assert ("━" in last) == (width >= 140)


def test_a_recipe_from_a_pipe_is_stored_as_it_came(tiny: Tiny, tmp_path: Path) -> None:
    text = "# piped\n" + tiny("budget.steps=1").read_text()
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    try:
        assert invoke(["train", f"/dev/fd/{reader}", "--root", str(tmp_path), "--name", "piped"]) == 0
    finally:
        os.close(reader)
    assert (tmp_path / "piped" / "recipe.toml").read_text() == text
