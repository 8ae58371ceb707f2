"""Published models in and out, without the libraries that wrote them: places of numbers, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from isoflop.core.errors import DataError, IsoflopError, NumericsError, UsageError
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.hf.config import Config
from isoflop.models.hf.directory import Published, load
from isoflop.models.hf.export import Ids, export
from isoflop.models.hf.families import FAMILIES, equivalents, form_of, part_of, rewritten, variants
from isoflop.models.hf.family import Sizes, canonical, tiled
from isoflop.models.hf.layouts import interleaved
from published_toys import CONFIGS, VOCAB, directory, shapes, weights, write
from transformer_toys import context, part

TOKENS = torch.randint(0, VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))


def stored(path: Path) -> dict[str, Tensor]:
    """All tensors of a directory."""
    return {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def written(source: Path, out: Path, **more: Any) -> Any:
    """A directory, read and written again."""
    found = Published(source)
    model, chosen = load(source)
    return export(
        chosen, dict(model.named_parameters()), out, context=found.context, ids=Ids(1, 2), identity="test", **more
    )


def test_every_family_has_a_toy() -> None:
    assert set(FAMILIES) == set(CONFIGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_what_comes_in_goes_out_bit_for_bit(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source = directory(tmp_path / "in", family, dtype=dtype, shards=3)
    form = written(source, tmp_path / "out", dtype=str(dtype).removeprefix("torch."), shard_bytes=4000)
    assert form.family.model_type == family
    assert form.remarks == ()
    ours, theirs = stored(tmp_path / "out"), stored(source)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in ours.items()} if family == "gpt2" else ours
    assert set(bare) == set(theirs)
    assert all(torch.equal(bare[name], theirs[name]) and bare[name].dtype == dtype for name in theirs)
    again, _ = load(tmp_path / "out")
    assert torch.equal(again(TOKENS), load(source)[0](TOKENS))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert config["torch_dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_every_tensor_matters_and_cached_steps_equal_one_forward(family: str, tmp_path: Path) -> None:
    source = directory(tmp_path, family)
    model, _ = load(source)
    before, tensors = model(TOKENS), stored(source)
    cache: Any = model.make_cache(2, 2)  # type: ignore[operator]
    steps = [model.step(piece, cache) for piece in TOKENS.split([5, 1, 3, *[1] * 8], 1)]  # type: ignore[operator]
    torch.testing.assert_close(torch.cat(steps, 1), before, rtol=0, atol=1e-5)
    for name, tensor in tensors.items():  # not by one number, which softmax and norms would not see
        changed = {**tensors, name: tensor + torch.linspace(0, 1, tensor.numel()).view_as(tensor)}
        write(source, changed)
        assert not torch.allclose(load(source)[0](TOKENS), before, atol=1e-6), name


@torch.no_grad()
def test_a_llama_is_its_definition(tmp_path: Path) -> None:
    """From the files alone, in float64, head by head."""
    source = directory(tmp_path, "llama", num_hidden_layers=1)
    w = {name.removeprefix("model."): tensor.double() for name, tensor in stored(source).items()}
    x = w["embed_tokens.weight"][TOKENS[0]]

    def norm(h: Tensor, gain: Tensor) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain

    def turned(h: Tensor) -> Tensor:
        a, b = h.chunk(2, -1)
        angles = torch.outer(torch.arange(len(h)).double(), 500.0 ** -(torch.arange(2).double() / 2))
        return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)

    at = "layers.0."
    g = norm(x, w[f"{at}input_layernorm.weight"])
    q, k, v = (g @ w[f"{at}self_attn.{name}_proj.weight"].T for name in "qkv")
    mixed = []
    for head in range(3):
        scores = (turned(q[:, 4 * head :][:, :4]) @ turned(k).T / 2).tril().exp().tril()
        mixed.append(scores / scores.sum(-1, keepdim=True) @ v)
    x = x + torch.cat(mixed, -1) @ w[f"{at}self_attn.o_proj.weight"].T
    g = norm(x, w[f"{at}post_attention_layernorm.weight"])
    gate, up = (g @ w[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    x = x + gate * gate.sigmoid() * up @ w[f"{at}mlp.down_proj.weight"].T
    wanted = norm(x, w["norm.weight"]) @ w["lm_head.weight"].T
    torch.testing.assert_close(load(source)[0](TOKENS)[0].double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("heads", "head_dim", "turning"), [(2, 6, 2), (3, 8, 8), (1, 10, 4)])
def test_interleaved_queries_keys_and_values_come_apart_head_by_head(heads: int, head_dim: int, turning: int) -> None:
    layout = interleaved(heads, head_dim, turning)
    x = torch.randn(3 * heads * head_dim, 5)
    q, k, v = layout.split(x)
    assert torch.equal(layout.join([q, k, v]), x)
    half, rest = turning // 2, (head_dim - turning) // 2
    order = [*range(half), *range(turning, turning + rest), *range(half, turning), *range(turning + rest, head_dim)]
    rows = x.view(heads, 3, head_dim, 5)
    for head in range(heads):
        own = slice(head * head_dim, (head + 1) * head_dim)
        assert torch.equal(q[own], rows[head, 0][order])
        assert torch.equal(k[own], rows[head, 1][order])
        assert torch.equal(v[own], rows[head, 2])


def test_bare_models_and_stored_masks_are_read(tmp_path: Path) -> None:
    source = directory(tmp_path, "llama", tie_word_embeddings=True)
    tensors = stored(source)
    before = load(source)[0](TOKENS)
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    write(source, {**bare, "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    assert torch.equal(load(source)[0](TOKENS), before)
    gpt2 = directory(tmp_path / "gpt2", "gpt2")
    before, tensors = load(gpt2)[0](TOKENS), stored(gpt2)
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 40, 40) for i in range(2)}
    write(gpt2, {f"transformer.{name}": tensor for name, tensor in tensors.items()} | masks)
    assert torch.equal(load(gpt2)[0](TOKENS), before)


def spoil_config(**changes: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tree = json.loads((path / "config.json").read_text())
        tree.update(changes)
        (path / "config.json").write_text(json.dumps({key: value for key, value in tree.items() if value is not ...}))

    return spoil


def spoil_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors = stored(path)
        change(tensors)
        write(path, tensors)

    return spoil


def pickled(path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save({}, path / "pytorch_model.bin")


def escaping(path: Path) -> None:
    tensors = stored(path)
    write(path, tensors, 2)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "../model.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


FAULTS: dict[str, tuple[Callable[[Path], None], type[IsoflopError], str]] = {
    "no config": (lambda path: (path / "config.json").unlink(), DataError, r"has no config\.json"),
    "no table": (lambda path: path.joinpath("config.json").write_text("[]") and None, DataError, "is no table"),
    "no family": (spoil_config(model_type=...), DataError, "model_type is missing; known are llama, mistral"),
    "unknown family": (
        spoil_config(model_type="lama", architectures=["LamaForCausalLM"]),
        DataError,
        r"model_type is 'lama' \(LamaForCausalLM\), a family that is not known here.*did you mean llama\?",
    ),
    "not JSON": (spoil_config(note=float("nan")), DataError, "NaN is no JSON number"),
    "quantised": (spoil_config(quantization_config={"bits": 4}), DataError, "quantised weights are not read"),
    "rope type": (
        spoil_config(rope_scaling={"rope_type": "llama4", "factor": 2.0}),
        DataError,
        r"rope_type is 'llama4', which is not known here; did you mean llama3\?",
    ),
    "longrope": (spoil_config(rope_scaling={"type": "longrope"}), DataError, "default, linear, llama3, yarn"),
    "rope without its factor": (spoil_config(rope_scaling={"rope_type": "linear"}), DataError, "factor is missing"),
    "partial rotary": (spoil_config(partial_rotary_factor=0.5), DataError, "which this family has not"),
    "activation": (
        spoil_config(hidden_act="quick_gelu"),
        DataError,
        r"hidden_act is 'quick_gelu', and no activation of that name is known here; .*silu",
    ),
    "no number": (spoil_config(hidden_size="12"), DataError, "hidden_size is '12', not a whole number"),
    "missing number": (spoil_config(num_hidden_layers=...), DataError, "num_hidden_layers is missing"),
    "heads": (spoil_config(num_attention_heads=4, num_key_value_heads=3), DataError, "kv_heads: 3 do not divide"),
    "odd heads": (spoil_config(head_dim=5), DataError, "head_dim: is 5, but rotary positions need an even one"),
    "other width": (
        spoil_config(intermediate_size=21),
        DataError,
        r"'model\.layers\.0\.mlp\.gate_proj\.weight' has the shape \[20, 12\], the configuration wants \[21, 12\]",
    ),
    "other vocabulary": (spoil_config(vocab_size=20), DataError, r"has the shape \[19, 12\].*wants \[20, 12\]"),
    "fewer layers": (spoil_config(num_hidden_layers=1), DataError, r"9 tensors are beyond those that a llama"),
    "more layers": (spoil_config(num_hidden_layers=3), DataError, r"lacks 9 tensors.*model\.layers\.2\."),
    "missing tensor": (
        spoil_tensors(lambda t: t.pop("model.norm.weight")),
        DataError,
        r"lacks 1 tensors.*'model\.norm\.weight'; fetch all files",
    ),
    "extra tensor": (
        spoil_tensors(lambda t: t.update({"model.norm.bias": torch.zeros(12)})),
        DataError,
        r"1 tensors are beyond.*'model\.norm\.bias'",
    ),
    "whole numbers": (
        spoil_tensors(lambda t: t.update({"model.norm.weight": torch.zeros(12, dtype=torch.int8)})),
        DataError,
        "'model.norm.weight' is stored as I8",
    ),
    "not finite": (
        spoil_tensors(lambda t: t["model.norm.weight"].fill_(torch.nan)),
        NumericsError,
        r"'model\.norm\.weight' holds NaN",
    ),
    "pickled": (pickled, DataError, "pickled weights only.*isoflop convert"),
    "path out of the directory": (
        escaping,
        DataError,
        r"'\.\./model\.safetensors', which is no safetensors file of this",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_directories_are_refused_with_one_clear_error(fault: str, tmp_path: Path) -> None:
    spoil, kind, message = FAULTS[fault]
    source = directory(tmp_path / "in", "llama")
    spoil(source)
    with pytest.raises(kind, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)
    with pytest.raises(kind):
        written(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


SIZES = [True, 0, -1, 1, 7, 10**6, 10**15, 10**30, 10**400, 1e308, 1e-320, 0.5, float("inf"), float("nan")]
ODD = [None, "x", "false", [], {}, ["x"], [{}], {"a": 1}, {"full_attention": {}}, {"rope_type": []}, *SIZES]
ROPES = [
    {"rope_type": kind, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, key: value}
    for kind in ("linear", "llama3", "yarn")
    for key, value in [
        *(("rope_theta", size) for size in SIZES),
        *(("factor", size) for size in SIZES),
        *(("original_max_position_embeddings", size) for size in SIZES),
        *(("beta_fast", size) for size in SIZES),
        *(("mscale", size) for size in SIZES),
    ]
]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_configuration_of_any_values_is_read_or_refused_by_its_file(family: str, tmp_path: Path) -> None:
    source = directory(tmp_path, family)
    tree = json.loads((source / "config.json").read_text())
    cases = [(key, value) for key in ({*tree} - {"model_type"}) for value in ODD]
    cases += [(key, rope) for key in ("rope_parameters", "rope_scaling") for rope in ROPES]
    for key, value in random.Random(family).sample(cases, 150) + [(key, 10**30) for key in tree]:
        (source / "config.json").write_text(json.dumps({**tree, key: value}))
        if problem := refusal(source):
            assert str(source) in problem, (key, value)
            assert len(problem) < 600, (key, value)


def refusal(source: Path) -> str:
    """Why a directory is not read; "" where it is read and computes."""
    try:
        model, _ = load(source)
    except IsoflopError as error:
        return str(error)
    with torch.no_grad():
        return "" if model(TOKENS).shape == (*TOKENS.shape, VOCAB) else "computes nothing of the right shape"


VARIANTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "default": ({}, "llama", 0),
    "tied": ({"tied": True}, "llama", 1),
    "tied as they are": ({"tied": True, "embedding_scale": 1.0}, "llama", 0),
    "heads that do not divide": ({"d_model": 30, "mixer": {"heads": 4, "head_dim": 8}}, "mistral", 0),
    "window": ({"mixer": {"heads": 4, "pattern": {"name": "window", "size": 4}}}, "mistral", 0),
    "query-key norm": ({"mixer": {"heads": 4, "qk_norm": True}}, "qwen3", 0),
    "biases of the projections": ({"mixer": {"heads": 4, "bias": True}}, "qwen2", 0),
    "gpt2": (
        {"mixer": {"heads": 4, "position": "none"}, "positions": 30, "feed_forward": "gelu", "norm": "layer"},
        "gpt2",
        1,
    ),
    "primer with layer norms": (
        {"feed_forward": "squared_relu", "norm": {"name": "layer", "bias": False}},
        "gpt_neox",
        1,
    ),
    "gemma": ({"norm": "rms_offset", "feed_forward": "geglu", "tied": True}, "gemma", 0),
}


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_variant_goes_out_as_its_family_and_computes_the_same(variant: str, tmp_path: Path) -> None:
    fields, family, remarks = VARIANTS[variant]
    chosen = part(**fields)
    model = chosen.build(context())
    for p in model.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p))))
    form = export(chosen, model.state_dict(), tmp_path / "out", context=30, ids=Ids(), identity="test")
    assert (form.family.model_type, len(form.remarks)) == (family, remarks)
    torch.testing.assert_close(load(tmp_path / "out")[0](TOKENS), model(TOKENS), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"arrangement": "parallel"},
            r"the nearest is llama, but for model\.arrangement = parallel \(it has pre_norm\)",
        ),
        ({"feed_forward": "gelu"}, r"nearest is llama, but for model\.feed_forward = gelu \(it has swiglu\)"),
        ({"cap": 5.0}, r"nearest is llama, but for model\.cap = 5\.0 \(it has none\)"),
        ({"mixer": {"heads": 4, "pattern": "full"}}, "no family of published models has the pattern full"),
        ({"mixer": {"name": "recurrent"}}, "no family of published models has the mixer recurrent"),
        ({"mixer": {"name": "hstu"}}, "no family of published models has the mixer hstu"),
        ({"mixer": {"heads": 4, "convolution": 3}}, r"but for model\.mixer\.convolution = 3 \(it has none\)"),
        ({"norm": "none"}, r"but for model\.norm = none \(it has rms\)"),
    ],
)
def test_a_variant_of_no_family_is_refused_with_the_nearest(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    chosen = part(**fields)
    with pytest.raises(UsageError, match=message):
        export(chosen, chosen.build(context()).state_dict(), tmp_path / "out", context=9, ids=Ids(), identity="test")
    assert list(tmp_path.iterdir()) == []


def test_an_export_never_overwrites_and_refuses_what_its_type_cannot_hold(tmp_path: Path) -> None:
    chosen = part()
    weights = {name: tensor.clone() for name, tensor in chosen.build(context()).state_dict().items()}
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        export(chosen, weights, tmp_path / "there", context=9, ids=Ids(), identity="test")
    weights["norm.weight"][0] = 1e30
    with pytest.raises(NumericsError, match=r"'model\.norm\.weight' would hold values that are not finite in float16"):
        export(chosen, weights, tmp_path / "out", context=9, ids=Ids(), identity="test", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_family_writes_all_that_it_reads(family: str) -> None:
    config = Config(CONFIGS[family], "toy")
    found = part_of(config, tied=bool(CONFIGS[family].get("tie_word_embeddings", True)))
    form = form_of(found, Sizes(VOCAB, 64))
    assert form.family.model_type == family
    assert canonical(part_of(Config(form.config, "again"), tied=found.tied)) == canonical(found)


def test_equivalent_forms_compute_the_same() -> None:
    chosen: TransformerPart = part(tied=True, norm="layer", embedding_scale=3.0)
    model = chosen.build(context())
    forms = list(equivalents(chosen))
    assert len(forms) == 4
    for form, _ in forms:
        other = form.build(context())
        other.load_state_dict(rewritten(model.state_dict(), chosen, form, 53))
        torch.testing.assert_close(other(TOKENS), model(TOKENS), rtol=0, atol=1e-5)


def test_layers_are_listed_as_briefly_as_can_be() -> None:
    a, b = {"name": "a"}, {"name": "b"}
    assert tiled([a, a, a]) == a
    assert tiled([a, b, a]) == [a, b]
    assert tiled([a, b, b]) == [a, b, b]


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt_neox", "gpt2"])
def test_defaults_of_a_configuration_are_the_familys(family: str) -> None:
    """What a file does not say (older ones say only what differs from the class) means what the family says."""
    spare = {"gpt2": {"n_layer": 1, "n_embd": 12, "n_head": 3}}.get(family, {"hidden_size": 512})
    spare |= {"qwen2": {"num_attention_heads": 64}, "gemma2": {"num_attention_heads": 8}}.get(family, {})
    kept = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = {**{key: value for key, value in CONFIGS[family].items() if key in kept}, **spare}
    found = part_of(Config(config, "toy"), tied=FAMILIES[family].tied)
    mixer: Any = found.blocks()[0][0]
    if family == "qwen2":
        assert (mixer.dimensions(512)[1], mixer.theta, mixer.pattern, found.norm_eps) == (32, 10_000.0, None, 1e-6)
    if family == "gemma2":
        assert (mixer.head_dim, mixer.cap, found.cap, mixer.pattern.size) == (256, 50.0, 30.0, 4096)
    if family == "gpt_neox":
        assert (mixer.position.fraction, found.arrangement.name, found.norm_eps) == (0.25, "parallel", 1e-5)
    if family == "gpt2":
        assert (found.positions, found.norm_eps, found.tied) == (1024, 1e-5, True)


def test_toys_hold_what_their_configurations_say() -> None:
    assert all(weights(CONFIGS[family]).keys() == shapes(CONFIGS[family]).keys() for family in CONFIGS)


def test_the_table_of_families_says_what_makes_each_of_them() -> None:
    found = {name: set(said) for name, (_, said) in variants().items()}
    assert found["llama"] == set()
    assert found["qwen2"] == {"mixer.bias=true"}
    assert "mixer.position=none in some layers" in found["smollm3"]
    assert {"feed_forward=gelu", "feed_forward.exact=true", "feed_forward.bias=true"} <= found["gpt_neox"]
    assert len({frozenset(said) for said in found.values()}) == len(FAMILIES), "no two are one"
