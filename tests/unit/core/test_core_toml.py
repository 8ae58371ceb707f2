"""Bad recipes: every problem in one report, each with its place, what is wrong and what is legal."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

import toy
from isoflop.core.errors import IsoflopError, RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.toml import override, parse
from toy import TEXT, recipe

pytestmark = pytest.mark.usefixtures("toys")


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as refusal:
        Recipe.from_toml(text, *overrides)
    assert refusal.value.exit_code == 2
    return list(refusal.value.problems)


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


BAD: dict[str, tuple[str, list[str]]] = {
    "unknown key": (
        changed("lr = 1e-3", "learning_rate = 1e-3"),
        ["line 19: optimizer.learning_rate: no such key; did you mean lr? (legal: betas, lr, name, weight_decay)"],
    ),
    "unknown table": (TEXT + "[optimiser]\nlr = 1\n", ["line 26: optimiser: no such key; did you mean optimizer?"]),
    "unknown key of train": (
        changed("keep = 2", "batch_size = 4"),
        ["line 25: train.batch_size: no such key; did you mean batch?"],
    ),
    "unknown part": (
        changed('[optimizer]\nname = "toy"', '[optimizer]\nname = "toytow"'),
        ["line 17: optimizer: no optimizer is named 'toytow'; did you mean toytwo?"],
    ),
    "unknown part of a part": (
        changed("width = 16", 'width = 16\nmixer = "tyo"'),
        ["line 16: model.mixer: no mixer is named 'tyo'; did you mean toy?"],
    ),
    "unknown key of a part of a part": (
        TEXT + '[model.mixer]\nname = "toy"\nwindows = 3\n',
        ["line 28: model.mixer.windows: no such key; did you mean window? (legal: name, window)"],
    ),
    "unknown key in a list": (
        changed('metrics = ["toy"]', 'metrics = [{name = "toy", wait = 1}]'),
        ["line 7: metrics.0.wait: no such key; did you mean weight?"],
    ),
    "no name": (changed('[model]\nname = "toy"', "[model]"), ["line 13: model: lacks its key 'name'"]),
    "text for a number": (changed("lr = 1e-3", 'lr = "fast"'), ["line 19: optimizer.lr: ", "number", "got 'fast'"]),
    "quoted number": (changed("width = 16", 'width = "16"'), ["line 15: model.width: ", "whole number", "got '16'"]),
    "float for an integer": (
        changed("width = 16", "width = 2.5"),
        ["line 15: model.width: ", "whole number", "got 2.5"],
    ),
    "bool for an integer": (
        changed("width = 16", "width = true"),
        ["line 15: model.width: ", "whole number", "got true"],
    ),
    "integer for a bool": (changed("width = 16", "tied = 1"), ["line 15: model.tied: ", "true or false", "got 1"]),
    "zero": (changed("keep = 2", "batch = 0"), ["line 25: train.batch: ", "at least 1", "got 0"]),
    "out of range": (changed("seed = 3", "seed = 9223372036854775808"), ["line 3: seed: ", "below 92233720368"]),
    "thirty digits": (
        changed("seed = 3", "seed = 1" + "0" * 30),
        ["line 3: seed: ", "below 92233720368", "got 1e+30"],
    ),
    "beyond floats": (changed("seed = 3", "seed = 1" + "0" * 400), ["holds an integer that is larger than any"]),
    "5,000 digits": (changed("seed = 3", "seed = " + "9" * 5000), ["is not TOML", "4300 digits"]),
    "5,000 hexadecimal digits": (changed("seed = 3", "seed = 0x" + "F" * 5000), ["holds an integer that is larger"]),
    "a budget of nothing": (changed("steps = 10", 'steps = "none"'), ["line 21: budget: ", "sets no axis"]),
    "a huge number for a part": (changed('objective = "toy"', "objective = 0x" + "F" * 5000), ["holds an integer"]),
    "NaN": (changed("lr = 1e-3", "lr = nan"), ["line 19: optimizer.lr: ", "finite", "got nan"]),
    "infinite budget": (changed("steps = 10", "flops = inf"), ["line 22: budget.flops: ", "finite", "got inf"]),
    "two budgets": (changed("steps = 10", "steps = 10\nflops = 1e12"), ["line 21: budget: ", "2 axes (flops, steps)"]),
    "no budget": (changed("[budget]\nsteps = 10\n", ""), ["budget: is missing"]),
    "empty budget": (changed("steps = 10", ""), ["line 21: budget: ", "sets no axis; give exactly one of"]),
    "choice": (changed("keep = 2", 'precision = "fp8"'), ["line 25: train.precision: ", "'fp32' or 'bf16', got 'fp8'"]),
    "wrong shape": (changed("lr = 1e-3", "betas = [0.9]"), ["line 19: optimizer.betas.1: is missing"]),
    "table for a number": (changed("seed = 3", "seed = {a = 1}"), ["line 3: seed: ", "whole number", "got a table"]),
    "number for a table": (changed("[train]\nkeep = 2", "").replace("seed = 3", "train = 3"), ["line 3: train: "]),
    "path for a name": (
        changed('"first"', '"../../outside"'),
        ["line 2: name: ", "should be 1 to 64 letters", "got '../../outside'"],
    ),
    "control character": (
        changed('"first"', '"a\\u0000b"'),
        ["line 2: name: ", "should be 1 to 64 letters", "got 'a\\x00b'"],
    ),
    "a date": (
        changed("seed = 3", "seed = 2026-01-01"),
        ["line 3: seed: ", "should be a whole number, got '2026-01-01'"],
    ),
    "syntax": ("[optimizer\nlr = 1", ["is not TOML: ", "line 1, column 11"]),
    "key twice": (changed("seed = 3", "seed = 3\nseed = 4"), ["is not TOML: ", "line 4"]),
    "too deep": ("a = " + "[" * 5000, ["is not TOML"]),
    "too deep in tables": (".".join(["a"] * 3000) + " = 1", ["nested too deeply"]),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_bad_recipe_is_refused_with_place_and_remedy(case: str) -> None:
    text, pieces = BAD[case]
    (problem,) = problems(text)
    for piece in pieces:
        assert piece in problem


SAID: dict[str, tuple[tuple[str, ...], str]] = {
    "a default list's entry": (("optimizer.betas.2=0.9",), "optimizer.betas is a list; its entries are 0 to 1"),
    "a wrong entry": (("optimizer.betas.0=x",), "betas.0=x: optimizer.betas.0: should be a number, got 'x'"),
    "an empty list's entry": (
        ("freeze.0=norm",),
        "freeze is a list; it is empty; give the whole list, as freeze=[...]",
    ),
    "no place": (("metrics.first=toy",), "metrics is a list; its entries are 0 to 0"),
    "a number's entry": (("seed.0=1",), "seed takes one value, neither table nor list"),
    "a table's entry": (("model.mixer.0.window=1",), "model.mixer is a table, not a list: leave .0 out"),
    "a number for a table": (("budget=200",), "budget: should be a table, with keys in braces"),
    "an example of the table": (("budget=200",), "got 200; e.g. budget = { steps = 200 }"),
    "a number for a list": (("optimizer.betas=0.9",), "optimizer.betas: should be a list, in brackets, got 0.9"),
    "a key of a part": (("lr=0.01",), "lr: no such key; did you mean optimizer.lr? (legal here: "),
    "a key by its initials": (("wd=0.01",), "wd: no such key; did you mean optimizer.weight_decay?"),
    "a key of a part of a part": (("window=3",), "window: no such key; did you mean model.mixer.window?"),
    "the override that is at fault": (
        ("optimizer=toytwo", "optimizer.beta=-1"),
        "override optimizer.beta=-1: optimizer",
    ),
    "the part that brought it": (
        ("optimizer=toytwo", "optimizer.lr=2"),
        "override optimizer.lr=2: optimizer.lr: no such",
    ),
    "the last of two": (("seed=-1", "seed=-2"), "override seed=-2: seed: "),
    "a name": (("name=a/b",), "name: should be 1 to 64 letters, digits, '.', '_' or '-', beginning with"),
}


@pytest.mark.parametrize("case", SAID, ids=str)
def test_a_bad_override_is_told_in_words(case: str) -> None:
    overrides, expected = SAID[case]
    (problem,) = problems(TEXT, *overrides)
    assert expected in problem


def test_an_entry_of_a_list_that_is_left_out_is_that_of_the_default() -> None:
    assert recipe("optimizer.betas.0=0.8").optimizer.betas == (0.8, *recipe().optimizer.betas[1:])


def test_every_error_that_a_document_can_meet_is_told_without_pydantics_words() -> None:
    """Its objects, arrays, tuples, dictionaries and patterns are no words of a TOML file."""
    values: list[Any] = [None, True, 7, -1, 2.5, "a/b", "", [], ["x", 1], {}, {"a": 1}, [[1]], {"name": 3}]
    foreign = re.compile(r"(?i)valid (object|array|tuple|dictionary|integer)|tuple|pattern|validation|field required")
    for key, below, value in itertools.product(Recipe.model_fields, ("", ".name", ".0", ".lr", ".batch"), values):
        with contextlib.suppress(IsoflopError):
            said = ""
            try:
                Recipe.from_toml(TEXT, f"{key}{below}={json.dumps(value)}")
            except RecipeError as error:
                said = "\n".join(problem.partition("; legal")[0].partition(" (legal")[0] for problem in error.problems)
            assert not foreign.search(said), said


def test_all_problems_come_in_one_report_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        changed("width = 16", "widht = 16").replace("seed = 3", "seed = -1").replace("lr = 1e-3", "lr = nan")
    )
    with pytest.raises(RecipeError) as refusal:
        Recipe.load(path, "train.keep=0", "budgets=3")
    lines = str(refusal.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    starts = [line.removeprefix(f"{path}: ") for line in lines]
    for start in (
        "line 3: seed: ",
        "line 15: model.widht: ",
        "line 19: optimizer.lr: ",
        "override train.keep=0: train.keep: ",
        "override budgets=3: budgets: no such key; did you mean budget?",
    ):
        assert any(line.startswith(start) for line in starts), start
    assert len(lines) == 5


# ---------------------------------------------------------------- files


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    for content, message in (
        (b"\xff\xfe", "is not UTF-8 text (byte 0)"),
        (b"name = 'a\xe9'", "is not UTF-8 text"),
        (b"x" * ((1 << 20) + 1), "is larger than"),
        (b"", "source: is missing"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=r"r\.toml: ") as refusal:
            Recipe.load(path)
        assert message in str(refusal.value)
    with pytest.raises(RecipeError, match="is a folder, not a file"):
        Recipe.load(tmp_path)
    with pytest.raises(UsageError, match="no such file, nor a shipped recipe of that name"):
        Recipe.load(tmp_path / "none.toml")


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert Recipe.load(path).hash == recipe().hash


# ---------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("a=1", ["a"], 1),
        ("a = 1.5 ", ["a"], 1.5),
        ("a=1e-3", ["a"], 1e-3),
        ("a=true", ["a"], True),
        ("a=word", ["a"], "word"),
        ('a="word"', ["a"], "word"),
        ("a=two words", ["a"], "two words"),
        ("a=", ["a"], ""),
        ("a=x=y", ["a"], "x=y"),
        ("a.b.c=1", ["a", "b", "c"], 1),
        ("a=[1, 2]", ["a"], [1, 2]),
        ("a={b=1}", ["a"], {"b": 1}),
        ("a=1\nb=2", ["a"], "1\nb=2"),
    ],
)
def test_an_override_is_toml_or_else_a_string(assignment: str, path: list[str], value: Any) -> None:
    tree: Any = {}
    override(tree, assignment)
    for key in path:
        tree = tree[key]
    assert tree == value


@pytest.mark.parametrize("assignment", ["a", "=1", "a..b=1", ".a=1", "a.=1", ""])
def test_what_is_no_override_is_refused(assignment: str) -> None:
    with pytest.raises(RecipeError, match=r"not of the form key\.path=value"):
        override({}, assignment)


def test_overrides_reach_into_parts_named_short_named_long_or_left_to_their_default() -> None:
    assert recipe("optimizer=toytwo").optimizer == toy.OtherOptimizer()
    assert recipe("optimizer=toytwo", "optimizer.momentum=0.5").optimizer == toy.OtherOptimizer(momentum=0.5)
    assert recipe("model.mixer.window=9").model.mixer == toy.ToyMixer(window=9)  # type: ignore[attr-defined]
    assert recipe("schedule.name=toy").schedule == toy.ToySchedule()
    short = TEXT.replace('[optimizer]\nname = "toy"\nlr = 1e-3', "")
    with pytest.raises(RecipeError, match=r"override optimizer\.lrr=1: optimizer\.lrr: no such key; did you mean lr\?"):
        Recipe.from_toml(short, "optimizer.lrr=1")
    assert (Recipe.from_toml(short, "optimizer.lr=0.5").optimizer.name) == "adamw"


def test_an_override_that_names_another_part_drops_the_old_ones_keys() -> None:
    tree = parse(TEXT, "recipe")
    override(tree, "optimizer=toytwo")
    assert tree["optimizer"] == "toytwo"


def test_the_last_override_wins() -> None:
    assert recipe("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize("name", ["a\udc80", "\udcff"])
def test_arguments_that_are_no_unicode_are_refused(name: str) -> None:
    assert problems(TEXT, f"source.folder={name}")


# ---------------------------------------------------------------- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *("name", "seed", "source", "tokenizer", "model", "objective", "optimizer", "schedule", "averaging", "metrics"),
    *("budget", "train", "source.name", "source.folder", "source.weights", "source.weights.a", "model.width"),
    *("model.mixer", "model.mixer.name", "model.mixer.window", "optimizer.lr", "optimizer.betas", "budget.flops"),
    *("budget.seconds", "train.batch", "train.clip", "train.precision", "train.device", "train.compile", "nonsense"),
]


def put(tree: Any, path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def read_back(make: Callable[[], Recipe]) -> None:
    """Nothing but a RecipeError may refuse; what is accepted can be stored and read again."""
    try:
        accepted = make()
    except RecipeError as error:
        refusal = error
    else:
        assert Recipe.from_toml(accepted.to_toml()).hash == accepted.hash
        return
    assert refusal.problems


@given(path=st.sampled_from(KEYS), value=JSON)
@settings(max_examples=300, deadline=None)
def test_any_value_at_any_key_is_a_recipe_or_a_recipe_error(path: str, value: Any) -> None:
    tree = recipe().to_json()
    put(tree, path, value)
    read_back(lambda: Recipe.from_json(tree))


@given(path=st.sampled_from(KEYS), text=st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_text_as_an_override_is_a_recipe_or_a_recipe_error(path: str, text: str) -> None:
    read_back(lambda: recipe(f"{path}={text}"))


@given(text=st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_as_a_recipe_is_refused_as_one(text: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.from_toml(text)


# ---------------------------------------------------------------- the reference corpus of damaged files

REAL = """
name = "real"
source = {name = "text", paths = ["*.txt"]}
tokenizer = "bytes"
optimizer = "adamw"

[model]
name = "transformer"
d_model = 64
layers = 2
mixer = {name = "attention", heads = 4}

[budget]
steps = 10
"""
RENAMED = {
    "optim": "optimizer",
    "model.n_layer": "model.layers",
    "model.n_head": "model.mixer.heads",
    "model.vocab_size": "tokenizer.vocab_size",
    "run.name": "name",
    "train.batch_size": "train.batch",
}
EXPECTED = {
    "ok_min.toml": "",
    "typo_component.toml": "did you mean adamw?",
    "wrong_type.toml": "optimizer.lr: ",
    "float_for_int.toml": "model.layers: ",
    "bool_for_int.toml": "model.layers: ",
    "inf_budget.toml": "budget.flops: ",
    "zero_batch.toml": "train.batch: ",
    "heads_not_dividing.toml": "heads",
    "two_budgets.toml": "sets 3 axes (flops, steps, tokens)",
    "path_traversal_run.toml": "name: ",
    "run_name_control.toml": "name: ",
    "huge_vocab.toml": "tokenizer.vocab_size: ",
    "bad_syntax.toml": "line 1, column 7",
}


def mapped(text: str) -> str:
    """The recipe ``REAL`` with the values of a foreign file, whose names are mapped to ours."""
    foreign, tree = tomllib.loads(text), tomllib.loads(REAL)
    for table, values in foreign.items():
        for key, value in values.items():
            path = f"{table}.{key}"
            if table == "budget":
                tree["budget"] = values
                continue
            path = RENAMED.get(path, f"{RENAMED.get(table, table)}.{key}")
            if path == "tokenizer.vocab_size":
                tree["tokenizer"] = {"name": "bpe"}
            put(tree, path, value)
    return tomli_w.dumps(tree)


def verdict(text: str, expected: str) -> None:
    with contextlib.suppress(tomllib.TOMLDecodeError):
        text = mapped(text)
    if expected:
        with pytest.raises(RecipeError, match=re.escape(expected)):
            Recipe.from_toml(text)
    else:
        Recipe.from_toml(text)


@pytest.mark.parametrize("file", EXPECTED)
def test_the_reference_corpus_of_bad_recipes(shared: Path, file: str) -> None:
    verdict((shared / "data" / "anchors" / "faults" / "config" / file).read_text(), EXPECTED[file])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[model]\nd_model = 32", ""),
        ('[optim]\nname = "moun"', "did you mean muon?"),
        ("[model]\nd_model = 66\nn_head = 4", "heads"),
        ("[model]\nvocab_size = 4611686018427387904", "tokenizer.vocab_size: "),
        ("[train]\nbatch_size = -1", "train.batch: "),
        ("[optim\n", "line 1, column 7"),
    ],
)
def test_own_bad_recipes_with_the_real_parts(text: str, expected: str) -> None:
    verdict(text, expected)


def test_no_recipe_names_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are names: nothing that looks like a path, a module or an expression is ever imported or run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('marker', 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil", "../evil", "isoflop.core.files", "os.system('touch marker')", "__init__", "..base", "toy.py"):
        assert "no optimizer is named" in problems(TEXT, f"optimizer.name={name!r}")[0]
    assert not os.path.exists("marker")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ladder = {}", "is a study, not a recipe: `isoflop compare FILE` runs it"),
        ("stages = {}\ntexts = {}", "is a pipeline, not a recipe: `isoflop pipeline FILE` runs it"),
        ("batches = []\ntarget = 2", "is a study of batch sizes, not a recipe: `isoflop compare FILE` runs it"),
        ("studies = {}\nbars = []", "is a claim, not a recipe: `isoflop claims run` runs it"),
    ],
)
def test_another_kind_of_document_is_told_with_its_verb(text, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        Recipe.from_toml(text)
