"""A run of nested widths through the command line: cut, evaluated, drafting for itself; and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.store.run import Run
from isoflop.train.loop import Loop
from isoflop.train.restore import published, trained
from isoflop.train.run import train

NESTED = "model={name='transformer', d_model=16, layers=2, feed_forward={name='nested', widths=[8, 16, 40]}}"
EXPERTS = "model={name='transformer', d_model=16, layers=2, feed_forward={name='experts', experts=4, hidden=8}}"


def recipe(corpus: Path, *changes: str) -> Recipe:
    return Recipe.load(
        "small",
        f'source={{name="text", paths="{corpus}/*"}}',
        "tokenizer=bytes",
        "train={length=32, batch=4, evaluations=1}",
        "budget={steps=9}",
        *changes,
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested") / "texts"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.txt").write_text(f"Text number {i} is not long, and says {i} times the same. " * 20)
    return folder


@pytest.fixture(scope="module")
def root(texts: Path) -> Path:
    """A root with a nested run, one of experts, and one that reads other ids."""
    root = texts.parent / "runs"
    train(recipe(texts, NESTED), root, name="nested")
    train(recipe(texts, EXPERTS), root, name="experts")
    train(recipe(texts, "tokenizer={name='bpe', vocab_size=260}"), root, name="other")
    return root


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[str, str]:
    code = invoke(list(args))
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out, told.err


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert invoke(list(args)) == 2
    return re.sub(r"\s+", " ", capsys.readouterr().err)


@pytest.mark.parametrize("widths", [[16], [8, 40]], ids=str)
def test_a_run_is_cut_to_a_width_or_to_one_a_layer(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], widths: list[int]
) -> None:
    """It is an ordinary run of a plain model, which computes what the nested one computes there, and is exported."""
    name = f"cut-{'-'.join(map(str, widths))}"
    part = json.dumps(widths if len(widths) > 1 else widths[0])
    with_ = f"{{name='slice', hidden_widths={part}}}"
    call(capsys, "compress", str(root / "nested"), "--with", with_, "--root", str(root), "--name", name)
    whole, small = trained(Run.read(root / "nested")), trained(Run.read(root / name))
    assert [inner.fields()["hidden"] for _, inner in small.recipe.model.blocks()] == (widths * 2)[:2]  # type: ignore[attr-defined]
    ids = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))
    for block, width in zip(whole.model.blocks, (widths * 2)[:2], strict=True):  # type: ignore[arg-type]
        block.feed_forward.take((8, 16, 40).index(width))
    with torch.no_grad():
        torch.testing.assert_close(small.model(ids), whole.model(ids), rtol=1e-6, atol=1e-6)
    call(capsys, "eval", str(root / name))
    if len(widths) == 1:
        call(capsys, "export", str(root / name), str(tmp_path / "hf"))
        assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "llama"
        with torch.no_grad():
            found = published(tmp_path / "hf").model(ids)
            torch.testing.assert_close(found, small.model(ids), rtol=0, atol=1e-4)


def test_a_nested_run_is_exported_as_a_plain_model_and_experts_are_refused_by_name(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "export", str(root / "nested"), str(tmp_path / "hf"))
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["intermediate_size"] == 40
    assert "feed-forward experts" in refused(capsys, "export", str(root / "experts"), str(tmp_path / "no"))
    with_ = "{name='slice', hidden_widths=4}"
    told = refused(capsys, "compress", str(root / "experts"), "--with", with_, "--root", str(root), "--name", "no")
    assert "no feed-forward of the model has units in an order along which it could be cut" in told


@pytest.mark.parametrize("draft", ["0.2", "0.4", '"nested"', '"ngrams"'])
def test_greedy_text_is_the_same_with_every_draft(root: Path, capsys: pytest.CaptureFixture[str], draft: str) -> None:
    asked = ["generate", str(root / "nested"), "--prompt", "Text number", "--tokens", "24", "--root", str(root)]
    expected, _ = call(capsys, *asked, "--decoder", "{name='sample', temperature=0}")
    decoder = f'{{name="speculative", draft={draft}, temperature=0}}'
    found, told = call(capsys, *asked, "--decoder", decoder)
    assert found == expected
    assert re.search(r"[\d.]+ acceptance, [\d.]+ tokens a call, [\d.e+]+ FLOPs a token", told)
    record = json.loads(call(capsys, *asked, "--json", "--decoder", decoder)[0])
    assert record["figures"]["tokens_a_call"] == record["tokens"] / record["calls"]
    if draft == '"nested"':
        assert record["figures"]["acceptance"] == 1


def test_drafts_that_do_not_fit_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(run: str, draft: str) -> str:
        decoder = f'{{name="speculative", draft={draft}}}'
        return refused(capsys, "generate", str(root / run), "--prompt", "a", "--decoder", decoder, "--root", str(root))

    assert "its vocabulary is another than the model's" in told("nested", '"other"')
    assert "none of the model's widths (shares 0.2, 0.4, 1) use 0.2" in told("nested", "0.25").replace(";", "")
    assert "no hidden units of which the first could stand alone" in told("experts", "0.5")
    assert "nowhere" in told("nested", '"nowhere"')


@pytest.mark.parametrize("model", [NESTED, EXPERTS], ids=["nested", "experts"])
def test_a_run_that_was_broken_off_ends_with_the_same_bytes(
    texts: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    step = Loop.train_step

    def breaking(loop: Any) -> Any:
        if loop.step == 5:
            raise KeyboardInterrupt
        return step(loop)

    made = recipe(texts, model)
    monkeypatch.setattr(Loop, "train_step", breaking)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path, name="broken")
    monkeypatch.setattr(Loop, "train_step", step)
    again = train(made, tmp_path, name="broken")
    whole = Run.read(root / ("nested" if model == NESTED else "experts"))
    assert any("resumed" in str(event) for event in again.events())
    assert again.result["weights_sha256"] == whole.result["weights_sha256"]
    files = [load_file(run.checkpoint()[1] / "model.safetensors") for run in (whole, again)]  # type: ignore[index]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
