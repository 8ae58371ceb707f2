"""Published models come in and ours go out, as a user does it: train start=DIR, eval, generate, export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.models.hf.directory import load
from isoflop.pipelines.adapters import publish_adapter
from isoflop.pipelines.publishing import publish_run
from isoflop.train.restore import trained
from isoflop.train.run import train
from published_toys import directory, write

IDS = 301


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a byte-level tokenizer of 301 ids and an embedding of 304 rows."""
    return directory(tmp_path / "model", "llama", tokenizer=True, vocab_size=304)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat; 12 dogs sat on 3 logs.\n" * 40)
    return path


def recipe(model: Path, corpus: Path, *changes: str) -> Recipe:
    settings = (f'start="{model}"', "train={length=16, batch=2, evaluations=1}", "budget.steps=3", *changes)
    source = f'[source]\nname = "text"\npaths = ["{corpus}/*.txt"]\n'
    return Recipe.from_toml(f'name = "tuned"\n{source}[budget]\nsteps = 3\n', *settings)


def out(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert invoke([str(each) for each in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_run_begins_with_a_published_model_and_is_named_by_what_it_is(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    begun = recipe(model, corpus)
    assert begun.start is not None
    assert begun.start.published
    assert begun.vocab_size == 304
    assert begun.model.d_model == 12  # type: ignore[attr-defined]
    assert begun.tokenizer.name == "pretrained"
    moved = shutil.copytree(model, tmp_path / "moved")
    tensors = load_file(moved / "model.safetensors")
    write(moved, {**tensors, "model.norm.weight": tensors["model.norm.weight"] + 1})
    other = recipe(moved, corpus)
    assert other.start is not None
    assert (other.start.recipe, other.start.vocab_size) == (begun.start.recipe, 304)
    assert other.start.digest != begun.start.digest
    assert Recipe.from_toml(begun.to_toml()).hash == begun.hash


def test_a_rate_of_next_to_nothing_leaves_the_published_model(model: Path, corpus: Path, tmp_path: Path) -> None:
    run = train(
        recipe(model, corpus, "optimizer={name='signum', lr=1e-30, weight_decay=0}"), tmp_path / "runs", audit=True
    )
    ours, x = trained(run), torch.randint(0, IDS, (1, 16))
    assert torch.equal(ours.model(x), load(model)[0](x))
    assert ours.tokenizer is not None
    assert ours.tokenizer.decode(ours.tokenizer.encode("the cat").tolist()) == "the cat"
    assert run.ancestors == {}, "what a published model cost is not known, and nothing is claimed"


def test_training_goes_on_from_it_and_its_own_runs_from_there(model: Path, corpus: Path, tmp_path: Path) -> None:
    first = train(recipe(model, corpus, "parametrization={name='lora', rank=2}"), tmp_path / "runs")
    assert first.result["status"] == "done"
    form = publish_run(first, tmp_path / "out")
    assert (form.family.model_type, form.config["max_position_embeddings"]) == ("llama", 64)
    x = torch.randint(0, IDS, (1, 16))
    torch.testing.assert_close(load(tmp_path / "out")[0](x), trained(first).model(x), rtol=0, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "what the published model that it began with cost is not known here" in card
    assert str(tmp_path) not in card
    second = recipe(tmp_path / "out", corpus)
    assert second.model == first.recipe.model
    shutil.rmtree(model)  # a run needs its start no more once it has begun, but for its tokenizer's file
    assert trained(first).tokenizer is not None


def test_a_run_goes_out_whole_whatever_became_of_its_start_but_no_adapter_of_another_base(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    run = train(recipe(model, corpus, "parametrization={name='lora', rank=2}"), tmp_path / "runs")
    publish_run(run, tmp_path / "before")
    tensors, config = load_file(model / "model.safetensors"), (model / "config.json").read_text()
    write(model, {**tensors, "model.norm.weight": tensors["model.norm.weight"] + 1})
    with pytest.raises(DataError, match=r"holds other weights than those that tuned.* began with"):
        publish_adapter(run, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    for name, text in {"broken": "{", "another": config.replace("llama", "qwen2").replace("64", "99")}.items():
        (model / "config.json").write_text(text)
        form = publish_run(run, tmp_path / name)
        assert (form.family.model_type, form.config["max_position_embeddings"]) == ("llama", 16)
        assert (tmp_path / name / "model.safetensors").read_bytes() == (
            tmp_path / "before" / "model.safetensors"
        ).read_bytes()


def test_a_directory_that_changed_is_refused(model: Path, corpus: Path, tmp_path: Path) -> None:
    begun = recipe(model, corpus)
    tensors = load_file(model / "model.safetensors")
    write(model, {**tensors, "model.norm.weight": tensors["model.norm.weight"] + 1})
    with pytest.raises(DataError, match="holds weights with digest"):
        train(begun, tmp_path / "runs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("model={name='transformer', layers=3}",), r"start: .*model\.layers 2, not 3.*leave out what is the start's"),
        (('start={{run="{model}", optimizer=true}}',), "a published model comes without an optimizer's state"),
        (("tokenizer=bytes",), r"start: .*tokenizer"),
    ],
)
def test_what_does_not_fit_a_published_model_is_refused(
    model: Path, corpus: Path, changes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(model, corpus, *(change.format(model=model) if "{model}" in change else change for change in changes))


def test_broken_directories_are_problems_of_the_recipe(model: Path, corpus: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"start: .*holds neither model\.safetensors"):
        recipe(model, corpus)


def test_a_published_model_is_a_teacher(model: Path, corpus: Path, tmp_path: Path) -> None:
    student = recipe(model, corpus, f'models.teacher="{model}"', "objective=distill")
    run = train(student.with_("objective.weight=1"), tmp_path / "runs", audit=True)
    assert run.result["status"] == "done"
    assert run.metrics("step")[0]["loss"] == pytest.approx(0, abs=1e-5), "student and teacher are one at first"


def test_eval_generate_and_export_of_a_directory(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = json.loads(out(capsys, "eval", model, "--text", text, "--json"))
    assert 1 < measured["bits_per_byte"]["value"] < 12
    assert invoke(["eval", str(model)]) == 2
    assert "name one: --text FILE" in capsys.readouterr().err
    assert invoke(["generate", str(model), "--prompt", "the cat", "--tokens", "5"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("the cat")
    assert "the model knows 304 ids, 3 more than the tokenizer" in said.err
    target = tmp_path / "out"
    assert json.loads(out(capsys, "export", model, target, "--dtype", "bfloat16", "--json"))["model_type"] == "llama"
    again = json.loads(out(capsys, "eval", target, "--text", text, "--json"))
    assert again["bits_per_byte"]["value"] == pytest.approx(measured["bits_per_byte"]["value"], rel=0.01)
    assert {path.name for path in target.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}


@pytest.mark.parametrize("tokenizer", ["bytes", "{name='bpe', vocab_size=300}"])
def test_a_run_goes_out_and_comes_in_again(
    tokenizer: str, tiny: Any, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", tmp_path / "runs")
    out(capsys, "train", tiny(f"tokenizer={tokenizer}", "averaging=ema"), *root)
    target = tmp_path / "out"
    assert "a llama (LlamaForCausalLM)" in out(capsys, "export", "tiny", target, *root)
    ours = json.loads(out(capsys, "eval", "tiny", "--text", text, *root, "--json"))
    theirs = json.loads(out(capsys, "eval", target, "--text", text, "--json"))
    assert ours["bits_per_byte"]["n"] == theirs["bits_per_byte"]["n"]
    card = (target / "README.md").read_text()
    assert "bits per byte, on held-out text" in card
    assert "FLOPs" in card
    assert str(tmp_path) not in card
    how = ("--prompt", "abc", "--tokens", 9, "--seed", 3, *root)
    assert out(capsys, "generate", "tiny", *how) == out(capsys, "generate", target, *how)
    assert invoke(["export", "tiny", str(target), *map(str, root)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_model_that_sees_what_follows_does_not_go_out(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", str(tmp_path / "runs"))
    out(capsys, "train", tiny("objective=masked", "budget.steps=2"), *root)
    assert invoke(["export", "tiny", str(tmp_path / "out"), *root]) == 2
    assert "was trained by masked to see what follows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
