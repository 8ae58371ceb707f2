"""CAT over runs of ours: what is trained, what is refused, and the adapter that comes out; beside its reference."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isoflop.cli.main import invoke
from isoflop.core.contracts import LowRank
from isoflop.core.errors import DataError, RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.merge.lora_files import read_adapter, write_adapter
from isoflop.merge.lora_trained import adapter_of
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.restore import trained
from isoflop.train.run import train

Tiny = Callable[..., Path]
IDS = torch.arange(32).view(2, 16)
SETTINGS = ("budget.steps=4", "train.checkpoints=4", "train.keep=4", "optimizer.lr=0.02")


@dataclass
class Skills:
    """A base, two adapters of it with different ranks, targets and scales, and what CAT's recipe says of them."""

    root: Path
    base: Run
    one: Run
    two: Run
    overrides: tuple[str, ...]


@pytest.fixture
def skills(tiny: Tiny, tmp_path: Path) -> Skills:
    root = tmp_path / "runs"
    base = train(Recipe.load(tiny("budget.steps=2")), root, name="base")
    parts = (
        '{name="lora", rank=2, rank_stabilized=true}',
        '{name="lora", rank=3, targets=["*.mixer.*"]}',
    )
    runs = [
        train(Recipe.load(tiny(*SETTINGS), f"start={base.path}", f"parametrization={part}", f"seed={n}"), root)
        for n, part in enumerate(parts)
    ]
    models = f'models={{one="{runs[0].path}", two="{runs[1].path}"}}'
    return Skills(root, base, *runs, overrides=(f"start={base.path}", models))


def cat(tiny: Tiny, skills: Skills, fields: str = "") -> Recipe:
    part = f'parametrization={{name="cat", adapters=["one", "two"]{fields}}}'
    return Recipe.load(tiny(*SETTINGS, name="cat.toml"), *skills.overrides, part)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)  # type: ignore[no-any-return]


@pytest.mark.parametrize("softmax", [True, False])
def test_only_weights_are_trained_and_the_exported_adapter_gives_the_logits_of_training_time(
    skills: Skills, tiny: Tiny, tmp_path: Path, softmax: bool
) -> None:
    recipe = cat(tiny, skills, f", softmax={str(softmax).lower()}")
    assert Recipe.from_toml(recipe.to_toml()).hash == recipe.hash
    before = assemble(recipe, Run.open(skills.root, recipe)).parts.model.state_dict()
    run = train(recipe, skills.root, name="cat", audit=True)
    assert set(run.ancestors) == {skills.base.hash, skills.one.hash, skills.two.hash}
    model = trained(run).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.endswith("raw")), name
    out = {name: str(tmp_path / name) for name in ("plain", "lora", "whole", "folded")}
    root = ("--root", str(skills.root))
    assert invoke(["merge", "export", "base", out["plain"], *root]) == 0
    assert invoke(["merge", "export", "cat", out["lora"], "--adapter", *root]) == 0
    assert invoke(["merge", "export", "cat", out["whole"], *root]) == 0
    assert invoke(["merge", "fold", out["plain"], out["lora"], out["folded"]]) == 0
    assert {factor.rank for factor in read_adapter(out["lora"]).modules.values()} == {5}
    plain = trained(skills.base).model
    assert float((logits(plain) - logits(model)).abs().max()) > 1e-2
    for name in ("whole", "folded"):
        plain.load_state_dict(load_file(f"{out[name]}/model.safetensors"))
        torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)


def test_weights_start_the_sum_of_the_adapters_as_they_were_trained(skills: Skills, tiny: Tiny) -> None:
    recipe = cat(tiny, skills, ", spread=0")
    model = assemble(recipe, Run.open(skills.root, recipe)).parts.model
    base, one, two = (trained(run).model for run in (skills.base, skills.one, skills.two))
    for name, module in model.named_modules():
        if getattr(module, "parametrization", None) is None:
            continue
        weight = base.get_parameter(f"{name}.weight")
        updates = [
            other.get_submodule(name).parametrization.finalize(weight) - weight  # type: ignore[union-attr, operator]
            for other in (one, two)
            if other.get_submodule(name).parametrization is not None
        ]
        made = module.parametrization.finalize(weight)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(made, weight + sum(updates) / 2, rtol=1e-5, atol=1e-6)


def test_a_run_that_was_cut_resumes_to_the_byte_without_its_adapters_changing(skills: Skills, tiny: Tiny) -> None:
    recipe = cat(tiny, skills)
    whole = train(recipe, skills.root, name="whole").result["weights_sha256"]
    cut = train(recipe, skills.root, name="cut")
    for step in (3, 4):
        shutil.rmtree(cut.path / f"checkpoints/{step}")
    (cut.path / "result.json").unlink()
    cut.set_status("stopped", step=2)
    assert train(recipe, skills.root, name="cut").result["weights_sha256"] == whole


def test_what_is_no_adapter_of_this_start_is_refused(skills: Skills, tiny: Tiny) -> None:
    part = 'parametrization={name="cat", adapters=["one", "two"]}'
    with pytest.raises(RecipeError, match=r"models\.two: was trained with no parametrization"):
        Recipe.load(
            tiny(*SETTINGS),
            f"start={skills.base.path}",
            f'models={{one="{skills.one.path}", two="{skills.base.path}"}}',
            part,
        )
    with pytest.raises(RecipeError, match=r"models\.two: is missing"):
        Recipe.load(tiny(*SETTINGS), f"start={skills.base.path}", f'models={{one="{skills.one.path}"}}', part)
    other = Recipe.load(tiny(*SETTINGS), "seed=9", skills.overrides[1], part)
    with pytest.raises(UsageError, match="adapter of other weights"):
        assemble(other, Run.open(skills.root, other))


@pytest.mark.parametrize("name", ["whole", "adapter"])
def test_an_export_never_writes_over_anything(skills: Skills, tmp_path: Path, name: str) -> None:
    options = ["--adapter"] if name == "adapter" else []
    (tmp_path / "there").mkdir()
    command = ["merge", "export", str(skills.one.path), str(tmp_path / "there"), *options]
    assert invoke(command) == 2
    assert not list((tmp_path / "there").iterdir())
    assert invoke(["merge", "export", str(skills.base.path), str(tmp_path / "new"), "--adapter"]) == 2
    assert not (tmp_path / "new").exists()


def test_it_is_the_reference_of_others(shared: Path) -> None:
    """sum w_i s_i B_i A_i with the references' raw numbers; the test of sums above needs no outside file."""
    data = shared / "data/posttrain"
    files = sorted((data / "cat").glob("*.json"))
    if not files:
        pytest.skip("CAT references not found below ISOFLOP_SHARED/data/posttrain/cat")
    for file in files:
        tree, tensors = json.loads(file.read_text()), load_file(file.with_suffix(".safetensors"))
        adapters = [read_adapter(data / name) for name in tree["adapters"]]
        ranks = {f"m{i}": next(iter(adapter.modules.values())).rank for i, adapter in enumerate(adapters)}
        loras = {name: get("parametrization", "lora")(rank=rank) for name, rank in ranks.items()}  # type: ignore[call-arg]
        part: Any = get("parametrization", "cat")(adapters=tuple(ranks), softmax=tree["mode"] == "softmax")
        for module, entry in tree["modules"].items():
            wanted = tensors[f"delta/{module}"]
            live = part.given(loras).build(*wanted.shape, Rng(0))
            held = [adapter.modules.get(module) for adapter in adapters]
            live.adopt([None if f is None else LowRank(f.a, f.b, f.scale) for f in held])
            with torch.no_grad():
                live.raw.copy_(torch.tensor(entry["raw"]))
                made = live.finalize(torch.zeros(wanted.shape))
            torch.testing.assert_close(made.double(), wanted.double(), atol=1e-6, rtol=0)


@pytest.fixture
def directories(skills: Skills, tmp_path: Path) -> tuple[Path, ...]:
    """The two adapters as PEFT stores them, under our names."""
    places = tuple(tmp_path / f"{name}-adapter" for name in ("one", "two"))
    for run, place in zip((skills.one, skills.two), places, strict=True):
        assert invoke(["merge", "export", str(run.path), str(place), "--adapter"]) == 0
    return places


def from_directories(tiny: Tiny, skills: Skills, directories: tuple[Path, ...], *more: str) -> Recipe:
    models = f'models={{one="{directories[0]}", two="{directories[1]}"}}'
    part = 'parametrization={name="cat", adapters=["one", "two"]}'
    return Recipe.load(tiny(*SETTINGS, name="cat.toml"), f"start={skills.base.path}", models, part, *more)


def test_adapters_in_directories_are_those_of_the_runs(
    skills: Skills, tiny: Tiny, directories: tuple[Path, ...]
) -> None:
    recipe = from_directories(tiny, skills, directories)
    assert Recipe.from_toml(recipe.to_toml()).hash == recipe.hash != cat(tiny, skills).hash
    run = train(recipe, skills.root)
    assert set(run.ancestors) == {skills.base.hash}  # what the adapters cost is not known from their files
    wanted = trained(train(cat(tiny, skills), skills.root)).model.state_dict()
    for name, tensor in trained(run).model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6)


def test_ranks_that_differ_within_an_adapter_are_filled_up_with_nothing(
    skills: Skills, tiny: Tiny, directories: tuple[Path, ...], tmp_path: Path
) -> None:
    adapter = read_adapter(directories[0])
    first = next(iter(adapter.modules))
    cut = {n: replace(f, a=f.a[:1], b=f.b[:, :1]) if n == first else f for n, f in adapter.modules.items()}
    write_adapter(replace(adapter, modules=cut), tmp_path / "cut")
    recipe = from_directories(tiny, skills, (tmp_path / "cut", directories[1]))
    own = assemble(recipe, Run.open(skills.root, recipe)).parts.model.get_submodule(first).parametrization
    assert torch.equal(own.A[0], cut[first].scale * cut[first].a[0])  # type: ignore[index, union-attr]
    assert not own.A[1].any()  # type: ignore[index, union-attr]


def test_a_directory_that_does_not_fit_is_refused(
    skills: Skills, tiny: Tiny, directories: tuple[Path, ...], tmp_path: Path
) -> None:
    one, two = directories
    with pytest.raises(RecipeError, match=r"start: .*one-adapter is an adapter, no model; start with what it was"):
        Recipe.load(tiny(*SETTINGS), f"start={one}")
    with pytest.raises(RecipeError, match=r"models\.one: .* is an adapter: start with what it was trained on"):
        Recipe.load(tiny(*SETTINGS), f'models={{one="{one}"}}', 'parametrization={name="cat", adapters=["one"]}')
    teacher = (f'models={{teacher="{one}"}}', "objective=distill", f"start={skills.base.path}")
    with pytest.raises(RecipeError, match=r"models\.teacher: is an adapter, and objective distill needs a model"):
        Recipe.load(tiny(*SETTINGS), *teacher)
    narrow = 'parametrization={name="cat", adapters=["one", "two"], targets=["*.mixer.*"]}'
    recipe = from_directories(tiny, skills, directories, narrow)
    with pytest.raises(UsageError, match=r"models\.one: .*adapts '.*', which this run's parametrization does not"):
        assemble(recipe, Run.open(skills.root, recipe))
    adapter = read_adapter(one)
    name, factor = next(iter(adapter.modules.items()))
    wide = replace(factor, b=torch.cat([factor.b, factor.b]))
    write_adapter(replace(adapter, modules={**adapter.modules, name: wide}), tmp_path / "wide")
    recipe = from_directories(tiny, skills, (tmp_path / "wide", two))
    with pytest.raises(UsageError, match=rf"updates '{re.escape(name)}' by .*, but it has shape"):
        assemble(recipe, Run.open(skills.root, recipe))
    shutil.rmtree(tmp_path / "wide")
    shutil.copytree(one, tmp_path / "wide")
    with pytest.raises(DataError, match="holds weights with digest"):
        assemble(recipe, Run.open(skills.root, recipe))


def test_what_is_left_of_an_error_is_rounding(skills: Skills, tiny: Tiny) -> None:
    """In fp32 logits differ by up to 3e-5 after large steps, which would hide a small fault; in float64 they agree."""
    recipe = cat(tiny, skills).with_("optimizer.lr=0.1")
    model, base = (trained(run).model.double() for run in (train(recipe, skills.root), skills.base))
    for module in (*model.modules(), *base.modules()):
        if getattr(module, "dtype", None) is torch.float32:  # of its products
            module.dtype = torch.float64
    exported = adapter_of(model)
    for name, factor in exported.modules.items():
        base.get_parameter(f"{name}.weight").data += factor.scale * (factor.b @ factor.a)
    assert logits(model).dtype == torch.float64
    torch.testing.assert_close(logits(base), logits(model), rtol=0, atol=1e-12)
