"""Families whose layers are Llama's but for a few values: the table below says which.

Each has gated feed-forwards, rotary positions, grouped key-value heads and root-mean-square norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..architectures.transformer import MOST_LAYERS, TransformerPart
from .config import Config
from .family import GATED, Family, Sizes, Tree, activation_of, tiled
from .layouts import SAME, Entry
from .rope import read_rope, write_rope

FULL, SLIDING = "full_attention", "sliding_attention"
_LAYER = (
    ("mixer.q", "self_attn.q_proj"),
    ("mixer.k", "self_attn.k_proj"),
    ("mixer.v", "self_attn.v_proj"),
    ("mixer.out", "self_attn.o_proj"),
    ("mixer.q_norm", "self_attn.q_norm"),
    ("mixer.k_norm", "self_attn.k_norm"),
    ("feed_forward.gate", "mlp.gate_proj"),
    ("feed_forward.up", "mlp.up_proj"),
    ("feed_forward.down", "mlp.down_proj"),
)
_NORMS = {
    "pre_norm": {"mixer_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"},
    "output_norm": {"mixer_norm": "post_attention_layernorm", "feed_forward_norm": "post_feedforward_layernorm"},
    "sandwich": {
        "mixer_norm": "input_layernorm",
        "mixer_output_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_output_norm": "post_feedforward_layernorm",
    },
}


@dataclass(frozen=True)
class LlamaLike(Family):
    """One of the families.

    Args:
        model_type: its name in a configuration.
        architecture: name of its class in a configuration.
        norm: name of our norm.
        arrangement: name of our arrangement.
        activation: key of the activation, and its default.
        attention_bias: whether the configuration may ask for biases of all projections.
        qkv_bias: whether queries, keys and values always have one.
        mlp_bias: whether the configuration may ask for biases of the feed-forward.
        qk_norm: of each head, of all together, or none.
        head_dim: where it is not the width / heads unless the configuration says so.
        kv_heads: where they are not as many as the heads unless the configuration says so.
        tied: whether the head is the embedding where the configuration does not say.
        scaled: whether embedded tokens are multiplied by the square root of the width.
        scored: whether scores have a factor and bounds of their own (Gemma 2 and 3).
        windows: none; one for all layers; or by the layer's type.
        local_theta: base of the wavelengths of sliding layers, where it is their own.
        theta: default base.
        eps: default of the norms.
        skips: some layers have no positions (SmolLM 3).
        sizes: those that a configuration may leave out, by its keys.
        prefix: what the names of all tensors but the head's begin with.
        ignored: patterns of tensors without parameters.

    Example, of a family without biases whose layers all have a window:
        >>> mistral = LlamaLike("mistral", "MistralForCausalLM", windows="all", kv_heads=8)
        >>> sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 16}
        >>> mixer = mistral.read(Config(sizes, "config.json"), tied=False)["mixer"]
        >>> mixer["kv_heads"], mixer["bias"], mixer["pattern"]
        (8, False, {'name': 'window', 'size': 4096})
    """

    model_type: str
    architecture: str
    norm: str = "rms"
    arrangement: str = "pre_norm"
    activation: tuple[str, str] = ("hidden_act", "silu")
    attention_bias: bool = False
    qkv_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["", "head", "whole"] = ""
    head_dim: int | None = None
    kv_heads: int | None = None
    tied: bool = False
    scaled: bool = False
    scored: Literal["", "capped", "plain"] = ""
    windows: Literal["", "all", "types"] = ""
    local_theta: float | None = None
    theta: float = 10_000.0
    eps: float = 1e-6
    skips: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    prefix: str = "model."
    ignored: tuple[str, ...] = ("*.rotary_emb.inv_freq",)

    def head(self) -> str:
        return "lm_head.weight"

    # ------------------------------------------------------------ in

    def read(self, config: Config, *, tied: bool) -> Tree:
        config.refuse("use_bidirectional_attention", (False,), "only causal models are read")
        width, layers = config.whole("hidden_size"), config.whole("num_hidden_layers", most=MOST_LAYERS)
        feed_forward = config.choice(self.activation[0], GATED, self.activation[1], "activation")
        if self.norm == "rms_offset" and config.tree.get(self.activation[0]) == "gelu":
            feed_forward = GATED[self.activation[1]]  # Gemma's first files said gelu and meant its tanh form
        bias = self.mlp_bias and config.flag("mlp_bias", False)
        feed_forward = {**feed_forward, "hidden": config.whole("intermediate_size"), "bias": bias}
        found: Tree = {
            "name": "transformer",
            "d_model": width,
            "layers": layers,
            "mixer": tiled([self._mixer(config, layer, kind) for layer, kind in enumerate(self._types(config))]),
            "feed_forward": feed_forward,
            "norm": self.norm,
            "norm_eps": config.number("rms_norm_eps", self.eps),
            "arrangement": self.arrangement,
            "tied": tied,
            "embedding_scale": width**0.5 if self.scaled else 1.0,
        }
        if self.scored == "capped":
            found["cap"] = config.maybe_number("final_logit_softcapping", 30.0)
        elif self.scored:
            found["cap"] = config.maybe_number("final_logit_softcapping")
        return found

    def _mixer(self, config: Config, layer: int, kind: str) -> Tree:
        heads, width = config.whole("num_attention_heads"), config.whole("hidden_size")
        asked = self.attention_bias and config.flag("attention_bias", False)
        found: Tree = {
            "name": "attention",
            "heads": heads,
            "kv_heads": config.maybe_whole("num_key_value_heads", self.kv_heads) or heads,
            "head_dim": config.maybe_whole("head_dim", self.head_dim) or width // heads,
            "bias": asked or self.qkv_bias,
            "out_bias": asked,
            **self._position(config, layer, kind),
        }
        if self.qk_norm:
            eps = config.number("rms_norm_eps", self.eps)
            found |= {"qk_norm": True, "qk_norm_by": self.norm, "norm_eps": eps}
            found["qk_norm_whole"] = self.qk_norm == "whole"
        if self.scored:
            found["scale"] = config.number("query_pre_attn_scalar", 256) ** -0.5
        if self.scored == "capped":
            found["cap"] = config.maybe_number("attn_logit_softcapping", 50.0)
        elif self.scored:
            config.refuse("attn_logit_softcapping", (), "this family does not bound its scores")
        if kind == SLIDING:
            found["pattern"] = {"name": "window", "size": config.whole("sliding_window", 4096)}
        return found

    def _types(self, config: Config) -> list[str]:
        """The type of each layer."""
        layers = config.whole("num_hidden_layers")
        if not self.windows:
            return [FULL] * layers
        if self.windows == "all":
            there = config.tree.get("sliding_window", 4096) is not None
            return [SLIDING if there else FULL] * layers
        given = config.listed("layer_types", layers)
        if given is not None:
            if bad := [kind for kind in given if kind not in (FULL, SLIDING)]:
                raise config.problem("layer_types", f"holds {bad[0]!r}, a type of layer that is not known here")
            sliding = self._slides(config)
            return [kind if sliding else FULL for kind in given]
        return self._usual_types(config, layers)

    def _slides(self, config: Config) -> bool:
        """Whether layers of the sliding type have windows at all."""
        if self.scored:
            return config.tree.get("sliding_window", 4096) is not None
        return config.flag("use_sliding_window", False) and config.tree.get("sliding_window", 4096) is not None

    def _usual_types(self, config: Config, layers: int) -> list[str]:
        """The types where the configuration does not list them."""
        if not self._slides(config):
            return [FULL] * layers
        if self.scored:
            default = 2 if self.local_theta is None else 6
            every = config.whole("sliding_window_pattern", default)
            return [SLIDING if (layer + 1) % every else FULL for layer in range(layers)]
        if self.skips:
            return [FULL if self._turns(config, layer) else SLIDING for layer in range(layers)]
        first = config.tree.get("max_window_layers", 28)
        if not isinstance(first, int):
            raise config.problem("max_window_layers", f"is {first!r}, not a whole number")
        return [SLIDING if layer >= first else FULL for layer in range(layers)]

    def _position(self, config: Config, layer: int, kind: str) -> Tree:
        if self.skips and not self._turns(config, layer):
            return {"position": "none"}
        if self.local_theta is None:
            theta, position = read_rope(config, self.theta)
        elif config.table("rope_parameters") is not None:
            theta, position = read_rope(config, self.theta if kind == FULL else self.local_theta, layer_type=kind)
        elif kind == FULL:
            theta, position = read_rope(config, self.theta, layer_type=kind)
        else:  # before each type had its own table, scaling was of the full ones alone
            theta, position = config.number("rope_local_base_freq", self.local_theta), {"name": "rotary"}
        return {"theta": theta, "position": position}

    def _turns(self, config: Config, layer: int) -> bool:
        """Whether a layer has rotary positions."""
        listed = config.listed("no_rope_layers", config.whole("num_hidden_layers"))
        if listed is not None:
            return bool(listed[layer])
        return bool((layer + 1) % config.whole("no_rope_layer_interval", 4))

    # ------------------------------------------------------------ out

    def write(self, part: TransformerPart, sizes: Sizes) -> Tree:
        mixers, feed_forwards = zip(*part.blocks(), strict=True)
        first: Any = mixers[0]
        heads, kv_heads, head_dim = first.dimensions(part.d_model)
        inner: Any = feed_forwards[0]
        windows = [mixer.pattern for mixer in mixers]
        sizes_of_windows = {getattr(pattern, "size", None) for pattern in windows if pattern is not None}
        turning = [mixer for mixer in mixers if mixer.position.name != "none"]
        full: Any = next((m for m in turning if m.pattern is None or self.local_theta is None), first)
        found: Tree = {
            "hidden_size": part.d_model,
            "intermediate_size": inner.inner(part.d_model),
            "num_hidden_layers": part.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            self.activation[0]: activation_of(inner, GATED, "silu"),
            "rms_norm_eps": part.norm_eps,
            "max_position_embeddings": sizes.context,
            **write_rope(full.position, full.theta),
        }
        if self.attention_bias:
            found["attention_bias"] = first.out_bias
        if self.mlp_bias:
            found["mlp_bias"] = inner.bias
        if self.windows:
            # Gemma's code wants a size even where no layer has a window.
            found["sliding_window"] = max(
                filter(None, sizes_of_windows), default=sizes.context if self.scored else None
            )
        if self.windows == "types":
            found["layer_types"] = [FULL if pattern is None else SLIDING for pattern in windows]
            if not self.scored:
                found["use_sliding_window"] = found["sliding_window"] is not None
        if self.scored:
            scale = first.scale or head_dim**-0.5
            found |= {"query_pre_attn_scalar": _whole(scale**-2), "final_logit_softcapping": part.cap}
        if self.scored == "capped":
            found["attn_logit_softcapping"] = first.cap
        if self.local_theta is not None:
            local: Any = next((mixer for mixer in mixers if mixer.pattern is not None), first)
            found["rope_local_base_freq"] = local.theta
        if self.skips:
            found["no_rope_layers"] = [int(mixer.position.name != "none") for mixer in mixers]
        return found

    def problems(self, part: TransformerPart) -> list[str]:
        first: Any = part.blocks()[0][0]
        if self.model_type in _DIVIDED and part.d_model % first.heads:
            return [f"model.d_model = {part.d_model} (it has a multiple of heads = {first.heads})"]
        return []

    def entries(self, part: TransformerPart) -> list[Entry]:
        names = [shape.name for shape in part.shapes(1)]
        placed = {"embedding": "model.embed_tokens", "norm": "model.norm"}
        norms = _NORMS[self.arrangement]
        for i in range(part.layers):
            for ours, theirs in (*_LAYER, *norms.items()):
                placed[f"blocks.{i}.{ours}"] = f"model.layers.{i}.{theirs}"
        found = []
        for name in names:
            module, _, kind = name.rpartition(".")
            if module in placed:
                found.append(Entry(f"{placed[module]}.{kind}", (name,), SAME))
        return found


def _whole(value: float) -> int | float:
    """A whole number where it is one but for rounding, as configurations have it."""
    return round(value) if abs(value - round(value)) < 1e-9 * abs(value) else value


_DIVIDED = ("llama", "gemma2", "gemma3_text")
"""Families whose configuration transformers refuses where the heads do not divide the width."""

_GEMMA3 = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "max_position_embeddings": 131_072,
}
"""What the published files of Gemma 3 leave to transformers where it is the text part of a larger model."""

FAMILIES = (
    LlamaLike("llama", "LlamaForCausalLM", attention_bias=True, mlp_bias=True),
    LlamaLike("mistral", "MistralForCausalLM", windows="all", kv_heads=8),
    LlamaLike("qwen2", "Qwen2ForCausalLM", qkv_bias=True, windows="types", kv_heads=32),
    LlamaLike(
        "qwen3", "Qwen3ForCausalLM", attention_bias=True, qk_norm="head", windows="types", head_dim=128, kv_heads=32
    ),
    LlamaLike(
        "smollm3",
        "SmolLM3ForCausalLM",
        attention_bias=True,
        mlp_bias=True,
        windows="types",
        kv_heads=4,
        tied=True,
        theta=2_000_000.0,
        skips=True,
    ),
    LlamaLike("olmo2", "Olmo2ForCausalLM", arrangement="output_norm", attention_bias=True, qk_norm="whole", eps=1e-5),
    LlamaLike(
        "gemma",
        "GemmaForCausalLM",
        norm="rms_offset",
        activation=("hidden_act", "gelu_pytorch_tanh"),
        attention_bias=True,
        head_dim=256,
        kv_heads=16,
        tied=True,
        scaled=True,
    ),
    LlamaLike(
        "gemma2",
        "Gemma2ForCausalLM",
        norm="rms_offset",
        arrangement="sandwich",
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        attention_bias=True,
        head_dim=256,
        kv_heads=4,
        tied=True,
        scaled=True,
        scored="capped",
        windows="types",
    ),
    LlamaLike(
        "gemma3_text",
        "Gemma3ForCausalLM",
        norm="rms_offset",
        arrangement="sandwich",
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        attention_bias=True,
        qk_norm="head",
        head_dim=256,
        kv_heads=4,
        tied=True,
        scaled=True,
        scored="plain",
        windows="types",
        local_theta=10_000.0,
        theta=1_000_000.0,
        sizes=_GEMMA3,
    ),
)
