"""`isoflop compress` over a run and over what it wrote: values, sizes, files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isoflop.cli.main import invoke
from isoflop.compress.parametrizations.integer import quantised
from isoflop.core.recipe import Recipe
from isoflop.train.restore import published
from isoflop.train.run import train

ROUND = '{name="round", format="int4", block=32}'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compress")
    texts = root / "texts"
    texts.mkdir()
    for i in range(40):
        (texts / f"{i}.txt").write_text(f"Text number {i} is not long, and says {i} times the same. " * 20)
    recipe = Recipe.load(
        "small",
        f'source={{name="text", paths="{texts}/*"}}',
        "tokenizer=bytes",
        "model={name='transformer', d_model=32, layers=1}",
        "train={length=32, batch=4, evaluations=1}",
        "budget={steps=10}",
    )
    return train(recipe, root / "runs", name="a").path


def call(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    code = invoke(["compress", *args])
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out


def test_a_run_becomes_a_directory_of_rounded_weights(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b"
    line = call(capsys, str(run), "--with", "{name='sparsify', n=2, m=4}", "--with", ROUND, "--out", str(out))
    assert " -> " in line, line
    assert "bits per byte, 4.5 bits a weight" in line, line
    weights = load_file(out / "model.safetensors")
    matrix = weights["model.layers.0.mlp.up_proj.weight"]
    assert int((matrix.view(-1, 4) != 0).sum(1).max()) <= 2
    torch.testing.assert_close(quantised(matrix, 4, 32), matrix)
    assert json.loads((out / "compression.json").read_text())[1]["format"] == "int4"
    assert published(out).model(torch.arange(8)[None]).shape == (1, 8, 257)
    assert invoke(["compress", str(out), "--with", ROUND, "--out", str(tmp_path / "c")]) == 2
    assert "compressed before" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    assert "mlp.up" in call(capsys, str(out), "--inspect", "mxfp4_e2m1").replace("feed_forward", "mlp")


def test_what_cannot_be_leaves_nothing_behind(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b"
    for args, message in (
        (["--with", '{name="round", format="int9"}'], "int4"),
        (["--with", '{name="sparsify", n=3, m=2}'], "3 of 2"),
        (["--with", '{name="sparsify", n=2, m=5}'], "groups of 5"),
        (["--with", '{name="round", targets=["nowhere"]}'], "matches no matrix"),
        (["--with", ROUND, "--with", '{name="sparsify", sparsity=0.5}'], "put round last"),
        (["--with", "rond"], "round"),
        ([], "--with and --out"),
    ):
        assert invoke(["compress", str(run), *args, "--out", str(out)]) == 2, args
        assert message in capsys.readouterr().err, args
        assert list(tmp_path.iterdir()) == []
    assert invoke(["compress", str(run), "--inspect", "mxfp9"]) == 2
    assert "mxfp8_e4m3" in capsys.readouterr().err
