"""Reading and writing safetensors directories piece by piece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from isoflop.core.digests import digest_file
from isoflop.core.errors import DataError
from isoflop.store.tensor_writer import Layout, lay_out, open_output
from isoflop.store.tensors import DTYPES, NAMES, Checkpoint, HeldTensor, as_bytes, convert_pickled, layer_of, pieces


def layout_of(tensors: dict[str, torch.Tensor], shard_bytes: int = 1 << 40) -> Layout:
    return lay_out([(n, NAMES[t.dtype], tuple(t.shape)) for n, t in tensors.items()], shard_bytes)


def write(path: Path, tensors: dict[str, torch.Tensor], shard_bytes: int = 1 << 40) -> None:
    with open_output(path, layout_of(tensors, shard_bytes), "0" * 64) as output:
        for name, tensor in tensors.items():
            output.write(name, 0, as_bytes(tensor))
            output.finished(name)


def sample(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=draw).to(dtype)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=draw).to(dtype)
    return torch.randint(0, 100, shape, generator=draw).to(dtype)


KINDS = st.sampled_from([*DTYPES.values()])
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(KINDS, SHAPES), min_size=1, max_size=8), st.integers(1, 400))
def test_what_is_written_is_read_by_us_and_by_the_formats_own_library(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[torch.dtype, tuple[int, ...]]], shard_bytes: int
) -> None:
    tensors = {f"t.{i}": sample(dtype, shape, i) for i, (dtype, shape) in enumerate(kinds)}
    path = tmp_path_factory.mktemp("layout") / "out"
    write(path, tensors, shard_bytes)
    ours = Checkpoint(path)
    theirs = {name: t for file in path.glob("*.safetensors") for name, t in load_file(file).items()}
    assert set(ours.tensors) == set(theirs) == set(tensors)
    for name, tensor in tensors.items():
        for other in (ours.read(name), theirs[name]):
            assert other.dtype == tensor.dtype
            assert other.shape == tensor.shape
            assert bytes(as_bytes(other)) == bytes(as_bytes(tensor))
    if len(list(path.glob("*.safetensors"))) > 1:
        index = json.loads((path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.numel() * t.dtype.itemsize for t in tensors.values())


def test_a_tensor_is_read_piece_by_piece_in_the_type_asked_for(tmp_path: Path) -> None:
    tensor = sample(torch.bfloat16, (7, 11), 0)
    save_file({"a": sample(torch.float32, (3,), 1), "w": tensor}, tmp_path / "model.safetensors")
    flat = Checkpoint(tmp_path).flat("w", torch.float32)
    parts = [flat.piece(start, stop) for start, stop in pieces(flat.numel, 10)]
    assert [len(part) for part in parts] == [10] * 7 + [7]
    assert torch.equal(torch.cat(parts), tensor.float().reshape(-1))
    assert torch.equal(flat.whole(), tensor.float())
    assert torch.equal(HeldTensor(tensor).piece(10, 20), tensor.reshape(-1)[10:20])


def test_every_shards_header_says_what_is_said_of_all() -> None:
    headers = lay_out([("a", "F32", (10,)), ("b", "F32", (10,))], 40, said={"tensor_names": "[]"}).headers
    assert len(headers) == 2
    for header in headers.values():
        assert json.loads(header[8:])["__metadata__"] == {"format": "pt", "tensor_names": "[]"}


def test_shards_are_no_larger_than_asked_unless_one_tensor_is() -> None:
    layout = lay_out([("a", "F32", (10,)), ("b", "F32", (10,)), ("c", "F32", (100,)), ("d", "F32", (1,))], 80)
    placed = {name: info.file.name for name, info in layout.tensors.items()}
    assert placed["a"] == placed["b"] == "model-00001-of-00003.safetensors"
    assert placed["c"] == "model-00002-of-00003.safetensors"
    assert placed["d"] == "model-00003-of-00003.safetensors"


@pytest.mark.parametrize("stored", [False, True])
def test_a_tied_head_is_the_embedding_whether_or_not_it_is_stored(tmp_path: Path, stored: bool) -> None:
    embedding = sample(torch.float32, (5, 3), 0)
    tensors = {"model.embed_tokens.weight": embedding} | ({"lm_head.weight": embedding.clone()} if stored else {})
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.tied
    assert list(checkpoint.tensors) == ["model.embed_tokens.weight"]
    assert torch.equal(checkpoint.read("lm_head.weight"), embedding)


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": torch.zeros(5, 3), "lm_head.weight": torch.ones(5, 3)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    with pytest.raises(DataError, match=r"model\.safetensors: .*lm_head\.weight"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    assert not Checkpoint(tmp_path).tied


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(0, 30)), max_size=30), st.booleans())
def test_files_hashed_while_they_are_read_have_the_same_digest_in_any_order_of_reading(
    tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int, int]], in_order: bool
) -> None:
    path = tmp_path_factory.mktemp("hash")
    save_file({f"t{i}": sample(torch.float32, (30,), i) for i in range(5)}, path / "model.safetensors")
    checkpoint = Checkpoint(path)
    checkpoint.hash_while_reading()
    for number, start, stop in reads:
        checkpoint.flat(f"t{number}").piece(min(start, stop), max(start, stop))
    if in_order:
        for name in checkpoint.tensors:
            for at in pieces(30, 7):
                checkpoint.flat(name).piece(*at)
    wanted = {"model.safetensors": digest_file(path / "model.safetensors")}
    assert checkpoint.digests() == wanted
    assert checkpoint.digests() == wanted, "asked again, the files are read"


def test_layers_are_counted_by_the_first_number_of_a_name() -> None:
    assert layer_of("model.layers.12.mlp.experts.3.w1.weight") == 12
    assert layer_of("transformer.h.0.attn.c_attn.weight") == 0
    assert layer_of("model.norm.weight") is None


def test_pickled_weights_are_converted_without_running_their_code(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert {name: t.tolist() for name, t in convert_pickled([tmp_path / "pytorch_model.bin"])} == {
        name: t.tolist() for name, t in tensors.items()
    }
    torch.save({"a": torch.ones(1), "evil": Path("x")}, tmp_path / "evil.bin")
    with pytest.raises(DataError, match=r"evil\.bin"):
        list(convert_pickled([tmp_path / "evil.bin"]))
    torch.save({"a": torch.ones(1), "step": 3}, tmp_path / "more.bin")
    with pytest.raises(DataError, match="something else"):
        list(convert_pickled([tmp_path / "more.bin"]))
