"""What cannot be merged is refused before anything is written, in one message that names tensor and file."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.core.errors import DataError, IsoflopError, NumericsError, RecipeError, StorageError, UsageError
from isoflop.core.registry import get, names
from isoflop.core.toml import validated
from isoflop.merge.execute import merge
from isoflop.merge.recipe import MergeRecipe, MergeSource, checked, load
from isoflop.store.tensor_writer import UNFINISHED
from merge_models import WORDS, save, tensors_of


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(**tree: Any) -> MergeRecipe:
    return checked(validated(MergeRecipe, tree, source="test"), "test")


def linear(**tree: Any) -> MergeRecipe:
    return recipe(method="linear", models=[{"path": "a"}, {"path": "b"}], **tree)


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors_of(2).items() if key != name}


def broken(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**tensors_of(2), name: tensor}


NAN = torch.full((4,), float("nan"))
SECOND: dict[str, tuple[Callable[[], object], type[IsoflopError], str]] = {
    "missing tensor": (
        lambda: save(Path("b"), without("model.layers.1.mlp.up_proj.weight")),
        RecipeError,
        r"b: lacks tensor 'model\.layers\.1\.mlp\.up_proj\.weight', which a has",
    ),
    "tensor too many": (
        lambda: save(Path("b"), broken("model.layers.1.bias", torch.ones(4))),
        RecipeError,
        r"b/model\.safetensors: tensor 'model\.layers\.1\.bias' is not in a",
    ),
    "layer too many": (
        lambda: save(Path("b"), tensors_of(2, layers=4)),
        RecipeError,
        r"b/model\.safetensors: tensor 'model\.layers\.3",
    ),
    "layer too few": (
        lambda: save(Path("b"), tensors_of(2, layers=2)),
        RecipeError,
        r"b: lacks tensor 'model\.layers\.2",
    ),
    "other shape": (
        lambda: save(Path("b"), broken("model.norm.weight", torch.ones(5))),
        RecipeError,
        r"b/model\.safetensors: tensor 'model\.norm\.weight' has shape \[5\], but \[4\] in a/model\.safetensors",
    ),
    "other vocabulary": (
        lambda: save(Path("b"), tensors_of(2, vocab=9)),
        RecipeError,
        r"b/model\.safetensors: tensor 'lm_head\.weight' has shape \[9, 4\].*tokenizer = base, union or intersection",
    ),
    "other tokenizer of equal size": (
        lambda: save(Path("b"), tensors_of(2), words=WORDS[::-1]),
        RecipeError,
        r"b/tokenizer\.json: its tokenizer differs from a/tokenizer\.json .*tokenizer = base, union or intersection",
    ),
    "other architecture": (
        lambda: save(Path("b"), tensors_of(2), model_type="qwen"),
        RecipeError,
        r"b/config\.json: model_type is 'qwen', but 'llama' in a",
    ),
    "NaN": (
        lambda: save(Path("b"), broken("model.norm.weight", NAN)),
        NumericsError,
        r"b/model\.safetensors: tensor 'model\.norm\.weight' holds NaN",
    ),
    "whole numbers for floats": (
        lambda: save(Path("b"), broken("model.norm.weight", torch.ones(4).long())),
        RecipeError,
        r"b/model\.safetensors: tensor 'model\.norm\.weight' is of type I64",
    ),
    "no directory": (lambda: None, DataError, "b: is no directory"),
    "no weights": (lambda: Path("b").mkdir(), DataError, r"b: holds neither model\.safetensors nor"),
    "pickled": (
        lambda: (Path("b").mkdir(), torch.save({}, "b/pytorch_model.bin")),
        DataError,
        r"b: holds pickled weights only \(pytorch_model\.bin\).*isoflop convert b b-safetensors",
    ),
    "configuration that is no JSON": (
        lambda: save(Path("b"), tensors_of(2)).joinpath("config.json").write_text("{"),
        DataError,
        r"b/config\.json: cannot be read as JSON",
    ),
    "configuration with a key twice": (
        lambda: save(Path("b"), tensors_of(2)).joinpath("config.json").write_text('{"a": 1, "a": 2}'),
        DataError,
        r"b/config\.json: holds the key 'a' twice",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), SECOND.values(), ids=SECOND)
def test_a_second_model_that_does_not_fit(make: Callable[[], object], error: type[IsoflopError], message: str) -> None:
    save(Path("a"), tensors_of(1), words=WORDS)
    make()
    with pytest.raises(error, match=message) as caught:
        merge(linear(), Path("out"))
    assert str(caught.value).count("\n") == 0, "one clear error"
    assert not Path("out").exists()
    if error is not NumericsError:  # only reading finds a NaN
        assert not list(Path().glob(f"{UNFINISHED}*")), "nothing was begun"


def test_different_whole_number_tensors_are_refused() -> None:
    save(Path("a"), tensors_of(1) | {"ids": torch.arange(3)})
    save(Path("b"), tensors_of(2) | {"ids": torch.arange(1, 4)})
    with pytest.raises(DataError, match=r"b/model\.safetensors: tensor 'ids' differs"):
        merge(linear(), Path("out"))


def test_a_rule_for_tokenizers_needs_tokenizers_and_rows_for_all_their_tokens() -> None:
    save(Path("a"), tensors_of(1), words=WORDS)
    save(Path("b"), tensors_of(2, vocab=4), words=("x", *WORDS))
    with pytest.raises(DataError, match=r"b/model\.safetensors: tensor .* has 4 rows, its tokenizer 7 ids"):
        merge(linear(tokenizer="union"), Path("out"))
    Path("b/tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"b/tokenizer\.json: is missing"):
        merge(linear(tokenizer="union"), Path("out"))
    Path("b/tokenizer.json").write_text('{"model": {"vocab": 3}}')
    with pytest.raises(DataError, match=r"b/tokenizer\.json: has no vocabulary"):
        merge(linear(tokenizer="union"), Path("out"))


RECIPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "everything wrong at once": (
        {
            "method": "ties",
            "models": [{"path": "a", "parameters": {"wieght": 1, "normalize": True}}, {"path": "b"}],
            "parameters": {"density": [], "lambda": 1},
        },
        [
            "models.0.parameters.wieght: no such knob; did you mean weight?",
            "models.0.parameters.normalize: is no knob of a model alone",
            "parameters.density: an empty list",
            "parameters.lambda: no such knob",
            "base: ties needs one",
        ],
    ),
    "unknown method": ({"method": "tis", "models": [{"path": "a"}]}, ["did you mean ties?"]),
    "no models": ({"method": "linear"}, ["exactly one of models and slices"]),
    "too few": ({"method": "nuslerp", "models": [{"path": "a"}]}, ["nuslerp takes 2 models"]),
    "too many": ({"method": "passthrough", "models": [{"path": "a"}, {"path": "b"}]}, ["passthrough takes 1 models"]),
    "a base too many": ({"method": "linear", "base": "c", "models": [{"path": "a"}]}, ["linear takes none"]),
    "unknown key": ({"method": "linear", "models": [{"path": "a", "wieght": 1}]}, ["wieght: no such key"]),
    "filter without value": (
        {"method": "linear", "models": [{"path": "a", "parameters": {"weight": [{"filter": "mlp"}]}}]},
        ["a filter lacks its value"],
    ),
    "mixed gradient": (
        {"method": "linear", "models": [{"path": "a", "parameters": {"weight": [1, "x"]}}]},
        ["a gradient mixes"],
    ),
    "slices of different length": (
        {
            "method": "linear",
            "slices": [{"sources": [{"path": "a", "layers": [0, 2]}, {"path": "b", "layers": [0, 3]}]}],
        },
        ["different numbers of layers"],
    ),
    "slice without layers": ({"method": "linear", "slices": [{"sources": [{"path": "a"}]}]}, ["needs layers"]),
    "checkpoints in a slice": (
        {"method": "passthrough", "slices": [{"sources": [{"path": "a", "layers": [0, 1], "checkpoints": 2}]}]},
        ["slices.0: checkpoints are of models"],
    ),
    "negative layer": (
        {"method": "passthrough", "slices": [{"sources": [{"path": "a", "layers": [-1, 2]}]}]},
        ["layers.0"],
    ),
}


@pytest.mark.parametrize(("tree", "messages"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_that_is_not_legal_says_all_that_is_wrong(tree: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(**tree)
    for message in messages:
        assert message in str(caught.value)


def test_a_checkpoint_without_tensors_and_one_with_absurd_layers() -> None:
    save(Path("empty"), {})
    with pytest.raises(RecipeError, match="empty: holds no tensors"):
        merge(recipe(method="linear", models=[{"path": "empty"}]), Path("out"))
    save(Path("a"), {"model.layers.99999999999999.w": torch.ones(2)}, num_hidden_layers=1)
    merge(recipe(method="linear", models=[{"path": "a"}]), Path("out"))
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 10**14


def test_a_slice_beyond_the_last_layer() -> None:
    save(Path("a"), tensors_of(1))
    slices = [{"sources": [{"path": "a", "layers": [0, 9]}]}]
    with pytest.raises(RecipeError, match="which has 3 layers"):
        merge(recipe(method="passthrough", slices=slices), Path("out"))


@pytest.mark.parametrize(
    ("method", "knobs", "message"),
    [
        (
            "linear",
            {"weight": 0.0},
            "tensor 'lm_head.weight' of a/model.safetensors, b/model.safetensors: the weights sum to zero",
        ),
        ("karcher", {"weight": 0.0}, "the weights sum to zero"),
        ("multislerp", {"weight": 0.0}, "the weights sum to zero"),
        ("linear", {"weight": [1.0, 0.0]}, r"tensor 'model.layers.2.*' of a/model.safetensors, b/model.*sum to zero"),
        ("della", {"density": 0.95}, "leave"),
        ("ties", {"density": 1.5}, "density: should be at most 1"),
        ("slerp", {}, "t: is missing"),
        ("ties", {"normalize": "yes"}, "normalize: .* for tensor"),
    ],
)
def test_knobs_that_a_method_refuses_are_said_before_the_start(
    method: str, knobs: dict[str, Any], message: str
) -> None:
    for number, name in enumerate(("base", "a", "b")):
        save(Path(name), tensors_of(number))
    models = [{"path": "a"}] if method == "slerp" else [{"path": "a"}, {"path": "b"}]
    base = {} if method in ("linear", "karcher") else {"base": "base"}
    with pytest.raises(UsageError, match=message):
        merge(recipe(method=method, models=models, parameters=knobs, **base), Path("out"))
    assert not list(Path().glob(f"{UNFINISHED}*"))


def test_a_result_that_overflows_its_type_names_the_tensor() -> None:
    save(Path("a"), {"w": torch.full((4,), 60000.0)})
    with pytest.raises(NumericsError, match="tensor 'w' would hold 4 values that are not finite"):
        merge(
            recipe(
                method="linear", models=[{"path": "a"}], parameters={"weight": 2.0, "normalize": False}, dtype="float16"
            ),
            Path("out"),
        )
    assert not Path("out").exists()


def test_a_full_disk_is_said_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("a"), tensors_of(1))
    save(Path("b"), tensors_of(2))
    usage: Callable[..., Any] = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=10))
    with pytest.raises(StorageError, match=r"not enough space: [\d,]+ bytes are needed, 10 are free"):
        merge(linear(), Path("deep/out"))
    assert not Path("deep").exists()


YAML_PROBLEMS = """
merge_method: linear
models:
- model: a
  layer_range: [0, 2]
  paramaters: {weight: 1}
- model: hub/name
- model: a+lora
- model: a@main
modules: {}
chat_template: chatml
tokenizer: {source: hub/name, tokens: {x: {source: a}}}
dtype: float32
trust: yes
"""


def test_everything_of_a_yaml_that_is_not_supported_is_in_one_error() -> None:
    save(Path("a"), tensors_of(1))
    Path("merge.yaml").write_text(YAML_PROBLEMS)
    with pytest.raises(RecipeError) as caught:
        load(Path("merge.yaml"))
    text = str(caught.value)
    for piece in (
        "paramaters",
        "hub/name' is no directory",
        "a+lora' is no directory",
        "revisions (@)",
        "modules",
        "chatml",
        "tokens",
        "trust",
        "source 'hub/name'",
    ):
        assert piece in text, piece


@pytest.mark.parametrize(
    "text",
    [
        "merge_method: [",
        "- a",
        "",
        "a: 1\na: 2",
        "x: !!python/object/apply:os.system ['true']",
        "merge_method: linear\nmodels: 3",
        "merge_method: linear\nmodels: [3]",
        "merge_method: linear\nmodels: [{model: {path: a}}]",
        "a: &a [x, x, x]\nb: &b [*a, *a, *a]\n"
        + "".join(f"{chr(99 + i)}: &{chr(99 + i)} [" + ", ".join([f"*{chr(98 + i)}"] * 9) + "]\n" for i in range(12)),
        "\x00",
        "parameters: &p {a: *p}",
    ],
)
def test_a_yaml_that_is_none_or_unsafe_is_refused(text: str) -> None:
    Path("merge.yml").write_text(text)
    with pytest.raises(RecipeError, match=r"merge\.yml"):
        load(Path("merge.yml"))


# ---------------------------------------------------------------- kills

KILLED = """
import os, signal, sys
from isoflop.merge import execute
left = [int(sys.argv[1])]
original = execute.run_task
def run_task(*args):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return original(*args)
execute.run_task = run_task
from isoflop.cli.main import run
run(["merge", "merge.toml", "out"])
"""


def test_a_killed_command_leaves_no_output_and_the_same_command_finishes_it() -> None:
    for number, name in enumerate(("a", "b")):
        save(Path(name), tensors_of(number))
    Path("merge.toml").write_text('method = "linear"\nmodels = [{ path = "a" }, { path = "b" }]\n')
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, "4"], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert not Path("out").exists()
    assert len(list(Path().glob(f"{UNFINISHED}*"))) == 1
    done = subprocess.run([sys.executable, "-m", "isoflop", "merge", "merge.toml", "out"], env=environment)
    assert done.returncode == 0
    merge(load(Path("merge.toml")), Path("undisturbed"))
    for name in ("model.safetensors", "config.json", "README.md"):
        assert Path("out", name).read_bytes() == Path("undisturbed", name).read_bytes()
    assert not list(Path().glob(f"{UNFINISHED}*"))
    assert json.loads(Path("out/config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("method", [name for name in names("merge") if "weight" in get("merge", name).each])  # type: ignore[attr-defined]
def test_weights_that_are_all_zero_merge_nothing(method: str) -> None:
    """Some methods would give the base, others a mean that nobody asked for."""
    for number, name in enumerate("abc"):
        save(Path(name), tensors_of(number))
    part: Any = get("merge", method)
    base = {} if part.base == "none" else {"base": "c"}
    zero = {"method": method, "models": [{"path": "a"}, {"path": "b"}], **base}
    with pytest.raises(IsoflopError, match="zero"):
        merge(recipe(**zero, parameters={"weight": 0.0}), Path("out"))
    with pytest.raises(IsoflopError, match="zero"):
        merge(
            recipe(**zero, parameters={"weight": [{"filter": "mlp", "value": [0.0, 0.0]}, {"value": 0.0}]}), Path("out")
        )
    assert not Path("out").exists()


def test_a_weight_may_be_zero_where_others_are_not() -> None:
    for number, name in enumerate("abc"):
        save(Path(name), tensors_of(number))
    two = [{"path": "a", "parameters": {"weight": [{"filter": "mlp", "value": 1.0}, {"value": 0.0}]}}, {"path": "b"}]
    merge(recipe(method="task_arithmetic", base="c", models=two, parameters={"weight": 0.0}), Path("out"))


@pytest.mark.parametrize("value", [math.nan, math.inf, [0.5, math.nan], [{"filter": "mlp", "value": -math.inf}]])
@pytest.mark.parametrize("place", ["models.0.parameters", "parameters"])
def test_a_knob_that_is_no_finite_number_is_named_by_its_key(value: Any, place: str) -> None:
    knobs: dict[str, Any] = {"weight": value}
    own = knobs if place != "parameters" else {}
    models = (MergeSource(path="a", parameters=own), MergeSource(path="b"))
    asked = MergeRecipe(method="linear", models=models, parameters={} if own else knobs)
    with pytest.raises(RecipeError, match=rf"{place}\.weight: (nan|inf|-inf) is no finite number"):
        checked(asked, "test")
