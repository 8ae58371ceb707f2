"""What every transform promises, over every file of the slot: of the model that it makes, and of a run of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compress_toys import Text, plain, transform
from isoflop.compress.transform import transformed
from isoflop.core.contracts import PlainModel, TransformPart
from isoflop.core.errors import NumericsError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.core.slots import part_from
from isoflop.pipelines.compressed_runs import compress_to_run
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train

NAMES = names("transform")
GIVEN: dict[str, dict[str, Any]] = {"slice": {"hidden_widths": 24}, "prune": {"hidden": 0.5, "width": 0.5}}
"""Hyper-parameters of those that do nothing without any."""
COMPOSED = {"pruned, then GPTQ": ("prune", "gptq"), "sliced, thinned, rounded": ("slice", "wanda", "round")}
CASES: dict[str, tuple[str, ...]] = {**{name: (name,) for name in NAMES}, **COMPOSED}
IDS = torch.arange(16)[None] % 250


def part_of(name: str) -> TransformPart:
    watched = {"windows": 8} if "windows" in get("transform", name).model_fields else {}
    return transform(name, **GIVEN.get(name, {}), **watched)


def same(one: PlainModel, other: PlainModel) -> bool:
    """Whether two models are alike to the bit."""
    alike = one.tensors.keys() == other.tensors.keys() and one.part == other.part
    return alike and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_another_model_and_leaves_its_own_alone(name: str) -> None:
    """Finite, of the shapes that its architecture has, the same each time; what it took in bits is known."""
    model, part = plain("grouped"), part_of(name)
    kept = {key: tensor.clone() for key, tensor in model.tensors.items()}
    made, again = (transformed(model, [part], Text()) for _ in range(2))
    assert same(made.model, again.model)
    assert not same(made.model, model)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in model.tensors.items())
    assert {s.name: s.shape for s in made.model.shapes()} == {n: tuple(t.shape) for n, t in made.model.tensors.items()}
    assert made.bytes <= 2 * sum(tensor.numel() for tensor in kept.values())
    assert part.card.summary
    assert part.card.cost
    assert (made.bits < 16) == part.stores, "only what stores weights in fewer bits says so"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_number_is_refused(name: str) -> None:
    model = plain()
    broken = dict(model.tensors) | {"norm.weight": torch.full((32,), float("nan"))}
    with pytest.raises(NumericsError, match=r"norm\.weight"):
        transformed(model.having(broken, {}), [part_of(name)], Text())
    with pytest.raises(RecipeError, match="windwos"):
        part_from("transform", f'{{name="{name}", windwos=3}}')


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run, and one that each transform, or several, made of it."""
    root = tmp_path_factory.mktemp("transforms")
    recipe = Recipe.load(
        "small",
        'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
        "tokenizer=bytes",
        "model={name='transformer', d_model=32, layers=2, tied=true}",
        "train={length=16, batch=2, evaluations=1}",
        "budget={steps=3}",
        'parametrization={name="integer", bits=8}',
    )
    start = train(recipe, root, name="start")
    for number, parts in enumerate(CASES.values()):
        compress_to_run(start, [part_of(name) for name in parts], root, f"c{number}")
    return {case: Run.read(root / f"c{number}") for number, case in enumerate(CASES)}


def logits(run: Run) -> str:
    """SHA-256 of a run's logits."""
    with torch.no_grad():
        return hashlib.sha256(trained(run).model(IDS).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_its_run_is_one_like_any_other(case: str, runs: dict[str, Run]) -> None:
    run = runs[case]
    assert run.state == "done"
    assert run.recipe.hash == run.hash == Recipe.from_json(run.resolved).hash
    assert [part.name for part in run.recipe.transforms] == list(CASES[case])
    (start,) = run.ancestors.values()
    assert start.ledger["train"]["flops"] > 0
    watched = any(part.watches for part in run.recipe.transforms)
    assert run.figure("flops") == run.ledger["scoring"]["flops"]
    assert (run.figure("flops") > 0) == watched, "what watching costs is in the bill"
    found = run.checkpoint()
    assert found is not None
    assert found[0] == run.status.step == 0


def test_transforms_of_one_model_give_logits_of_their_own(runs: dict[str, Run]) -> None:
    assert len({logits(run) for run in runs.values()}) == len(CASES)


@pytest.mark.slow
def test_a_fresh_process_has_the_same_logits(runs: dict[str, Run]) -> None:
    """It reads nothing but the directories."""
    program = (
        f"import sys, json; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]\n"
        "from pathlib import Path\n"
        "from test_transform import logits\n"
        "from isoflop.store.run import Run\n"
        "print(json.dumps({path: logits(Run.read(Path(path))) for path in sys.argv[1:]}))\n"
    )
    paths = [str(run.path) for run in runs.values()]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {str(run.path): logits(run) for run in runs.values()}
