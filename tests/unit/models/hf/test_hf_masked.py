"""LLaDA- and Dream-style directories: read without code of theirs, computed as a plain restatement does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tokenizer_toys
from isoflop.cli.main import invoke
from isoflop.core.contracts import Draws, TokenBatch
from isoflop.core.errors import DataError, UsageError
from isoflop.core.rng import Rng
from isoflop.decode.decoders.top_probability import TopProbabilityPart
from isoflop.decode.unmask import Unmask
from isoflop.ledger.audit import Audit
from isoflop.models.hf.config import Config
from isoflop.models.hf.directory import Published
from isoflop.models.hf.families import FAMILIES, family_of, form_of, part_of
from isoflop.pipelines.rephrasers import ModelRephraser
from isoflop.pipelines.scorer_models import ReadingModel
from isoflop.train.restore import published
from published_toys import write

WIDTH, HEADS, KV, INNER, LAYERS = 16, 4, 2, 24, 2
LLADA = {
    "model_type": "llada", "architectures": ["LLaDAModelLM"], "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    "d_model": WIDTH, "n_heads": HEADS, "n_kv_heads": KV, "n_layers": LAYERS, "mlp_hidden_size": INNER,
    "rope": True, "rope_theta": 500.0, "alibi": False, "rms_norm_eps": 1e-5, "layer_norm_type": "rms",
    "block_type": "llama", "activation_type": "silu", "weight_tying": False, "max_sequence_length": 64,
}  # fmt: skip
DREAM = {
    "model_type": "Dream", "architectures": ["DreamModel"], "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
    "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": KV, "num_hidden_layers": LAYERS,
    "intermediate_size": INNER, "hidden_act": "silu", "rope_theta": 500.0, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": None, "max_position_embeddings": 64,
}  # fmt: skip
NAMES = {  # ours in this file: LLaDA's, Dream's
    "norm1": ("attn_norm", "input_layernorm"), "norm2": ("ff_norm", "post_attention_layernorm"),
    "q": ("q_proj", "self_attn.q_proj"), "k": ("k_proj", "self_attn.k_proj"), "v": ("v_proj", "self_attn.v_proj"),
    "o": ("attn_out", "self_attn.o_proj"), "gate": ("ff_proj", "mlp.gate_proj"), "up": ("up_proj", "mlp.up_proj"),
    "down": ("ff_out", "mlp.down_proj"),
}  # fmt: skip
TOP = {
    "embed": ("model.transformer.wte", "model.embed_tokens"),
    "norm": ("model.transformer.ln_f", "model.norm"),
    "head": ("model.transformer.ff_out", "lm_head"),
}
KINDS = {"llada": (LLADA, 0, "model.transformer.blocks"), "Dream": (DREAM, 1, "model.layers")}


def drawn(kind: str, vocab: int) -> dict[str, Tensor]:
    """Random weights by the names of this file."""
    draw = torch.Generator().manual_seed(3)
    sizes = {"q": (WIDTH, WIDTH), "k": (8, WIDTH), "v": (8, WIDTH), "o": (WIDTH, WIDTH)}
    sizes |= {"gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}
    found = {"embed": torch.randn(vocab, WIDTH, generator=draw), "norm": 1 + torch.randn(WIDTH, generator=draw) / 4}
    found["head"] = torch.randn(vocab, WIDTH, generator=draw) / 2
    for layer in range(LAYERS):
        for name, size in sizes.items():
            found[f"{layer}.{name}"] = 0.4 * torch.randn(size, generator=draw)
        for name in ("norm1", "norm2"):
            found[f"{layer}.{name}"] = 1 + torch.randn(WIDTH, generator=draw) / 4
        if kind == "Dream":
            found |= {f"{layer}.{n}.bias": 0.3 * torch.randn(len(found[f"{layer}.{n}"]), generator=draw) for n in "qkv"}
    return found


def directory(path: Path, kind: str, **changes: Any) -> tuple[Path, dict[str, Tensor], int]:
    """A directory of that style with random weights and a tokenizer, its weights, and its mask."""
    config, place, prefix = KINDS[kind]
    tokenizer_toys.directory(path, tokenizer_toys.byte_level(), eos_token="<|endoftext|>")
    vocab = 600
    weights = drawn(kind, vocab)
    theirs = {}
    for name, tensor in weights.items():
        layer, _, own = name.partition(".")
        own, _, bias = own.partition(".")
        at = f"{prefix}.{layer}.{NAMES[own][place]}" if own else TOP[layer][place]
        theirs[f"{at}.{bias or 'weight'}"] = tensor
    mask = vocab - 5
    (path / "config.json").write_text(json.dumps({**config, "vocab_size": vocab, "mask_token_id": mask, **changes}))
    write(path, theirs)
    return path, weights, mask


def restated(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The model in a few lines of float64, every position seeing every other."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    x, n, d = w["embed"][tokens], tokens.shape[1], WIDTH // HEADS
    angles = torch.outer(torch.arange(n).double(), 500.0 ** (-torch.arange(0, d, 2).double() / d))
    cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * gain

    def heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, d).transpose(1, 2)

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    for i in range(LAYERS):
        h = norm(x, w[f"{i}.norm1"])
        q, k, v = (heads(F.linear(h, w[f"{i}.{m}"], w.get(f"{i}.{m}.bias"))) for m in "qkv")
        q, k = turned(q), turned(k).repeat_interleave(HEADS // KV, 1)
        p = torch.softmax(q @ k.transpose(2, 3) / d**0.5, -1) @ v.repeat_interleave(HEADS // KV, 1)
        x = x + F.linear(p.transpose(1, 2).flatten(2), w[f"{i}.o"])
        h = norm(x, w[f"{i}.norm2"])
        x = x + F.linear(F.silu(F.linear(h, w[f"{i}.gate"])) * F.linear(h, w[f"{i}.up"]), w[f"{i}.down"])
    return F.linear(norm(x, w["norm"]), w["head"])


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return request.param, *directory(tmp_path_factory.mktemp("masked") / "model", request.param)


def test_logits_are_those_of_a_plain_restatement(made: Any) -> None:
    kind, path, weights, mask = made
    found = Published(path)
    filling, model = found.filling, found.model()
    assert filling is not None
    assert (filling.mask, filling.shifted, found.context) == (mask, kind == "Dream", 64)
    tokens = torch.tensor([[5, mask, 9, mask, 30, 2, mask]])
    with torch.no_grad():
        ours = filling.logits(model, tokens)
    theirs = restated(weights, tokens)
    theirs = theirs.roll(1, 1) if kind == "Dream" else theirs
    allowed = [i for i in range(theirs.shape[-1]) if i != mask]
    assert torch.allclose(ours.double()[..., allowed], theirs[..., allowed], atol=1e-4)
    assert (ours[..., mask] == -torch.inf).all()


def test_it_writes_and_fills_in(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, path, _, mask = made
    loaded = published(path)
    decoder = TopProbabilityPart(block=4, steps=2).build(loaded.ctx)
    assert isinstance(decoder, Unmask)
    ids = decoder.generate(loaded.model, [[5, 6, 7], [9]], 8, Rng(0))
    assert [len(sample) for sample in ids] == [8, 8]
    assert mask not in {token for sample in ids for token in sample}
    capsys.readouterr()
    assert invoke(["generate", str(path), "--infill", "--prompt", "a<gap:3>b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 3


def test_its_bits_per_byte_are_a_bound_by_its_own_conventions(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own mask hides, its logits stand where it has them, and the mask has no probability."""
    kind, path, weights, mask = made
    loaded = published(path)
    objective: Any = loaded.recipe.objective.build(loaded.ctx)
    whole, hidden = torch.tensor([[7, 5, 9, mask + 2, 30]]), torch.tensor([[True, False, True, True]])
    batch = TokenBatch(whole[:, :-1], whole[:, 1:], 4, draws=Draws(Rng(0)))
    ours = objective.log_p(batch, 0)(hidden)[hidden]
    shown = torch.cat((whole[:, :1], whole[:, 1:].masked_fill(hidden, mask)), 1)
    logits = restated(weights, shown)[:, :-1] if kind == "Dream" else restated(weights, shown[:, 1:])
    logits[..., mask] = -torch.inf
    theirs = torch.log_softmax(logits, -1).gather(-1, whole[:, 1:, None]).squeeze(-1)[hidden]
    assert torch.allclose(ours.double(), theirs, atol=1e-4)
    with Audit() as audit:
        spent = objective.nll(batch).spent["evaluation"]
    assert audit.total() == spent.executed
    with pytest.raises(DataError, match=f"holds the id {mask}, which stands for what is hidden"):
        objective.nll(TokenBatch(whole[:, :-1], torch.full((1, 4), mask), 4, draws=Draws(Rng(0))))
    (path.parent / "text.txt").write_text("what it says of this text\n" * 4)
    capsys.readouterr()
    assert invoke(["eval", str(path), "--text", str(path.parent / "text.txt")]) == 0
    said = capsys.readouterr().out
    assert "<=" in said
    assert "an upper bound, the mean over 8 random masks" in said


def test_nobody_asks_it_what_comes_next(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read from left to right, a model of any order gives numbers that mean nothing, and no error."""
    found = published(made[1])
    with pytest.raises(UsageError, match="trained to see what follows"):
        ReadingModel(found, "a", "b", {})
    with pytest.raises(UsageError, match="trained to see what follows"):
        ModelRephraser(found, "a", {})
    (tmp_path / "task.jsonl").write_text('{"query": "a", "choices": ["b", "c"], "gold": 0}\n')
    for command, words in (
        (("eval", str(made[1]), "--task", str(tmp_path / "task.jsonl")), "trained to see what follows"),
        (("export", str(made[1]), str(tmp_path / "out")), "no causal model is like it"),
        (("serve", str(made[1])), "only what writes from left to right is served"),
    ):
        assert invoke(list(command)) == 2
        assert words in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


PUBLISHED: dict[str, dict[str, Any]] = {
    # As config.json of GSAI-ML/LLaDA-8B-Base and of Dream-org/Dream-v0-Base-7B.
    "llada": {
        "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"}, "bias_for_layer_norm": False, "block_group_size": 1,
        "block_type": "llama", "d_model": 4096, "embedding_dropout": 0.0, "embedding_size": 126464,
        "eos_token_id": 126081, "flash_attention": False, "include_bias": False, "include_qkv_bias": False,
        "init_cutoff_factor": None, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
        "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True, "mask_token_id": 126336,
        "max_sequence_length": 4096, "mlp_hidden_size": 12288, "mlp_ratio": 4, "model_type": "llada",
        "multi_query_attention": None, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "pad_token_id": 126081,
        "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-05, "rope": True,
        "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False, "transformers_version": "4.46.3",
        "use_cache": False, "vocab_size": 126464, "weight_tying": False,
    },
    "Dream": {
        "architectures": ["DreamModel"], "attention_dropout": 0.0,
        "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584,
        "initializer_range": 0.02, "intermediate_size": 18944, "mask_token_id": 151666,
        "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "Dream", "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "pad_token_id": 151643, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.46.2", "use_cache": True, "use_mrope": False,
        "use_sliding_window": False, "vocab_size": 152064,
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "tensors", "numbers"), [("llada", 291, 8_015_581_184), ("Dream", 339, 7_615_616_512)])
def test_the_published_configurations_are_read(kind: str, tensors: int, numbers: int) -> None:
    """By what their authors' code reads: the tensors' names, how many there are, and their numbers in all."""
    config = Config(PUBLISHED[kind], "config.json")
    model, family = part_of(config, tied=False), family_of(config)
    _, place, prefix = KINDS[kind]
    wanted = {f"{name[place]}.weight" for name in TOP.values()}
    for layer in range(model.layers):
        wanted |= {f"{prefix}.{layer}.{name[place]}.weight" for name in NAMES.values()}
        wanted |= {f"{prefix}.{layer}.{NAMES[n][1]}.bias" for n in "qkv" if kind == "Dream"}
    assert {entry.theirs for entry in family.all_entries(model)} == wanted
    assert len(wanted) == tensors
    assert sum(shape.numel for shape in model.shapes(config.whole("vocab_size"))) == numbers
    filling = family.filling(config)
    assert filling is not None
    assert (filling.mask, filling.shifted) == (PUBLISHED[kind]["mask_token_id"], kind == "Dream")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llada", {"alibi": True}, "alibi is True"),
        ("llada", {"block_type": "sequential"}, "block_type is 'sequential'"),
        ("llada", {"embedding_size": 640}, "embedding_size is 640"),
        ("llada", {"mask_token_id": 600}, "beyond the 600 ids"),
        ("llada", {"mask_token_id": None}, "mask_token_id is missing"),
        ("Dream", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("Dream", {"mask_token_id": 700}, "beyond the 600 ids"),
    ],
)
def test_what_is_not_read_is_refused(tmp_path: Path, kind: str, changes: Any, message: str) -> None:
    path, _, _ = directory(tmp_path / "model", kind, **changes)
    with pytest.raises(DataError, match=message):
        _ = Published(path).filling


def test_no_model_of_ours_is_written_as_one_of_them(made: Any) -> None:
    found = Published(made[1])
    from isoflop.models.hf.family import Sizes

    assert made[0] not in FAMILIES
    assert form_of(found.part, Sizes(600, 64)).family.model_type in FAMILIES
