"""Whole merges of tiny checkpoints: what comes out, whatever layout went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from isoflop.core.digests import digest_file
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.toml import validated
from isoflop.merge import execute
from isoflop.merge.execute import merge
from isoflop.merge.plan import make_plan
from isoflop.merge.recipe import MergeRecipe, checked, load
from isoflop.store.checkpoint import commit
from isoflop.store.tensors import PIECE, Checkpoint, Stored
from merge_models import WORDS, save, tensors_of


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(**tree: Any) -> MergeRecipe:
    return checked(validated(MergeRecipe, tree, source="test"), "test")


def linear(*paths: str, **tree: Any) -> MergeRecipe:
    return recipe(method="linear", models=[{"path": path} for path in paths], **tree)


def read(path: str) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(path)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def test_sources_of_any_type_sharding_and_tying_merge() -> None:
    one, two = tensors_of(1), tensors_of(2, head=False)
    save(Path("a"), one)
    save(Path("b"), two, dtype=torch.bfloat16, shards=3)
    merge(linear("a", "b", shard_bytes=200), Path("out"))
    made = read("out")
    assert len(list(Path("out").glob("model-*.safetensors"))) > 2
    two["lm_head.weight"] = two["model.embed_tokens.weight"]
    assert set(made) == set(one)
    for name, tensor in made.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, (one[name] + two[name].bfloat16().float()) / 2)
    config = json.loads(Path("out/config.json").read_text())
    assert config["tie_word_embeddings"] is False


def test_tied_sources_stay_tied_and_a_tied_base_beside_an_untied_model_is_untied() -> None:
    save(Path("a"), tensors_of(1, head=False))
    save(Path("b"), tensors_of(2, head=False))
    save(Path("c"), tensors_of(3))
    merge(linear("a", "b"), Path("tied"))
    assert "lm_head.weight" not in read("tied")
    assert json.loads(Path("tied/config.json").read_text())["tie_word_embeddings"] is True
    merge(linear("a", "c"), Path("untied"))
    made, a, c = read("untied"), read("a"), read("c")
    torch.testing.assert_close(made["lm_head.weight"], (a["model.embed_tokens.weight"] + c["lm_head.weight"]) / 2)
    assert json.loads(Path("untied/config.json").read_text())["tie_word_embeddings"] is False
    config = json.loads(Path("a/config.json").read_text())
    del config["tie_word_embeddings"]  # many kinds of models tie where nothing is said
    Path("a/config.json").write_text(json.dumps(config))
    merge(linear("a", "c"), Path("said"))
    assert json.loads(Path("said/config.json").read_text())["tie_word_embeddings"] is False


def test_the_output_keeps_each_tensors_type_unless_another_is_asked_for() -> None:
    tensors = tensors_of(1)
    save(Path("a"), tensors, dtype=torch.bfloat16)
    save(Path("b"), tensors_of(2), dtype=torch.float16)
    merge(linear("a", "b"), Path("kept"))
    merge(linear("a", "b", dtype="float32"), Path("wide"))
    assert {t.dtype for t in read("kept").values()} == {torch.bfloat16}
    assert {t.dtype for t in read("wide").values()} == {torch.float32}
    assert json.loads(Path("kept/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert json.loads(Path("wide/config.json").read_text())["torch_dtype"] == "float32"
    for name, tensor in read("kept").items():
        assert torch.equal(tensor, read("wide")[name].bfloat16()), "computed in fp32, rounded once"


def test_slices_stack_layers_with_their_numbers_configuration_and_ends() -> None:
    a, b = tensors_of(1), tensors_of(2)
    save(Path("a"), a)
    save(Path("b"), b)
    pieces = [("a", [0, 2]), ("b", [1, 3]), ("a", [2, 3])]
    slices = [{"sources": [{"path": path, "layers": layers}]} for path, layers in pieces]
    merge(recipe(method="passthrough", slices=slices), Path("out"))
    made = read("out")
    for layer, (source, old) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2), (a, 2)]):
        for kind in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm"):
            assert torch.equal(made[f"model.layers.{layer}.{kind}.weight"], source[f"model.layers.{old}.{kind}.weight"])
    assert torch.equal(made["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    config = json.loads(Path("out/config.json").read_text())
    assert config["num_hidden_layers"] == 5
    assert config["layer_types"] == ["kind0", "kind1", "kind1", "kind2", "kind2"]
    merge(recipe(method="passthrough", slices=slices[:2]), Path("ends"))
    assert torch.equal(read("ends")["model.norm.weight"], b["model.norm.weight"]), "the last slice ends the model"


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "slerp", "ties_paper", "model_stock", "breadcrumbs"])
def test_pieces_shards_workers_and_the_order_of_tensors_change_no_bit(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(Path("base"), tensors_of(0))
    for number, name in enumerate("ab"):
        save(Path(name), tensors_of(number + 1), shards=number + 1)
    knobs: dict[str, Any] = {"slerp": {"t": 0.3}, "model_stock": {}}.get(method, {"density": 0.5})
    models = [{"path": name} for name in ("a" if method == "slerp" else "ab")]
    asked = recipe(method=method, base="base", models=models, parameters=knobs)
    merge(asked, Path("plain"))
    wanted = read("plain")
    with monkeypatch.context() as patch:
        patch.setattr(execute, "PIECE", 5)
        merge(asked.model_copy(update={"shard_bytes": 100}), Path("small"))
    for name, tensor in read("small").items():
        assert torch.equal(tensor, wanted[name]), name
    if method == "dare_ties":  # a process takes seconds to start
        merge(asked, Path("many"), workers=2)
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in read("many").items())


def test_gradients_filters_and_their_precedence() -> None:
    ones = {name: torch.ones_like(tensor) for name, tensor in tensors_of(0).items()}
    save(Path("base"), {name: 0 * tensor for name, tensor in ones.items()})
    save(Path("a"), ones)
    save(Path("b"), ones)
    own = [{"filter": "mlp", "value": [0.0, 1.0]}, {"filter": "norm", "value": 7.0}]
    asked = recipe(
        method="task_arithmetic",
        base="base",
        models=[{"path": "a", "parameters": {"weight": own}}, {"path": "b", "parameters": {"weight": 0.0}}],
        parameters={"weight": [10.0, 20.0, 40.0], "scale": 2.0},
    )
    merge(asked, Path("out"))
    made = read("out")
    for layer in range(3):
        assert float(made[f"model.layers.{layer}.mlp.up_proj.weight"].mean()) == layer  # 2 * (0, 0.5, 1)
        assert float(made[f"model.layers.{layer}.self_attn.q_proj.weight"].mean()) == 2 * (10, 20, 40)[layer]
    assert float(made["model.norm.weight"].mean()) == 14
    assert float(made["lm_head.weight"].mean()) == 20, "outside the layers the first value counts"


def test_a_union_of_tokenizers_moves_rows_by_name() -> None:
    a, b = tensors_of(1, vocab=6), tensors_of(2, vocab=7)
    save(Path("a"), a, words=WORDS)
    save(Path("b"), b, words=("<s>", "x", "b", "a", "c", "y", "e"))
    merge(linear("a", "b", tokenizer="union"), Path("out"))
    made = read("out")["lm_head.weight"]
    names = [*WORDS, "x", "y"]
    tokenizer = json.loads(Path("out/tokenizer.json").read_text())
    assert tokenizer["model"]["vocab"] == {word: number for number, word in enumerate(names)}
    rows_b = {"<s>": 0, "x": 1, "b": 2, "a": 3, "c": 4, "y": 5, "e": 6}
    for number, word in enumerate(names):
        rows = [a["lm_head.weight"][WORDS.index(word)]] if word in WORDS else []
        rows += [b["lm_head.weight"][rows_b[word]]] if word in rows_b else []
        torch.testing.assert_close(made[number], torch.stack(rows).mean(0))
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 8
    from tokenizers import Tokenizer

    assert Tokenizer.from_file("out/tokenizer.json").get_vocab_size() == 8


def bpe(texts: list[str], specials: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=40, show_progress=False))
    tokenizer.add_special_tokens(specials)
    return tokenizer


def test_a_union_of_byte_level_tokenizers_with_added_tokens_loads_and_keeps_every_id() -> None:
    from tokenizers import Tokenizer

    one = bpe(["the cat sat on the mat"] * 9, ["<s>", "<a>"])
    two = bpe(["print(value) if value else None"] * 9, ["<b>", "<s>"])
    for name, seed, tokenizer in (("a", 1, one), ("b", 2, two)):
        save(Path(name), tensors_of(seed, vocab=tokenizer.get_vocab_size()))
        tokenizer.save(f"{name}/tokenizer.json")
        Path(name, "merges.txt").write_text("old")
    merge(linear("a", "b", tokenizer="union"), Path("out"))
    made = Tokenizer.from_file("out/tokenizer.json")
    vocabulary = made.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(len(set(one.get_vocab()) | set(two.get_vocab()))))
    assert {token: vocabulary[token] for token in one.get_vocab()} == one.get_vocab()
    assert made.encode("<s>the cat<b>").ids[0] == one.token_to_id("<s>")
    assert "<b>" in made.encode("<s>the cat<b>").tokens
    assert made.decode(made.encode("the value").ids) == "the value"
    assert not Path("out/merges.txt").exists(), "it would say the old vocabulary"
    a, b, head = read("a")["lm_head.weight"], read("b")["lm_head.weight"], read("out")["lm_head.weight"]
    for token, number in vocabulary.items():
        rows = [t[v[token]] for t, v in ((a, one.get_vocab()), (b, two.get_vocab())) if token in v]
        torch.testing.assert_close(head[number], torch.stack(rows).mean(0))


def test_base_and_intersection_keep_the_bases_tokens() -> None:
    a, b = tensors_of(1, vocab=8), tensors_of(2, vocab=6)
    save(Path("a"), a, words=WORDS)  # two rows of padding
    save(Path("b"), b, words=("<s>", "a", "x", "c", "d", "e"))
    for rule in ("base", "intersection"):
        merge(linear("a", "b", tokenizer=rule), Path(rule))
        made = read(rule)["lm_head.weight"]
        assert made.shape[0] == 6
        assert torch.equal(made[2], a["lm_head.weight"][2]), "b has no such token"
        torch.testing.assert_close(made[5], (a["lm_head.weight"][5] + b["lm_head.weight"][5]) / 2)
        assert Path(f"{rule}/tokenizer.json").read_bytes() == Path("a/tokenizer.json").read_bytes()


def test_a_stack_takes_rows_from_the_models_of_its_ends_alone() -> None:
    save(Path("a"), tensors_of(1), words=WORDS)
    save(Path("b"), tensors_of(2), words=("x", *WORDS[1:]))
    slices = [{"sources": [{"path": path, "layers": [0, 3]}]} for path in "ab"]
    with pytest.raises(
        RecipeError, match=r"1 tokens, e\.g. 'x', are in no model that tensor 'model.embed_tokens.weight'"
    ):
        merge(recipe(method="passthrough", slices=slices, tokenizer="union"), Path("out"))


def test_a_yaml_as_people_write_it_passthrough_with_scales_and_idle_knobs() -> None:
    a, b = tensors_of(1), tensors_of(2)
    save(Path("a"), a)
    save(Path("b"), b)
    Path("stack.yaml").write_text(
        """
merge_method: passthrough
dtype: float32
slices:
- sources:
  - model: a
    layer_range: [0, 2]
- sources:
  - model: a
    layer_range: [1, 3]
    parameters:
      scale:
      - {filter: q_proj, value: 0.0}
      - {filter: up_proj, value: 0.5}
      - value: 1.0
"""
    )
    merge(load(Path("stack.yaml")), Path("stack"))
    made = read("stack")
    assert not made["model.layers.2.self_attn.q_proj.weight"].any()
    assert torch.equal(made["model.layers.3.mlp.up_proj.weight"], 0.5 * a["model.layers.2.mlp.up_proj.weight"])
    assert torch.equal(made["model.layers.1.self_attn.q_proj.weight"], a["model.layers.1.self_attn.q_proj.weight"])
    Path("ta.yaml").write_text(
        """
merge_method: task_arithmetic
base_model: a
models:
- model: a
- model: b
  parameters: {weight: 0.5, density: 0.3}
parameters: {rescale: false, int8_mask: true, lambda: 2}
dtype: float32
"""
    )
    merge(load(Path("ta.yaml")), Path("ta"))
    for name, tensor in read("ta").items():
        torch.testing.assert_close(tensor, b[name], atol=1e-6, rtol=1e-5)


def test_equal_tokens_at_other_padding_need_a_rule_too() -> None:
    save(Path("a"), tensors_of(1, vocab=8), words=WORDS)
    save(Path("b"), tensors_of(2, vocab=6), words=WORDS)
    merge(linear("a", "b", tokenizer="base"), Path("out"))
    assert read("out")["lm_head.weight"].shape[0] == 6


def test_whole_number_tensors_are_copied_if_they_agree() -> None:
    ids = {"model.position_ids": torch.arange(5)}
    save(Path("a"), tensors_of(1) | ids)
    save(Path("b"), tensors_of(2) | ids)
    merge(linear("a", "b"), Path("out"))
    assert read("out")["model.position_ids"].tolist() == [0, 1, 2, 3, 4]


def test_the_card_says_from_what_and_its_recipe_makes_the_same_again() -> None:
    save(Path("base"), tensors_of(0), words=WORDS)
    Path("base/chat_template.jinja").write_text("{{ messages }}")
    save(Path("a"), tensors_of(1), words=WORDS)
    models = [{"path": "a", "parameters": {"density": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}]}}]
    merge(recipe(method="ties", base="base", models=models), Path("out"))
    text = Path("out/README.md").read_text()
    for source in ("base", "a"):
        assert digest_file(Path(source) / "model.safetensors") in text
    assert Path("out/chat_template.jinja").read_text() == "{{ messages }}"
    Path("again.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    merge(load(Path("again.toml")), Path("again"))
    assert digest_file(Path("again/model.safetensors")) == digest_file(Path("out/model.safetensors"))
    merge(recipe(method="ties", base="base", models=models, chat_template="{{ x }}"), Path("other"))
    assert Path("other/chat_template.jinja").read_text() == "{{ x }}"


def test_no_more_than_a_piece_of_a_tensor_is_ever_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    big = {"model.layers.0.big.weight": torch.ones(3, PIECE)}
    for name, seed in (("base", 0), ("a", 1)):
        save(Path(name), tensors_of(seed, layers=1) | big)
    lengths: list[int] = []
    original = Stored.piece

    def measured(stored: Stored, start: int, stop: int) -> torch.Tensor:
        lengths.append(stop - start)
        return original(stored, start, stop)

    monkeypatch.setattr(Stored, "piece", measured)
    plan = merge(recipe(method="ties", base="base", models=[{"path": "a"}], parameters={"density": 0.5}), Path("out"))
    assert max(lengths) == PIECE
    assert plan.memory < 3 * PIECE * 8 + 8 * PIECE * 4


def test_the_last_checkpoints_of_a_run_are_averaged() -> None:
    run = Path("run")
    for step in (10, 20, 30):
        commit(
            run / "checkpoints",
            step,
            lambda path, step=step: save_file(tensors_of(step), path / "model.safetensors"),
            9,
        )
    damaged = run / "checkpoints" / "40"
    damaged.mkdir()
    (run / "resolved.json").write_text("{}")
    merge(recipe(method="linear", models=[{"path": "run", "checkpoints": 2}]), Path("out"))
    merge(linear("run"), Path("newest"))
    for name, tensor in read("out").items():
        torch.testing.assert_close(tensor, (tensors_of(20)[name] + tensors_of(30)[name]) / 2)
        assert torch.equal(read("newest")[name], tensors_of(30)[name])
    with pytest.raises(UsageError, match="has 3 whole checkpoints, not 4"):
        merge(recipe(method="linear", models=[{"path": "run", "checkpoints": 4}]), Path("more"))


@pytest.mark.parametrize("rule", ["same", "union"])
def test_a_model_with_an_adapter_is_the_folded_model(rule: str) -> None:
    from isoflop.merge.lora import Adapter, Factor
    from isoflop.merge.lora_files import write_adapter
    from isoflop.merge.lora_merge import fold

    names = ("model.layers.0.self_attn.q_proj", "lm_head")
    shapes = {names[0]: (4, 4), names[1]: (6, 4)}
    modules = {n: Factor(torch.randn(2, i), torch.randn(o, 2), 0.5) for n, (o, i) in shapes.items()}
    write_adapter(Adapter(modules, {"model.norm.weight": torch.ones(4)}), "lora")
    save(Path("a"), tensors_of(1), words=WORDS)
    save(Path("b"), tensors_of(2), words=WORDS if rule == "same" else ("x", *WORDS[1:]))
    fold("a", "lora", "folded")
    merge(linear("a+lora", "b", tokenizer=rule), Path("out"))
    merge(linear("folded", "b", tokenizer=rule), Path("wanted"))
    for name, tensor in read("wanted").items():
        torch.testing.assert_close(read("out")[name], tensor, atol=1e-6, rtol=0)
    text = Path("out/README.md").read_text()
    assert digest_file(Path("lora/adapter_model.safetensors")) in text
    Path("merge.yaml").write_text("merge_method: linear\nmodels: [{model: a+lora}, {model: b}]\n")
    if rule == "same":
        merge(load(Path("merge.yaml")), Path("yaml"))
        assert torch.equal(read("yaml")["lm_head.weight"], read("out")["lm_head.weight"])


def test_it_continues_where_it_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("a"), tensors_of(1))
    save(Path("b"), tensors_of(2))
    merged: list[str] = []
    original = execute.run_task

    def counted(plan: Any, task: Any, overview: Any, output: Any) -> None:
        if len(merged) == 5:
            raise KeyboardInterrupt
        original(plan, task, overview, output)
        merged.append(task.name)

    monkeypatch.setattr(execute, "run_task", counted)
    with pytest.raises(KeyboardInterrupt):
        merge(linear("a", "b"), Path("out"))
    assert not Path("out").exists()
    assert execute.continued(make_plan(linear("a", "b")), Path("out"))
    first = set(merged)
    monkeypatch.setattr(execute, "run_task", original)
    plan = make_plan(linear("a", "b"))
    later: list[str] = []
    monkeypatch.setattr(execute, "run_task", lambda *a: (later.append(a[1].name), original(*a)))
    merge(linear("a", "b"), Path("out"))
    assert set(later) == {task.name for task in plan.tasks} - first


def test_result_equals_the_function_on_loaded_tensors() -> None:
    from isoflop.merge import ties

    base, a, b = tensors_of(0), tensors_of(1), tensors_of(2)
    for name, tensors in (("base", base), ("a", a), ("b", b)):
        save(Path(name), tensors)
    models = [{"path": "a", "parameters": {"weight": 0.3}}, {"path": "b", "parameters": {"weight": 0.7}}]
    merge(recipe(method="ties", base="base", models=models, parameters={"density": 0.4}), Path("out"))
    for name, tensor in load_file("out/model.safetensors").items():
        assert torch.equal(tensor, ties(base[name], [a[name], b[name]], weight=(0.3, 0.7), density=0.4))
