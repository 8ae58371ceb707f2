"""GGUF files, read back by the package gguf: every tensor, every key that llama.cpp's loader asks for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

import tokenizer_toys
from isoflop.core.errors import DataError, IsoflopError, NumericsError, UsageError
from isoflop.core.registry import get
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.gguf import write_gguf
from isoflop.models.gguf.families import _interleaved, rope_factors
from isoflop.models.gguf.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, read_vocabulary
from isoflop.models.hf.export import Ids, export

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")

ROWS, END = 300, "<|endoftext|>"
NEEDED = {
    "general.architecture",
    "general.file_type",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.eos_token_id",
}
SIZES = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")


def write_tokenizer(at: Path, form: Any = None, *, splitter: Any = None) -> None:
    """A trained byte-level tokenizer of 280 ids, as what ``export`` writes beside the weights of any form."""
    made = tokenizer_toys.byte_pairs(["it's a test of many words and of other words"] * 9, 280, [END], splitter)
    tokenizer_toys.directory(at, made, bos_token=END, eos_token=END)


def published(directory: Path, draws: int = 0, **fields: Any) -> Path:
    """A random model of ours in Hugging Face's layout; returns its directory."""
    part: Any = get("model", "transformer")(d_model=32, layers=3, **{"embedding_scale": 1.0, **fields})
    draw = torch.Generator().manual_seed(draws)
    weights = {shape.name: torch.randn(shape.shape, generator=draw) for shape in part.shapes(ROWS)}
    export(part, weights, directory, context=64, ids=Ids(0, 0), identity=draws, beside=write_tokenizer)
    return directory


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys, and tensors dequantised."""
    reader = gguf.GGUFReader(path)
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


ATTENTION = {"name": "attention", "heads": 4, "kv_heads": 2, "head_dim": 6}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"mixer": ATTENTION},
    "llama, tied and biased": {"mixer": {**ATTENTION, "bias": True, "out_bias": True}, "tied": True, "norm": "rms"},
    "qwen2": {"mixer": {**ATTENTION, "head_dim": 8, "bias": True}},
    "qwen3": {"mixer": {**ATTENTION, "qk_norm": True}},
}
ERROR = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_comes_back_within_its_types_rounding(name: str, kind: str, tmp_path: Path) -> None:
    source = published(tmp_path / "model", **MODELS[name])
    assert write_gguf(source, tmp_path / "model.gguf", kind) == []
    fields, tensors = read(tmp_path / "model.gguf")
    family = fields["general.architecture"]
    assert {*NEEDED, *(f"{family}.{size}" for size in SIZES)} <= fields.keys()
    assert fields[f"{family}.attention.head_count_kv"] == 2
    stored = {name: tensor.numpy() for name, tensor in load_file(source / "model.safetensors").items()}
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, family.upper()), 3)
    there = {names.get_name(name, try_suffixes=(".weight", ".bias")): name for name in stored}
    assert there.keys() == tensors.keys()
    for theirs, ours in there.items():
        wanted = stored[ours]
        if family == "llama" and (".q_proj." in ours or ".k_proj." in ours):
            heads = 4 if ".q_proj." in ours else 2
            wanted = np.stack([wanted.reshape(heads, 2, 3, -1)[:, side] for side in (0, 1)], 2).reshape(wanted.shape)
        got = tensors[theirs].reshape(wanted.shape)
        if wanted.ndim < 2 or kind == "f32":
            assert np.array_equal(got, wanted)
        elif kind == "q8_0" and wanted.shape[-1] % 32 == 0:
            blocks = np.abs(wanted.reshape(-1, 32)).max(-1)
            errors = np.abs(got - wanted).reshape(-1, 32).max(-1)
            assert np.all(errors <= blocks / 127 * (0.5 + 127 * 2.0**-11) + 1e-9)  # half a step, and the scale's fp16
        elif kind == "q4_0" and wanted.shape[-1] % 32 == 0 and theirs.startswith("blk."):
            blocks = np.abs(wanted.reshape(-1, 32)).max(-1)
            errors = np.abs(got - wanted).reshape(-1, 32).max(-1)
            assert np.all(errors <= blocks / 8 * (1 + 8 * 2.0**-11) + 1e-9)  # a step: codes reach from -8 to 7
        else:
            assert np.all(np.abs(got - wanted) <= ERROR.get(kind, ERROR["f16"]) * np.abs(wanted) + 1e-7)


@pytest.mark.parametrize(("kind", "most"), [("q4_0", 7), ("q8_0", 127)])
def test_what_was_rounded_before_keeps_its_numbers(kind: str, most: int, tmp_path: Path) -> None:
    source = published(tmp_path / "model", **MODELS["llama"])
    file = source / "model.safetensors"
    stored = load_file(file)
    for name, tensor in stored.items():
        if ".layers." in name and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            blocks = tensor.view(-1, 32)
            scales = (blocks.abs().amax(1, keepdim=True) / most).half().float()
            codes = (blocks / scales).round().clamp(-most, most)
            codes[0] = codes[0].clamp(1 - most, most - 2)  # a block may leave the largest integers out
            stored[name] = (codes * scales).view(tensor.shape)
    save_file(stored, file)
    write_gguf(source, tmp_path / "model.gguf", kind)
    _, tensors = read(tmp_path / "model.gguf")
    assert np.array_equal(tensors["blk.1.ffn_up.weight"], stored["model.layers.1.mlp.up_proj.weight"].numpy())
    assert np.array_equal(tensors["blk.0.ffn_up.weight"], stored["model.layers.0.mlp.up_proj.weight"].numpy())


@given(st.integers(1, 4), st.integers(1, 5), st.booleans())
@settings(max_examples=30, deadline=None)
def test_rows_change_places_such_that_neighbours_turn_together(heads: int, pairs: int, bias: bool) -> None:
    stored = torch.arange(heads * 2 * pairs * 3.0).reshape(heads * 2 * pairs, 3)
    stored = stored[:, 0] if bias else stored
    made = _interleaved(stored, heads)
    for head in range(heads):
        for pair in range(pairs):
            for side in (0, 1):
                at = head * 2 * pairs
                assert torch.equal(made[at + 2 * pair + side], stored[at + side * pairs + pair])


def test_frequencies_of_llama_3_are_stretched_where_they_turn_seldom() -> None:
    position = {"name": "llama3", "factor": 8.0, "low": 1.0, "high": 4.0, "original": 64}
    mixer = {"name": "attention", "heads": 4, "theta": 10_000.0, "position": position}
    factors = rope_factors(TransformerPart.model_validate({"d_model": 64, "mixer": mixer}))
    assert factors is not None
    assert factors[0] == 1.0  # turns 10 times in 64 tokens
    assert factors[-1] == 8.0  # does not turn once
    assert torch.all(factors[1:] >= factors[:-1])


def test_what_a_configuration_leaves_out_is_the_familys_own_default(tmp_path: Path) -> None:
    mixer = {"name": "attention", "heads": 4, "qk_norm": True, "qk_norm_whole": True}
    source = published(tmp_path / "model", arrangement="output_norm", mixer=mixer)
    config = json.loads((source / "config.json").read_text())
    del config["rms_norm_eps"]
    (source / "config.json").write_text(json.dumps(config))
    write_gguf(source, tmp_path / "model.gguf", "f32")
    fields, _ = read(tmp_path / "model.gguf")
    assert fields["olmo2.attention.layer_norm_rms_epsilon"] == np.float32(1e-5)


def test_a_tied_head_is_written_where_llama_cpp_wants_one(tmp_path: Path) -> None:
    mixer = {"name": "attention", "heads": 4, "qk_norm": True, "qk_norm_whole": True}
    source = published(tmp_path / "model", arrangement="output_norm", tied=True, mixer=mixer)
    write_gguf(source, tmp_path / "model.gguf", "f32")
    fields, tensors = read(tmp_path / "model.gguf")
    assert fields["general.architecture"] == "olmo2"
    assert np.array_equal(tensors["output.weight"], tensors["token_embd.weight"])


def test_ids_that_no_tokenizer_has_are_unused_and_ends_are_known(tmp_path: Path) -> None:
    write_gguf(published(tmp_path / "model"), tmp_path / "model.gguf")
    fields, _ = read(tmp_path / "model.gguf")
    kinds = fields["tokenizer.ggml.token_type"]
    assert len(kinds) == ROWS
    assert kinds[0] == CONTROL
    assert set(kinds[1:280]) == {NORMAL}
    assert set(kinds[280:]) == {UNUSED}
    assert fields["tokenizer.ggml.tokens"][0] == END
    assert fields["tokenizer.ggml.eos_token_id"] == fields["tokenizer.ggml.bos_token_id"] == 0
    assert fields["tokenizer.ggml.pre"] == "gpt-2"


def test_a_splitting_rule_that_llama_cpp_lacks_is_told(tmp_path: Path) -> None:
    source = published(tmp_path / "model")
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel()])
    write_tokenizer(source, splitter=splitter)
    (note,) = write_gguf(source, tmp_path / "model.gguf")
    assert "no rule that splits texts" in note


def test_pieces_get_scores_in_the_order_of_their_merges(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4, "aba": 5}
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": vocab}
    tree = {"model": {**model, "merges": [["a", "b"], ["ab", "a"]]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    found = read_vocabulary(tmp_path, 7, pytest.fail)
    assert found.model == "llama"
    assert found.types == [UNKNOWN, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, UNUSED]
    assert found.scores[4] > found.scores[5] > found.scores[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is given"),
        ({"query_pre_attn_scalar": 7}, "llama.cpp takes the head's size, 8"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused_and_nothing_is_left(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = published(tmp_path / "model", mixer={"name": "attention", "heads": 4})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(DataError, match=message):
        write_gguf(source, tmp_path / "out" / "model.gguf")
    assert not (tmp_path / "out").exists()


LEARNED = {
    "mixer": {"name": "attention", "heads": 4, "position": "none", "bias": True, "out_bias": True},
    "feed_forward": {"name": "gelu", "bias": True},
    "norm": "layer",
    "positions": 64,
    "tied": True,
}
CAPPED = {
    "mixer": {"name": "attention", "heads": 4, "cap": 50.0},
    "feed_forward": "geglu",
    "norm": "rms_offset",
    "arrangement": "sandwich",
    "tied": True,
    "embedding_scale": 32**0.5,
    "cap": 30.0,
}


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        (LEARNED, {"scale_attn_weights": False}, "not divided by the square root of the head's size, 8"),
        (LEARNED, {"scale_attn_by_inverse_layer_idx": True}, "not divided by the square root of the head's size, 8"),
        (CAPPED, {"query_pre_attn_scalar": None}, "not divided by the square root of the head's size, 8"),
        (CAPPED, {"attn_logit_softcapping": None}, "attn_logit_softcapping is null"),
        (CAPPED, {"final_logit_softcapping": None}, "final_logit_softcapping is null"),
    ],
)
def test_scores_that_llama_cpp_does_not_compute_are_refused(
    fields: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = published(tmp_path / "model", **fields)
    write_gguf(source, tmp_path / "sound.gguf")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(DataError, match=message):
        write_gguf(source, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": ["sliding_attention"] * 3},
        {"layer_types": None, "sliding_window_pattern": 3},
        {"sliding_window": None, "max_position_embeddings": 8192},
    ],
)
def test_layers_whose_windows_are_not_where_llama_cpp_has_them_are_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    windows = [{"name": "window", "size": 16}, None, {"name": "window", "size": 16}]
    mixers = [{**CAPPED["mixer"], "pattern": pattern} for pattern in windows]
    source = published(tmp_path / "model", **{**CAPPED, "mixer": mixers})
    write_gguf(source, tmp_path / "sound.gguf")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(DataError, match="each layer of 2 sees everything"):
        write_gguf(source, tmp_path / "model.gguf")


def test_a_window_that_llama_cpp_lacks_is_told_also_where_it_is_the_familys_own(tmp_path: Path) -> None:
    source = published(tmp_path / "model", mixer={**ATTENTION, "pattern": {"name": "window", "size": 16}})
    (note,) = write_gguf(source, tmp_path / "model.gguf")
    assert "longer than 16 tokens" in note
    config = json.loads((source / "config.json").read_text())
    del config["sliding_window"]
    (source / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    (note,) = write_gguf(source, tmp_path / "other.gguf")
    assert "longer than 4096 tokens" in note


def test_values_beyond_fp16_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = published(tmp_path / "model")
    part: Any = get("model", "transformer")(d_model=32, layers=3, embedding_scale=1.0)
    weights = {shape.name: torch.full(shape.shape, 1e6) for shape in part.shapes(ROWS)}
    export(part, weights, tmp_path / "large", context=64, ids=Ids(0, 0), identity=1, beside=write_tokenizer)
    with pytest.raises(NumericsError, match="not finite in f16"):
        write_gguf(tmp_path / "large", tmp_path / "out" / "large.gguf")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(UsageError, match="exists already"):
        write_gguf(source, tmp_path / "large")


def test_a_directory_without_tokenizer_and_one_with_too_many_ids_are_refused(tmp_path: Path) -> None:
    source = published(tmp_path / "model")
    with pytest.raises(DataError, match="beyond the 200 rows"):
        read_vocabulary(source, 200, pytest.fail)
    (source / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="has no tokenizer"):
        write_gguf(source, tmp_path / "model.gguf")


ODD: list[Any] = [
    None,
    True,
    -1,
    3,
    1.5,
    10**30,
    "",
    "x",
    "a\ud800",
    [],
    ["x"],
    {},
    {"a": 1},
    [{}],
    [[1]],
    [["a"]],
    [[["a"]]],
]
PLACES: dict[str, list[tuple[Any, ...]]] = {
    "tokenizer.json": [
        (),
        ("model",),
        ("model", "vocab"),
        ("model", "merges"),
        ("model", "byte_fallback"),
        ("added_tokens",),
        ("added_tokens", 0, "id"),
        ("added_tokens", 0, "content"),
        ("pre_tokenizer",),
        ("pre_tokenizer", "type"),
        ("post_processor",),
    ],
    "tokenizer_config.json": [(), ("chat_template",), ("bos_token",), ("eos_token_id",), ("add_bos_token",)],
}
TABLES: dict[str, list[Any]] = {
    "vocab": [{"a": value} for value in ODD],
    "merges": [["ab"], ["a b c"], [["a", "b", "c"]]],
    "pre_tokenizer": [{"type": "Sequence", **more} for more in ({}, {"pretokenizers": [3]}, {"pretokenizers": 3})],
    "post_processor": [{"type": "TemplateProcessing", **more} for more in ({}, {"single": [3]}, {"single": 3})],
    "chat_template": [[{"name": "default"}], [{"name": "default", "template": 3}], [{"name": "other", "template": ""}]],
}


@pytest.mark.parametrize("pieces", [False, True])
def test_a_tokenizer_of_any_values_is_written_or_refused_by_its_file(pieces: bool, tmp_path: Path) -> None:
    source, out = published(tmp_path / "model", **MODELS["llama"]), tmp_path / "model.gguf"
    sound = {name: json.loads((source / name).read_text()) for name in PLACES}
    sound["tokenizer.json"]["model"]["byte_fallback"] = pieces
    cases = [
        (name, path, value)
        for name, paths in PLACES.items()
        for path in paths
        for value in [*ODD, *TABLES.get(str(path[-1]) if path else "", [])]
    ]
    for name, path, value in cases:
        tree: Any = json.loads(json.dumps({"root": sound[name]}))
        place: Any = tree
        for key in ("root", *path)[:-1]:
            place = place[key]
        place[path[-1] if path else "root"] = value
        (source / name).write_text(json.dumps(tree["root"]))
        try:
            write_gguf(source, out)
        except IsoflopError as error:
            problem = str(error)
        else:
            problem = str(source)
            out.unlink()
        assert str(source) in problem, (path, value, problem)
        assert [path.name for path in tmp_path.iterdir()] == ["model"], (path, value)
        (source / name).write_text(json.dumps(sound[name]))


def test_a_directory_whose_name_is_no_text_and_one_that_does_not_fit_its_tensors(tmp_path: Path) -> None:
    source = published(tmp_path / "model", **MODELS["llama"]).rename(tmp_path / os.fsdecode(b"m\xff"))
    write_gguf(source, tmp_path / "model.gguf")
    assert read(tmp_path / "model.gguf")[0]["general.name"] == "m?"
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_attention_heads": 5, "num_key_value_heads": 5}))
    with pytest.raises(DataError, match="has the shape"):
        write_gguf(source, tmp_path / "other.gguf")
