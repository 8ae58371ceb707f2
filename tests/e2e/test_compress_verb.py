"""`isoflop compress` over a run and over what it wrote: values, sizes, files, and what it refuses."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isoflop.cli.main import invoke
from isoflop.compress.parametrizations.integer import quantised
from isoflop.core import files
from isoflop.core.errors import DataError
from isoflop.core.recipe import Recipe
from isoflop.store.checkpoint import replacing
from isoflop.store.index import runs
from isoflop.store.run import Run
from isoflop.train.loop import Loop
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
    table = call(capsys, str(out), "--inspect", "mxfp4_e2m1").splitlines()
    assert any("mlp.up" in line.replace("feed_forward", "mlp") and " - " in line for line in table), "it has no text"


def test_what_cannot_be_leaves_nothing_behind(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b"
    for args, message in (
        (["--with", '{name="round", format="int9"}'], "int4"),
        (["--with", '{name="sparsify", n=3, m=2}'], "3 of 2"),
        (["--with", '{name="sparsify", n=2, m=5}'], "groups of 5"),
        (["--with", '{name="round", targets=["nowhere"]}'], "matches no matrix"),
        (["--with", ROUND, "--with", '{name="sparsify", sparsity=0.5}'], "put round last"),
        (["--with", "rond"], "round"),
        ([], "--with and one of"),
    ):
        assert invoke(["compress", str(run), *args, "--out", str(out)]) == 2, args
        assert message in capsys.readouterr().err, args
        assert list(tmp_path.iterdir()) == []
    assert invoke(["compress", str(run), "--inspect", "mxfp9"]) == 2
    assert "mxfp8_e4m3" in capsys.readouterr().err


def compressed(run: Path, name: str, *transforms: str) -> int:
    using = [word for transform in transforms for word in ("--with", transform)]
    return invoke(["compress", str(run), *using, "--name", name, "--root", str(run.parent)])


def test_a_run_becomes_another_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluated, continued, exported and trained on as any other, with the bill of what it was made from."""
    root = ["--root", str(run.parent)]
    assert compressed(run, "b", '{name="slice", hidden_widths=24}', ROUND) == 0
    line = capsys.readouterr().out
    b = Run.read(run.parent / "b")
    assert line.startswith(
        f"b: {Run.read(run).figure('value'):.4f} -> {b.figure('value'):.4f} bits per byte, 4.52 bits"
    )
    assert compressed(run, "b", '{name="slice", hidden_widths=24}', ROUND) == 0
    assert capsys.readouterr().out == line, "it is there already, and was not made again"
    assert b.finished
    assert b.result["tokens"] == 0
    (row,) = (each for each in runs(run.parent).records() if each["name"] == "b")
    assert row["optimizer"] == "slice, round"
    assert math.isnan(row["lr"]), "no optimizer has taken a step of it"
    assert b.ancestors[Run.read(run).hash].ledger["train"] == Run.read(run).ledger["train"]
    assert invoke(["eval", "b", *root]) == 0
    assert f"{b.figure('value'):.4f}" in capsys.readouterr().out
    assert invoke(["generate", "b", "--prompt", "Text", "--tokens", "4", *root]) == 0
    assert invoke(["export", "b", str(tmp_path / "out"), *root]) == 0
    source = f"source={b.recipe.source.model_dump_json()}".replace('":', '"=')
    settings = ["train={length=32, batch=4, evaluations=1}", "budget={steps=2}"]
    (tmp_path / "on.toml").write_text("\n".join([source, *settings]))
    assert invoke(["train", str(tmp_path / "on.toml"), "start=b", "--name", "c", *root]) == 0
    c = Run.read(run.parent / "c")
    assert set(c.ancestors) == {b.hash, Run.read(run).hash}
    assert c.recipe.model == b.recipe.model
    assert not c.recipe.transforms


def test_a_compressed_run_is_neither_compressed_again_nor_trained(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compressed(run, "once", ROUND) == 0
    once, root = run.parent / "once", ["--root", str(run.parent)]
    for refused, message in (
        (lambda: compressed(once, "twice", ROUND), "compressed before"),
        (lambda: compressed(run, "once", '{name="round", format="int3"}'), "is another run"),
        (lambda: compressed(run, "cache", ROUND), "the store uses"),
        (lambda: invoke(["train", str(once / "recipe.toml"), "--name", "twice", *root]), "isoflop compress"),
    ):
        assert refused() == 2, message
        assert message in capsys.readouterr().err
    assert not (run.parent / "twice").exists()
    assert Recipe.from_json(Run.read(once).resolved).hash == Run.read(once).hash
    assert Recipe.from_json(Run.read(run).resolved).hash == Run.read(run).hash


@pytest.mark.parametrize("moment", ["write_ancestors", "save", "rename"])
def test_killed_at_any_moment_it_is_done_again(
    moment: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a kill leaves the disk: nothing is cleaned up. The name is free, and the same command makes the run."""

    class Killed(BaseException):
        pass

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    name = f"killed-{moment}"
    owner = {"write_ancestors": Run, "rename": Path}.get(moment, Loop)
    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, killed)
        patch.setattr(files.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            compressed(run, name, ROUND)
    assert len(list(run.parent.glob(f".*{name}"))) == 1
    assert not (run.parent / name).exists()
    capsys.readouterr()
    assert compressed(run, name, ROUND) == 0
    assert not list(run.parent.glob(f".*{name}"))
    assert Run.read(run.parent / name).checkpoint() is not None


def test_a_full_disk_leaves_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.parent.iterdir())

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("isoflop.train.state.save_file", full)
    assert compressed(run, "full", ROUND) == 3
    assert "space" in capsys.readouterr().err
    assert sorted(run.parent.iterdir()) == before


def test_where_a_run_was_trained_does_not_matter(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A device that is not here is no reason: all of compression runs on the CPU, and so does what it measures."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere)
    resolved = json.loads((elsewhere / "resolved.json").read_text())
    resolved["train"]["device"] = "xpu"
    (elsewhere / "resolved.json").write_text(json.dumps(resolved))
    assert compressed(elsewhere, "small", ROUND) == 0, capsys.readouterr().err
    assert Run.read(tmp_path / "small").recipe.train.device == "cpu"


def test_weights_that_are_not_numbers_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (weights,) = broken.glob("checkpoints/*/model.safetensors")
    with replacing(weights.parent, {weights.name}):
        tensors = load_file(weights)
        tensors["blocks.0.mixer.q.weight"][0, 0] = float("nan")
        save_file(tensors, weights)
    assert compressed(broken, "c", ROUND) == 4
    assert "blocks.0.mixer.q.weight" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_inspection_tells_how_far_the_gradient_is_off(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The coarser the elements, the farther; gains that collapse are found; without text there is no gradient."""
    told = {f: json.loads(call(capsys, str(run), "--inspect", f, "--json")) for f in ("mxint8", "mxfp4_e2m1")}
    fine, coarse = told["mxint8"], told["mxfp4_e2m1"]
    assert 0 < 4 * fine["gradient"] < coarse["gradient"] < 2
    assert all(0 < facts["gradient"] < 2 for each in told.values() for facts in each["weights"].values())
    worst = [(facts["collapsed"], facts["saturated"], facts["gradient"]) for facts in coarse["weights"].values()]
    assert worst == sorted(worst, reverse=True)
    collapsed = tmp_path / "collapsed"
    shutil.copytree(run, collapsed)
    (weights,) = collapsed.glob("checkpoints/*/model.safetensors")
    with replacing(weights.parent, {weights.name}):
        tensors, draw = load_file(weights), torch.Generator().manual_seed(0)
        gains = {name for name in tensors if "norm" in name}
        tensors |= {name: torch.normal(0.92, 0.005, tensors[name].shape, generator=draw) for name in gains}
        save_file(tensors, weights)
    found = json.loads(call(capsys, str(collapsed), "--inspect", "mxfp8_e4m3", "--json"))["weights"]
    assert set(list(found)[: len(gains)]) == gains, "they come first"
    assert all(found[name]["collapsed"] == 1 and found[name]["bias"] < -0.04 for name in gains)
    assert "gradient is off by" in call(capsys, str(run), "--inspect", "mxint8")

    def gone(*args: object, **kwargs: object) -> None:
        raise DataError("the corpus has changed")

    monkeypatch.setattr("isoflop.pipelines.inspecting.restore", gone)
    assert invoke(["compress", str(run), "--inspect", "mxint8"]) == 0
    out, err = capsys.readouterr()
    assert "no gradient could be taken: the corpus has changed" in err
    assert "gradient is off" not in out


def test_the_page_on_compression_shows_code_that_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compression.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) > 1
    exec("\n".join(blocks), {})
