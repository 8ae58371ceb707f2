"""Families of masked diffusion models: LLaDA and Dream. They are read and used, not written.

Their directories come with code of their own, which is not run: both are Transformers whose every position sees every
other. LLaDA (Nie et al. 2025, arXiv 2502.09992) has Llama's layers under OLMo's names; Dream (Ye et al. 2025, arXiv
2508.15487) has Qwen 2's, and its logits stand one position before what they speak of, as in the model that it was
made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.contracts import Filling
from ...core.errors import UsageError
from ...core.registry import get
from ..architectures.transformer import MOST_LAYERS, TransformerPart
from .config import Config
from .family import Family, Sizes, Tree
from .layouts import SAME, Entry
from .llama import LlamaLike

_LAYER = {
    "mixer_norm": "attn_norm",
    "mixer.q": "q_proj",
    "mixer.k": "k_proj",
    "mixer.v": "v_proj",
    "mixer.out": "attn_out",
    "feed_forward_norm": "ff_norm",
    "feed_forward.gate": "ff_proj",
    "feed_forward.up": "up_proj",
    "feed_forward.down": "ff_out",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (False,),
    "rope": (True,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "bias_for_layer_norm": (False,),
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "attention_layer_norm": (False,),
    "include_bias": (False,),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "block_group_size": (1,),
    "clip_qkv": (),
}
"""What a LLaDA's configuration may say of these, if anything."""


def _filling(config: Config, *, shifted: bool) -> Filling:
    full: Any = get("pattern", "full")
    ids, mask = config.whole("vocab_size"), config.whole("mask_token_id")
    if mask >= ids:
        raise config.problem("mask_token_id", f"is {mask}, beyond the {ids} ids that the model knows")
    return Filling(mask=mask, ids=ids, pattern=full(), shifted=shifted)


class Llada(Family):
    """The family of LLaDA.

    Example:
        >>> sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 64, "vocab_size": 99}
        >>> config = Config({**sizes, "mask_token_id": 98}, "config.json")
        >>> Llada().read(config, tied=False)["mixer"]["kv_heads"], Llada().filling(config).mask
        (4, 98)
    """

    model_type, architecture, prefix = "llada", "LLaDAModelLM", "model.transformer."
    context_key = "max_sequence_length"

    def head(self) -> str:
        return "model.transformer.ff_out.weight"

    def filling(self, config: Config) -> Filling:
        return _filling(config, shifted=False)

    def read(self, config: Config, *, tied: bool) -> Tree:
        for key, neutral in _NEUTRAL.items():
            config.refuse(key, neutral, "no such layers are read of this family")
        config.refuse("embedding_size", (config.whole("vocab_size"),), "is not vocab_size")
        width, heads = config.whole("d_model"), config.whole("n_heads")
        shared = 1 if config.flag("multi_query_attention", False) else heads
        return {
            "name": "transformer",
            "d_model": width,
            "layers": config.whole("n_layers", most=MOST_LAYERS),
            "mixer": {
                "name": "attention",
                "heads": heads,
                "kv_heads": config.maybe_whole("n_kv_heads", shared) or shared,
                "theta": config.number("rope_theta", 10_000.0),
                "bias": config.flag("include_qkv_bias", False),
            },
            "feed_forward": {
                "name": "swiglu",
                "hidden": config.maybe_whole("mlp_hidden_size") or width * config.whole("mlp_ratio", 4),
            },
            "norm": "rms",
            "norm_eps": config.number("rms_norm_eps", 1e-5),
            "tied": tied,
            "embedding_scale": 1.0,
        }

    def entries(self, part: TransformerPart) -> list[Entry]:
        placed = {"embedding": "wte", "norm": "ln_f"}
        for i in range(part.layers):
            placed |= {f"blocks.{i}.{ours}": f"blocks.{i}.{theirs}" for ours, theirs in _LAYER.items()}
        named = [(shape.name, *shape.name.rpartition(".")[::2]) for shape in part.shapes(1)]
        return [Entry(f"{self.prefix}{placed[m]}.{kind}", (name,), SAME) for name, m, kind in named if m in placed]

    def write(self, part: TransformerPart, sizes: Sizes) -> Tree:
        raise UsageError("models of this family are read, not written", where=self.model_type)


@dataclass(frozen=True)
class DreamLike(LlamaLike):
    """The family of Dream.

    Example:
        >>> config = Config({"vocab_size": 99, "mask_token_id": 98}, "config.json")
        >>> DreamLike("Dream", "DreamModel", qkv_bias=True).filling(config).shifted
        True
    """

    def filling(self, config: Config) -> Filling:
        return _filling(config, shifted=True)

    def read(self, config: Config, *, tied: bool) -> Tree:
        config.refuse("use_sliding_window", (False,), "no windows are read of this family")
        return super().read(config, tied=tied)

    def write(self, part: TransformerPart, sizes: Sizes) -> Tree:
        raise UsageError("models of this family are read, not written", where=self.model_type)


FILLING: tuple[Family, ...] = (Llada(), DreamLike("Dream", "DreamModel", qkv_bias=True))
