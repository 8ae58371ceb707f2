"""`isoflop export --as`: rounded and sparse weights in few bits, and back, over the verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import tokenizer_toys
from isoflop.cli.main import invoke
from isoflop.compress.packing import read_packed
from isoflop.core.registry import get
from isoflop.models.hf.directory import Published
from isoflop.models.hf.export import Ids, export

INT4 = '{name="round", format="int4"}'
NM = "{name='sparsify', n=2, m=4}"


def model(directory: Path, **fields: Any) -> Path:
    part: Any = get("model", "transformer")(d_model=32, layers=2, **{"embedding_scale": 1.0, **fields})
    draw = torch.Generator().manual_seed(0)
    weights = {shape.name: 0.2 * torch.randn(shape.shape, generator=draw) for shape in part.shapes(300)}
    made = tokenizer_toys.byte_pairs(["it's a test of many words and of other words"] * 9, 280, ["<|endoftext|>"])
    export(
        part,
        weights,
        directory,
        context=64,
        ids=Ids(0, 0),
        identity=0,
        beside=lambda at, form: tokenizer_toys.directory(at, made, bos_token="<|endoftext|>"),
    )
    return directory


def run(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert invoke(list(args)) == code
    told = capsys.readouterr()
    return told.err if code else told.out


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    directory = model(root / "plain")
    assert invoke(["compress", str(directory), "--with", NM, "--with", INT4, "--out", str(root / "small")]) == 0
    return root / "small"


def logits(directory: Path) -> torch.Tensor:
    found: torch.Tensor = Published(directory).model()(torch.arange(40)[None])
    return found.detach()


def test_packed_weights_come_back_to_the_bit(rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / "packed", tmp_path / "again"
    told = json.loads(run(capsys, "export", str(rounded), str(out), "--as", "packed", "--json"))
    assert told["packed"] == 14
    assert told["bits"] == pytest.approx((4 + 2) / 2 + 16 / 32)
    assert told["plain"] == ["lm_head.weight", "model.embed_tokens.weight"]
    ours, theirs = dict(read_packed(out)), load_file(rounded / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].float(), tensor) for name, tensor in theirs.items())
    sizes = [sum(f.stat().st_size for f in at.glob("*.safetensors")) for at in (out, rounded)]
    assert sizes[0] < 0.6 * sizes[1], "the embedding and the head are as large as they were"
    assert (out / "tokenizer.json").is_file()
    assert json.loads((out / "config.json").read_text())["model_type"] == "isoflop_packed", "nobody else loads codes"
    assert (out / "compression.json").is_file()
    assert "isoflop export DIRECTORY OUT" in run(capsys, "eval", str(out), "--text", __file__, code=3)
    run(capsys, "export", str(out), str(again))
    assert torch.equal(logits(again), logits(rounded))


def test_a_directory_for_vllm_says_how_its_integers_lie(
    rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packed"
    run(capsys, "export", str(rounded), str(out), "--as", "compressed-tensors", "--dtype", "float16")
    said = json.loads((out / "config.json").read_text())
    assert said["torch_dtype"] == "float16"
    (group,) = said["quantization_config"]["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, 32)
    assert said["quantization_config"]["ignore"] == ["embed_out", "lm_head", "model.transformer.ff_out"]
    tensors = load_file(out / "model.safetensors")
    assert "model.layers.0.mlp.up_proj.weight" not in tensors
    assert tensors["model.layers.0.mlp.up_proj.weight_packed"].dtype == torch.int32
    assert tensors["lm_head.weight"].dtype == torch.float16
    scales = {tensor.dtype for name, tensor in tensors.items() if name.endswith("weight_scale")}
    assert scales == {torch.float32}, "readers multiply in their type"


@pytest.mark.parametrize(("bits", "kind"), [(4, "IntxUnpackedToInt8Tensor"), (8, "Int8Tensor")])
def test_a_directory_for_torchao_says_what_each_tensor_is(
    bits: int, kind: str, rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, out, name = tmp_path / "small", tmp_path / "out", "model.layers.0.mlp.up_proj.weight"
    transform = f'{{name="round", format="int{bits}", block=16}}'
    run(capsys, "compress", str(rounded.parent / "plain"), "--with", transform, "--out", str(small))
    told = json.loads(run(capsys, "export", str(small), str(out), "--as", "torchao", "--json"))
    assert told["bits"] == 8 + 32 / 16 + (8 / 16 if bits < 8 else 0), "codes, scales and zero points in whole bytes"
    with safe_open(out / "model.safetensors", "pt") as file:
        said, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    plain = load_file(small / "model.safetensors")
    assert set(json.loads(said["tensor_names"])) == set(plain)
    assert json.loads(said["lm_head.weight"]) == {"_type": "Tensor"}
    facts = json.loads(said[name])
    assert (facts["_type"], facts["_data"]["block_size"]) == (kind, [1, 16])
    held = {part: tensors.pop(f"model.layers.0.mlp.up_proj._weight_{part}") for part in facts["_tensor_data_names"]}
    assert not any(key.startswith("model.layers.0.mlp.up_proj") for key in tensors)
    assert torch.equal(held["qdata"].float() * held["scale"].repeat_interleave(16, 1), plain[name])
    assert not held.get("zero_point", torch.zeros(1)).any()
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "torchao"
    assert "lm_head" in config["modules_to_not_convert"]
    assert "quantised weights are not read" in run(capsys, "eval", str(out), "--text", __file__, code=3)


def test_torchao_takes_integers_alone(rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    transform = '{name="round", format="mxfp8_e4m3"}'
    run(capsys, "compress", str(rounded.parent / "plain"), "--with", transform, "--out", str(small))
    for form in ("torchao", "compressed-tensors"):
        told = run(capsys, "export", str(small), str(tmp_path / "out"), "--as", form, code=2)
        assert f"is mxfp8_e4m3; {form} holds integers alone" in " ".join(told.split())
        assert not (tmp_path / "out").exists()


def test_what_cannot_be_packed_leaves_nothing_behind(
    rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, out = rounded.parent / "plain", tmp_path / "out"
    refused = (
        (str(plain), "packed", "packed: the model has no matrix that is rounded or sparse"),
        (str(plain), "compressed-tensors", "compressed-tensors: the model has no matrix that is rounded"),
        (str(plain), "torchao", "torchao: the model has no matrix that is rounded or sparse"),
        (str(rounded), "packd", "did you mean packed?"),
    )
    for source, form, words in refused:
        assert words in run(capsys, "export", source, str(out), "--as", form, code=2)
        assert not list(tmp_path.iterdir())
    assert "a GGUF file's types" in run(capsys, "export", str(rounded), f"{out}.gguf", "--as", "packed", code=2)
    out.mkdir()
    assert "exists already" in run(capsys, "export", str(rounded), str(out), "--as", "packed", code=2)
    broken = tmp_path / "broken"
    run(capsys, "export", str(rounded), str(broken), "--as", "packed")
    config = json.loads((broken / "config.json").read_text())
    config["quantization_config"]["version"] = 2
    (broken / "config.json").write_text(json.dumps(config))
    assert "is packed by version 2, and 1 is read" in run(capsys, "export", str(broken), str(tmp_path / "c"), code=3)
    assert not (tmp_path / "c").exists()


def test_a_layout_with_columns_first_is_packed_along_its_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {
        "tied": True,
        "positions": 64,
        "norm": "layer",
        "mixer": {"name": "attention", "heads": 4, "bias": True, "out_bias": True, "position": "none"},
        "feed_forward": {"name": "gelu", "bias": True, "hidden": 64},
    }
    source = model(tmp_path / "gpt2", **fields)
    run(capsys, "compress", str(source), "--with", INT4, "--out", str(tmp_path / "small"))
    assert json.loads((tmp_path / "small/config.json").read_text())["model_type"] == "gpt2"
    told = json.loads(run(capsys, "export", str(tmp_path / "small"), str(tmp_path / "p"), "--as", "packed", "--json"))
    assert told["packed"] == 8
    run(capsys, "export", str(tmp_path / "p"), str(tmp_path / "again"))
    assert torch.equal(logits(tmp_path / "again"), logits(tmp_path / "small"))
    for form in ("compressed-tensors", "torchao"):
        args = ("export", str(tmp_path / "small"), str(tmp_path / "v"), "--as", form)
        assert "is a gpt2" in run(capsys, *args, code=2)
