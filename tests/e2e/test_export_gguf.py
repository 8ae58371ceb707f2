"""A run as a GGUF file, as a user would ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.train.run import train

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")


def test_a_run_becomes_a_gguf_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text(f"it's test {number} of many words\n" * 20)
    recipe = Recipe.from_json(
        {
            "name": "tiny",
            "source": {"name": "text", "paths": [f"{texts}/*.txt"]},
            "model": {"name": "transformer", "d_model": 32, "layers": 2},
            "budget": {"steps": 2},
            "train": {"batch": 2, "length": 16, "evaluations": 1},
        }
    )
    run = train(recipe, tmp_path / "runs")
    out = tmp_path / "tiny.gguf"
    assert invoke(["export", str(run.path), str(out), "--dtype", "q8_0"]) == 0
    fields = {name: field.contents() for name, field in gguf.GGUFReader(out).fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["llama.block_count"] == 2
    assert len(fields["tokenizer.ggml.tokens"]) == 257
    assert [path.name for path in tmp_path.iterdir() if "tiny" in path.name] == ["tiny.gguf"]
    capfd.readouterr()
    assert invoke(["export", str(run.path), str(out)]) == 2
    assert "exists already" in capfd.readouterr().err
    assert invoke(["export", str(run.path), str(tmp_path / "other.gguf"), "--dtype", "q8"]) == 2
    assert "did you mean q8_0?" in capfd.readouterr().err
    assert invoke(["export", str(run.path), str(tmp_path / "adapter"), "--adapter"]) == 2
    assert "did not begin with a published model" in capfd.readouterr().err
