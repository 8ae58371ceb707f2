"""docs/merging.md: its files and commands, run as they stand there on tiny checkpoints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.store.tensors import Checkpoint
from merge_models import save, tensors_of

PAGE = Path(__file__).parents[2] / "docs" / "merging.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("base", "math", "code")):
        save(Path(name), tensors_of(number))
    Path("pickled").mkdir()
    torch.save({"w": torch.ones(3)}, "pickled/pytorch_model.bin")


def test_every_file_and_command_of_the_page_works(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    ran = []
    for language, text in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.S):
        if language in ("toml", "yaml"):
            name = re.match(r"# file: (\S+)\n", text)
            assert name, text
            Path(name[1]).write_text(text)
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), {})
        else:
            for line in text.strip().splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "isoflop"
                assert invoke(arguments) == 0, (line, capsys.readouterr().err)
                ran.append(line)
    assert len(ran) >= 5
    output = capsys.readouterr().out
    assert "memory" in output
    assert "disk" in output
    assert "time" in output
    assert Checkpoint("stacked").layers == 4
    assert Checkpoint("from-yaml").dtype == "BF16"
    assert Checkpoint("small", "adapter_model").tensors
    assert set(Checkpoint("folded").tensors) == set(Checkpoint("base").tensors)
    assert Checkpoint("safe").read("w").tolist() == [1, 1, 1]


def test_errors_of_the_verbs_have_their_exit_codes(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.toml").write_text('method = "ties"\nmodels = [{ path = "math" }]\n')
    Path("good.toml").write_text('method = "linear"\nmodels = [{ path = "math" }]\n')
    assert invoke(["merge", "bad.toml", "out"]) == 2
    assert "base: ties needs one" in capsys.readouterr().err
    assert invoke(["merge", "missing.toml", "out"]) == 2
    assert invoke(["merge", "good.toml", "math"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert invoke(["merge", "good.toml", "out", "--json"]) == 0
    assert '"tensors": 12' in capsys.readouterr().out
    assert invoke(["merge", "good.toml", "again", "--dry-run", "--json"]) == 0
    assert '"memory_bytes"' in capsys.readouterr().out
    assert not Path("again").exists()
    assert invoke(["convert", "math", "out2"]) == 3
    assert invoke(["convert", "nowhere", "out2"]) == 2
