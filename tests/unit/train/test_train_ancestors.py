"""Runs that start from other runs or use their models: what they inherit, what they refuse, what they are charged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.references import root
from isoflop.report.page import write_report
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.restore import trained
from isoflop.train.run import train
from isoflop.train.state import load_tree

Tiny = Callable[..., Path]
BPE = 'tokenizer={name="bpe", vocab_size=300}'


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def bare(path: Path) -> str:
    """The recipe's text without its model and tokenizer."""
    tree = Recipe.load(path).to_json()
    return tomli_w.dumps({key: value for key, value in tree.items() if key not in ("model", "tokenizer")})


@pytest.fixture
def first(tiny: Tiny, tmp_path: Path) -> Run:
    return train(Recipe.load(tiny("budget.steps=3", "averaging=ema", BPE)), tmp_path / "runs", name="a")


def test_a_run_starts_with_the_evaluated_weights_of_another(first: Run, tiny: Tiny, tmp_path: Path) -> None:
    recipe = Recipe.from_toml(bare(tiny("budget.steps=2")), f"start={first.path}", source="b")
    assert recipe.model == first.recipe.model
    assert recipe.tokenizer == first.recipe.tokenizer
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    assert same(weights(loop.parts.model), weights(trained(first).model))
    run = train(recipe, tmp_path / "runs", audit=True)
    assert run.status.state == "done"
    assert not same(weights(trained(run).model), weights(trained(first).model))


def test_a_start_whose_checkpoints_are_damaged_is_not_said_to_have_none(first: Run, tiny: Tiny) -> None:
    text = bare(tiny("budget.steps=2"))
    newest = first.path / "checkpoints" / "3"
    for checkpoint in (first.path / "checkpoints").iterdir():
        (checkpoint / "MANIFEST.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"every checkpoint is damaged: 3 \(MANIFEST.*restore one from a copy"):
        Recipe.from_toml(text, f"start={first.path}", source="b")
    with pytest.raises(RecipeError, match=r"checkpoints/3: is damaged \(MANIFEST.*restore it from a copy"):
        Recipe.from_toml(text, f"start={newest}", source="b")
    shutil.rmtree(first.path / "checkpoints")
    with pytest.raises(RecipeError, match="has no checkpoint yet; train it first"):
        Recipe.from_toml(text, f"start={first.path}", source="b")


@pytest.mark.parametrize("how", ["name", "directory", "hash", "checkpoint"])
def test_a_run_is_named_in_several_ways_and_is_one_and_the_same(
    how: str, first: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOFLOP_ROOT", str(tmp_path / "runs"))
    hashed = first.path.rename(tmp_path / "runs" / f"a-{first.id}")
    ways = {"name": hashed.name, "directory": hashed, "hash": first.id[:6], "checkpoint": hashed / "checkpoints/3"}
    text = bare(tiny())
    named, wanted = (Recipe.from_toml(text, f'start="{way}"', source="b") for way in (ways[how], hashed))
    assert named.hash == wanted.hash
    assert named.start is not None
    assert named.start.digest == Run.read(hashed).result["weights_sha256"]
    assert Recipe.from_toml(named.to_toml()).hash == named.hash
    assert Recipe.load(tiny(BPE)).hash != named.hash


def test_the_root_of_one_command_is_not_that_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISOFLOP_ROOT", raising=False)
    before = root()
    assert invoke(["runs", "--root", str(tmp_path)]) == 0
    assert root() == before


def test_an_earlier_checkpoint_is_another_start(tiny: Tiny, tmp_path: Path) -> None:
    run = train(Recipe.load(tiny("budget.steps=4", "train.checkpoints=2")), tmp_path / "runs")
    ends = [Recipe.load(tiny(), f"start={run.path / 'checkpoints' / step}") for step in ("2", "4")]
    assert ends[0].hash != ends[1].hash
    assert ends[1].hash == Recipe.load(tiny(), f"start={run.path}").hash
    billed = []
    for recipe in ends:
        made = train(recipe.with_("budget.steps=1"), tmp_path / "runs")
        billed.append(made.ancestors[run.hash].ledger["train"]["flops"])
    assert billed == [run.ledger["train"]["flops"] // 2, run.ledger["train"]["flops"]]


def test_what_is_given_must_agree_and_every_difference_is_named(first: Run, tiny: Tiny) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(tiny(BPE, "tokenizer.vocab_size=400", "model.d_model=32"), f"start={first.path}")
    (problem,) = caught.value.problems
    assert "model.d_model 16, not 32" in problem
    assert "tokenizer.vocab_size 300, not 400" in problem
    assert problem.startswith("override start=")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("start=nowhere", "no run is named 'nowhere'"),
        ("start=3", "should name a run"),
        ("models.teacher={}", "should name a run"),
        ("models.teacher={start}", "no part of this recipe uses it"),
        ("objective=distill", "models.teacher: is missing, objective distill needs it"),
        ('start={run="{start}", digest="00"}', "does not hold the weights with digest 00"),
        ('start={run="{start}", optimiser=true}', "did you mean optimizer"),
    ],
)
def test_references_that_lead_nowhere_are_refused(override: str, words: str, first: Run, tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe.load(tiny(BPE), override.replace("{start}", str(first.path)))


def test_ids_that_the_start_lacks_are_those_of_the_objective_or_refused(first: Run, tiny: Tiny) -> None:
    other = Recipe.load(tiny(BPE), f"start={first.path}", "objective=masked")
    assert other.vocab_size == 301
    assert other.start is not None
    fewer = other.start.model_copy(update={"vocab_size": 299})
    with pytest.raises(RecipeError, match=r"start: .* knows 299 ids, this recipe has 301, 1 of them its objective's"):
        other.having(start=fewer)
    with pytest.raises(RecipeError, match=r"start: .* knows 300 ids, this recipe has 301"):
        other.having(start=other.start.model_copy(update={"optimizer": True}))


@pytest.mark.parametrize("fault", ["gone", "damaged", "another"])
@pytest.mark.parametrize("key", ["start", "models.teacher"])
def test_missing_and_changed_weights_are_one_clear_error(
    key: str, fault: str, first: Run, tiny: Tiny, tmp_path: Path
) -> None:
    given = ("objective=distill",) if key == "models.teacher" else ()
    recipe = Recipe.load(tiny(BPE), *given, f"{key}={first.path}")
    digest, file = first.result["weights_sha256"], first.path / "checkpoints/3/model.safetensors"
    if fault == "gone":
        shutil.rmtree(first.path)
    elif fault == "damaged":
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    else:
        shutil.rmtree(first.path)
        train(Recipe.load(tiny("budget.steps=3", BPE, "seed=9")), tmp_path / "runs", name="a")
    with pytest.raises(DataError) as caught:
        train(recipe, tmp_path / "runs")
    assert f"{key}: {first.path}" in str(caught.value)
    assert digest[:12] in str(caught.value)


def test_a_root_may_move_with_all_its_runs(first: Run, tiny: Tiny, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny(BPE, "budget.steps=2"), f"start={first.path}")
    before = train(recipe, tmp_path / "runs")
    digest = before.result["weights_sha256"]
    shutil.rmtree(before.path)
    (tmp_path / "runs").rename(tmp_path / "moved")
    after = train(recipe, tmp_path / "moved")
    assert after.result["weights_sha256"] == digest


def test_the_tokenizer_is_the_starts_on_other_text_too(first: Run, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"QXZ{number} " * 40 + f"{number * 7919}")
    recipe = Recipe.load(tiny(BPE), f"start={first.path}", f'source.paths=["{folder}/*.txt"]', "budget.steps=1")
    run = train(recipe, tmp_path / "runs")
    ours, theirs = (
        (each.path / f"checkpoints/{step}/tokenizer.json").read_bytes() for each, step in ((run, 1), (first, 3))
    )
    assert ours == theirs


def test_the_same_text_is_the_same_corpus_with_a_given_tokenizer(first: Run, tiny: Tiny, tmp_path: Path) -> None:
    run = train(Recipe.load(tiny(BPE, "budget.steps=1"), f"start={first.path}"), tmp_path / "runs")
    assert run.result["fingerprint"] == first.result["fingerprint"]


@pytest.mark.parametrize("optimizer", ["adamw", "soap", "schedule_free_adamw"])
def test_the_optimizers_state_is_kept_on_request(optimizer: str, tiny: Tiny, tmp_path: Path) -> None:
    """It counts its own steps, and the ledger with it: SOAP's bases are due at others than in a fresh run."""
    fixed = ("schedule=constant", f"optimizer={optimizer}", "train.evaluations=1", "train.checkpoints=1")
    old = train(Recipe.load(tiny(*fixed, "budget.steps=12")), tmp_path / "runs")
    recipe = Recipe.load(tiny(*fixed, "budget.steps=4"), f'start={{run="{old.path}", optimizer=true}}')
    fresh = Recipe.load(tiny(*fixed, "budget.steps=4"), f"start={old.path}")
    assert recipe.hash != fresh.hash
    loop, other = (assemble(each, Run.open(tmp_path / "runs", each)) for each in (recipe, fresh))
    stored = load_tree(old.path / "checkpoints/12", "state")["parts"]["optimizer"]
    assert repr(loop.parts.optimizer.state_dict()) == repr(stored)
    assert repr(other.parts.optimizer.state_dict()) != repr(stored)
    run = train(recipe, tmp_path / "runs", audit=True)
    assert run.result["flops"] == loop.cost.run(4).flops


def test_a_run_that_started_from_another_resumes_to_the_same_bytes(first: Run, tiny: Tiny, tmp_path: Path) -> None:
    recipe = distilled(first, tiny, f"start={first.path}", "budget.steps=4", "train.checkpoints=2")
    run = train(recipe, tmp_path / "runs")
    whole = run.result["weights_sha256"]
    shutil.rmtree(run.path / "checkpoints/4")
    run.set_status("stopped")
    again = train(recipe, tmp_path / "runs")
    assert [event["step"] for event in again.events("resumed")] == [2]
    assert again.result["weights_sha256"] == whole
    assert again.ancestors.keys() == {first.hash}


def test_another_optimizer_cannot_take_up_the_state(tiny: Tiny, tmp_path: Path) -> None:
    old = train(Recipe.load(tiny("budget.steps=2")), tmp_path / "runs")
    with pytest.raises(RecipeError, match=r"optimizer\.lr 0\.01, not 0\.02"):
        Recipe.load(tiny("optimizer.lr=0.02"), f'start={{run="{old.path}", optimizer=true}}')


def test_a_lora_run_is_merged_back_where_another_starts_from_it(tiny: Tiny, tmp_path: Path) -> None:
    old = train(
        Recipe.load(tiny("budget.steps=3", 'parametrization={name="lora", rank=2}', "optimizer.lr=0.1")),
        tmp_path / "runs",
    )
    recipe = Recipe.load(tiny("budget.steps=1"), f"start={old.path}")
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    ids = torch.arange(32).view(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(loop.parts.model(ids), trained(old).model(ids), rtol=1e-5, atol=1e-5)
    again = Recipe.load(tiny("budget.steps=1", 'parametrization={name="lora", rank=2}'), f"start={old.path}")
    loop = assemble(again, Run.open(tmp_path / "runs", again))
    with torch.no_grad():
        torch.testing.assert_close(loop.parts.model(ids), trained(old).model(ids), rtol=1e-5, atol=1e-5)


def test_the_command_line_looks_below_its_root_and_shows_the_ancestors(
    first: Run, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", str(first.path.parent))
    assert invoke(["train", str(tiny(BPE, "budget.steps=1")), "start=a", *root, "--name", "b"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "show", "b", *root]) == 0
    assert first.id in capsys.readouterr().out
    assert invoke(["runs", "show", "b", *root, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ancestors"][first.hash]["ledger"]["train"] == first.ledger["train"]
    assert "Ancestors" in write_report(first.path.parent / "b").read_text()


# ---------------------------------------------------------------- distillation


def distilled(teacher: Run, tiny: Tiny, *overrides: str) -> Recipe:
    return Recipe.load(tiny(BPE), "objective=distill", f"models.teacher={teacher.path}", *overrides)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_equal_to_its_teacher_does_not_move(precision: str, first: Run, tiny: Tiny, tmp_path: Path) -> None:
    recipe = distilled(
        first,
        tiny,
        f"start={first.path}",
        'objective={name="distill", weight=1.0, temperature=2.0}',
        "optimizer.weight_decay=0.0",
        "budget.steps=4",
        f"train.precision={precision}",
    )
    run = train(recipe, tmp_path / "runs")
    before, after = (weights(trained(each).model) for each in (first, run))
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 1e-6


@pytest.mark.parametrize("isolate", ["false", "true"])
def test_the_teachers_passes_are_charged_exactly(isolate: str, first: Run, tiny: Tiny, tmp_path: Path) -> None:
    wider = ("budget.steps=3", "train.accumulate=2", "model.d_model=24", f"train.isolate_documents={isolate}")
    recipe = distilled(first, tiny, *wider)
    run = train(recipe, tmp_path / "runs", audit=True)
    assert run.events("audited")
    charged = recipe.objective.charges(recipe)["teacher"]
    assert run.ledger["teacher"]["flops"] == 3 * 2 * charged.flops
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    teacher = loop.ctx.models["teacher"]
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert same(weights(teacher), weights(trained(first).model))
    assert run.ancestors.keys() == {first.hash}


def test_a_teacher_of_another_vocabulary_is_refused(first: Run, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="knows 300 ids, this recipe has 257"):
        Recipe.load(tiny(), "objective=distill", f"models.teacher={first.path}")
    folder = tmp_path / "other"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"QXZ{number} " * 40 + f"{number * 7919}")
    recipe = distilled(first, tiny, f'source.paths=["{folder}/*.txt"]')
    with pytest.raises(UsageError, match=r"models\.teacher: .* vocabulary is another .*id \d+ stands for"):
        train(recipe, tmp_path / "runs")
    kept = first.path / "checkpoints/3/tokenizer.json"
    train(recipe.with_(f'tokenizer={{name="file", path="{kept}"}}', "budget.steps=1"), tmp_path / "runs")


def test_a_shared_ancestor_is_billed_once(first: Run, tiny: Tiny, tmp_path: Path) -> None:
    """c learns from b and starts from a, from which b started, too."""
    b = train(Recipe.load(tiny(BPE, "budget.steps=2"), f"start={first.path}"), tmp_path / "runs", name="b")
    c = train(distilled(b, tiny, f"start={first.path}", "budget.steps=1"), tmp_path / "runs", name="c")
    assert set(c.ancestors) == {first.hash, b.hash}

    def trained_flops(tree: dict[str, dict[str, Any]]) -> float:
        return float(tree["train"]["flops"])

    assert trained_flops(c.ancestors[first.hash].ledger) == trained_flops(first.ledger)
    assert trained_flops(c.ancestors[b.hash].ledger) == trained_flops(b.ledger)
    assert [each.name for each in c.ancestors.values()] == ["a", "b"]
