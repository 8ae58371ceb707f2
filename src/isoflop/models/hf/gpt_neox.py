"""GPT-NeoX and Pythia: layers side by side, partial rotary positions, queries, keys and values in one tensor."""

from __future__ import annotations

from typing import Any

from ..architectures.transformer import TransformerPart
from .config import Config
from .family import PLAIN, Family, Sizes, Tree, activation_of
from .layouts import SAME, Entry, interleaved
from .rope import read_rope, write_rope


class GptNeoX(Family):
    """The family of GPT-NeoX.

    Example:
        >>> sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> tree = GptNeoX().read(Config(sizes, "config.json"), tied=False)
        >>> tree["arrangement"], tree["mixer"]["position"]
        ('parallel', {'name': 'rotary', 'fraction': 0.25})
    """

    model_type, architecture, prefix = "gpt_neox", "GPTNeoXForCausalLM", "gpt_neox."
    ignored = ("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq")

    def head(self) -> str:
        return "embed_out.weight"

    def read(self, config: Config, *, tied: bool) -> Tree:
        inner = config.choice("hidden_act", PLAIN, "gelu", "activation")
        bias = config.flag("attention_bias", True)
        default = config.number("rotary_emb_base", 10_000.0)
        theta, position = read_rope(config, default, fraction=config.number("rotary_pct", 0.25))
        return {
            "name": "transformer",
            "d_model": config.whole("hidden_size"),
            "layers": config.whole("num_hidden_layers"),
            "mixer": {
                "name": "attention",
                "heads": config.whole("num_attention_heads"),
                "theta": theta,
                "position": position,
                "bias": bias,
                "out_bias": bias,
            },
            "feed_forward": {**inner, "hidden": config.whole("intermediate_size"), "bias": True},
            "norm": {"name": "layer", "bias": True},
            "norm_eps": config.number("layer_norm_eps", 1e-5),
            "arrangement": "parallel" if config.flag("use_parallel_residual", True) else "pre_norm",
            "tied": tied,
            "embedding_scale": 1.0,
        }

    def write(self, part: TransformerPart, sizes: Sizes) -> Tree:
        mixers, feed_forwards = zip(*part.blocks(), strict=True)
        first: Any = mixers[0]
        inner: Any = feed_forwards[0]
        rope = write_rope(first.position, first.theta)
        share = getattr(first.position, "fraction", 1.0)
        if "rope_scaling" in rope:  # transformers takes the share from here where there is such a table
            rope["rope_scaling"] = {**rope["rope_scaling"], "partial_rotary_factor": share}
        return {
            "hidden_size": part.d_model,
            "intermediate_size": inner.inner(part.d_model),
            "num_hidden_layers": part.layers,
            "num_attention_heads": first.heads,
            "hidden_act": activation_of(inner, PLAIN, "gelu"),
            "layer_norm_eps": part.norm_eps,
            "max_position_embeddings": sizes.context,
            "use_parallel_residual": part.arrangement.name == "parallel",
            "attention_bias": first.bias,
            "rotary_pct": share,
            "rotary_emb_base": first.theta,
            **rope,
        }

    def problems(self, part: TransformerPart) -> list[str]:
        first: Any = part.blocks()[0][0]
        if part.d_model % first.heads:
            return [f"model.d_model = {part.d_model} (it has a multiple of heads = {first.heads})"]
        return []

    def entries(self, part: TransformerPart) -> list[Entry]:
        first: Any = part.blocks()[0][0]
        heads, _, head_dim = first.dimensions(part.d_model)
        together = interleaved(heads, head_dim, first.position.turning(head_dim))
        known = {shape.name for shape in part.shapes(1)}
        found = [Entry("gpt_neox.embed_in.weight", ("embedding.weight",), SAME)]
        for i in range(part.layers):
            ours, theirs = f"blocks.{i}.", f"gpt_neox.layers.{i}."
            for kind in ("weight", "bias"):
                qkv = tuple(f"{ours}mixer.{name}.{kind}" for name in "qkv")
                found += [
                    Entry(f"{theirs}input_layernorm.{kind}", (f"{ours}mixer_norm.{kind}",), SAME),
                    Entry(f"{theirs}attention.query_key_value.{kind}", qkv, together),
                    Entry(f"{theirs}attention.dense.{kind}", (f"{ours}mixer.out.{kind}",), SAME),
                    Entry(f"{theirs}post_attention_layernorm.{kind}", (f"{ours}feed_forward_norm.{kind}",), SAME),
                    Entry(f"{theirs}mlp.dense_h_to_4h.{kind}", (f"{ours}feed_forward.up.{kind}",), SAME),
                    Entry(f"{theirs}mlp.dense_4h_to_h.{kind}", (f"{ours}feed_forward.down.{kind}",), SAME),
                ]
        found += [Entry(f"gpt_neox.final_layer_norm.{kind}", (f"norm.{kind}",), SAME) for kind in ("weight", "bias")]
        return [entry for entry in found if entry.ours[0] in known]
