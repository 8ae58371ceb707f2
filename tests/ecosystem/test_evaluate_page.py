"""docs/guide/evaluate.md: its files, commands and Python, run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from isoflop.cli.main import invoke

for _library in ("lm_eval", "tensorboard", "trackio"):
    pytest.importorskip(_library, reason="needs the extras eval and track")

pytestmark = pytest.mark.filterwarnings("default")  # theirs
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "evaluate.md"
FENCE = re.compile(r"(?:`([\w.]+)`:\n\n)?```(\w*)\n(.*?)```", re.DOTALL)
SAID = ("acc_norm", "runs.csv: 1 runs", "muon saves compute", "lion saves steps", "taken on trust", "capitals {'acc'")


def test_everything_on_the_page_works(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import trackio.sqlite_storage
    import trackio.utils

    for module in (trackio, trackio.utils, trackio.sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOFLOP_ROOT", raising=False)
    shutil.copytree(corpus, tmp_path / "texts")
    for file, language, text in FENCE.findall(PAGE.read_text()):
        if file:
            Path(file).write_text(text)
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), {})
        else:
            for line in text.strip().splitlines():
                assert invoke(shlex.split(line)[1:]) == 0, (line, capsys.readouterr())
    said = capsys.readouterr().out
    for words in SAID:
        assert words in said, (words, said)
    assert list(Path("runs/mine/tensorboard").iterdir())
    assert Path("trackio/isoflop.db").exists()
    assert Path("curves.parquet").exists()
