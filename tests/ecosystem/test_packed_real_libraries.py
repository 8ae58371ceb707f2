"""Packed exports in the hands of others: compressed-tensors' own packing, transformers' logits, GGUF's, torchao's."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import tokenizer_toys
from isoflop.cli.main import invoke
from isoflop.compress.grids import Grid, integers
from isoflop.core.registry import get
from isoflop.models.hf.directory import Published
from isoflop.models.hf.export import Ids, export

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("packed") / "plain")


def model(directory: Path, hidden: int = 192, rounded: bool = False) -> Path:
    part: Any = get("model", "transformer")(
        d_model=64, layers=2, embedding_scale=1.0, feed_forward={"name": "swiglu", "hidden": hidden}
    )
    draw = torch.Generator().manual_seed(0)
    weights = {s.name: (0.2 * torch.randn(s.shape, generator=draw)).half().float() for s in part.shapes(300)}
    if rounded:
        block = {name: None if "down" in name else 32 for name in weights if name.startswith("blocks")}
        weights |= {n: Grid(integers(4), block[n]).rounded(weights[n]) for n in block if weights[n].ndim == 2}
    made = tokenizer_toys.byte_pairs(["it's a test of many words and of other words"] * 9, 280, [END])
    beside = lambda at, form: tokenizer_toys.directory(at, made, bos_token=END, eos_token=END)  # noqa: E731
    export(part, weights, directory, context=64, ids=Ids(0, 0), identity=0, beside=beside)
    return directory


def compressed(plain: Path, out: Path, transform: str) -> Path:
    assert invoke(["compress", str(plain), "--with", transform, "--out", str(out)]) == 0
    return out


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(torch.arange(2, 42)[None])
    return getattr(found, "logits", found).float()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("format", "block"), [("int4", 32), ("int8", 64), ("int3", 32), ("int8", 4096)])
def test_transformers_loads_what_vllm_would(format: str, block: int, dtype: str, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="needs the extra ecosystem")
    small = compressed(plain, tmp_path / "small", f'{{name="round", format="{format}", block={block}}}')
    out = tmp_path / "packed"
    assert invoke(["export", str(small), str(out), "--as", "compressed-tensors", "--dtype", dtype]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(theirs), logits(Published(small).model()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("format", "block"), [("int4", 32), ("int8", 4096), ("int8", 64), ("int3", 4096)])
def test_transformers_loads_torchaos_tensors(format: str, block: int, dtype: str, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="needs the extra ecosystem")
    from torchao.utils import TorchAOBaseTensor

    small = compressed(plain, tmp_path / "small", f'{{name="round", format="{format}", block={block}}}')
    out = tmp_path / "packed"
    assert invoke(["export", str(small), str(out), "--as", "torchao", "--dtype", dtype]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=getattr(torch, dtype)).eval()
    assert isinstance(theirs.model.layers[0].mlp.up_proj.weight, TorchAOBaseTensor)
    assert not isinstance(theirs.lm_head.weight, TorchAOBaseTensor)
    within = 1e-4 if dtype == "float32" else 0.05
    torch.testing.assert_close(logits(theirs), logits(Published(small).model()), atol=within, rtol=0)


def test_torchao_reads_the_file_itself_and_two_grids(tmp_path: Path) -> None:
    """Matrices whose columns the common block does not divide keep a scale a row."""
    support = pytest.importorskip("torchao.prototype.safetensors.safetensors_support")
    small = model(tmp_path / "small", hidden=200, rounded=True)
    assert invoke(["export", str(small), str(tmp_path / "packed"), "--as", "torchao"]) == 0
    said = json.loads((tmp_path / "packed/config.json").read_text())["quantization_config"]
    assert said["quant_type"]["default"]["_type"] == "FqnToConfig"
    with safe_open(tmp_path / "packed/model.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        read, rest = support.unflatten_tensor_state_dict(tensors, file.metadata())
    assert not rest
    for name, weight in load_file(small / "model.safetensors").items():
        found = read[name]
        assert torch.equal(found if type(found) is torch.Tensor else found.dequantize(), weight), name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.float32).eval()
    torch.testing.assert_close(logits(theirs), logits(Published(small).model()), atol=1e-4, rtol=0)


def test_compressed_tensors_packs_the_same_words(plain: Path, tmp_path: Path) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    from isoflop.compress.packing import packed_integers

    for bits in range(2, 9):
        most = 2 ** (bits - 1) - 1
        codes = torch.randint(-most, most + 1, (5, 96), generator=torch.Generator().manual_seed(bits))
        codes[:, 0] = most
        made = packed_integers(codes * 0.5, bits, None)
        assert torch.equal(made["weight_packed"], helpers.pack_to_int32(codes.to(torch.int8), bits))


@pytest.mark.parametrize(("format", "kind"), [("int4", "q4_0"), ("int8", "q8_0")])
def test_transformers_reads_the_rounded_numbers_of_a_gguf_file(
    format: str, kind: str, plain: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="needs the extra gguf")
    targets = '"blocks.*"' if kind == "q4_0" else '"*"'
    small = compressed(plain, tmp_path / "small", f'{{name="round", format="{format}", targets=[{targets}]}}')
    assert invoke(["export", str(small), str(tmp_path / "small.gguf"), "--dtype", kind]) == 0
    config = transformers.AutoConfig.from_pretrained(small)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="small.gguf", config=config, dtype=torch.float32
    ).eval()
    torch.testing.assert_close(logits(theirs), logits(Published(small).model()), atol=1e-4, rtol=0)


def test_a_directory_says_to_transformers_that_it_is_packed_our_way(plain: Path, tmp_path: Path) -> None:
    small = compressed(plain, tmp_path / "small", "round")
    assert invoke(["export", str(small), str(tmp_path / "packed"), "--as", "packed"]) == 0
    assert json.loads((tmp_path / "packed/config.json").read_text())["quantization_config"]["model_type"] == "llama"
    with pytest.raises(ValueError, match="isoflop_packed"):  # and no weights are drawn at random
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
