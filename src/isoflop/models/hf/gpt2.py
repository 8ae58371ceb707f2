"""GPT-2: learned positions, LayerNorms and biases everywhere, weights stored as (columns, rows)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..architectures.transformer import MOST_LAYERS, TransformerPart
from .config import Config
from .family import PLAIN, Family, Sizes, Tree, activation_of, tiled
from .layouts import SAME, STACKED, STACKED_TRANSPOSED, TRANSPOSED, Entry


class Gpt2(Family):
    """The family of GPT-2.

    Example, of what a configuration leaves to the family's defaults:
        >>> tree = Gpt2().read(Config({"n_embd": 32, "n_head": 4, "n_layer": 2}, "config.json"), tied=True)
        >>> tree["norm"], tree["positions"], tree["feed_forward"]["hidden"]
        ({'name': 'layer', 'bias': True}, 1024, 128)
    """

    model_type, architecture, prefix = "gpt2", "GPT2LMHeadModel", "transformer."
    ignored = ("*.attn.bias", "*.attn.masked_bias")
    tied = True
    sizes: Mapping[str, int] = MappingProxyType({"vocab_size": 50_257})

    def head(self) -> str:
        return "lm_head.weight"

    def read(self, config: Config, *, tied: bool) -> Tree:
        config.refuse("add_cross_attention", (False,), "only decoders are read")
        width, heads = config.whole("n_embd", 768), config.whole("n_head", 12)
        layers = config.whole("n_layer", 12, most=MOST_LAYERS)
        if width % heads:
            raise config.problem("n_head", f"is {heads}, which does not divide the width {width}")
        inner = config.choice("activation_function", PLAIN, "gelu_new", "activation")
        mixer = {"name": "attention", "heads": heads, "position": "none", "bias": True, "out_bias": True}
        scale = (width // heads) ** -0.5 if config.flag("scale_attn_weights", True) else 1.0
        by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)
        scales = [scale / (layer + 1) if by_layer else scale for layer in range(layers)]
        return {
            "name": "transformer",
            "d_model": width,
            "layers": layers,
            "mixer": tiled([{**mixer, "scale": each} for each in scales]),
            "feed_forward": {**inner, "hidden": config.maybe_whole("n_inner") or 4 * width, "bias": True},
            "norm": {"name": "layer", "bias": True},
            "norm_eps": config.number("layer_norm_epsilon", 1e-5),
            "tied": tied,
            "embedding_scale": 1.0,
            "positions": config.whole("n_positions", 1024),
        }

    def write(self, part: TransformerPart, sizes: Sizes) -> Tree:
        mixers, feed_forwards = zip(*part.blocks(), strict=True)
        first: Any = mixers[0]
        inner: Any = feed_forwards[0]
        usual = (part.d_model // first.heads) ** -0.5
        scales = [mixer.scale or usual for mixer in mixers]
        return {
            "n_embd": part.d_model,
            "n_head": first.heads,
            "n_layer": part.layers,
            "n_inner": inner.inner(part.d_model),
            "n_positions": part.positions or sizes.context,
            "activation_function": activation_of(inner, PLAIN, "gelu_new"),
            "layer_norm_epsilon": part.norm_eps,
            "scale_attn_weights": abs(scales[0] - usual) < 1e-9,
            "scale_attn_by_inverse_layer_idx": len(scales) > 1 and scales[1] < scales[0],
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }

    def entries(self, part: TransformerPart) -> list[Entry]:
        found = [
            Entry("transformer.wte.weight", ("embedding.weight",), SAME),
            Entry("transformer.wpe.weight", ("positions.weight",), SAME),
        ]
        for i in range(part.layers):
            ours, theirs = f"blocks.{i}.", f"transformer.h.{i}."
            qkv = [f"{ours}mixer.{name}" for name in "qkv"]
            for kind, stacked, single in (("weight", STACKED_TRANSPOSED, TRANSPOSED), ("bias", STACKED, SAME)):
                found += [
                    Entry(f"{theirs}ln_1.{kind}", (f"{ours}mixer_norm.{kind}",), SAME),
                    Entry(f"{theirs}attn.c_attn.{kind}", tuple(f"{name}.{kind}" for name in qkv), stacked),
                    Entry(f"{theirs}attn.c_proj.{kind}", (f"{ours}mixer.out.{kind}",), single),
                    Entry(f"{theirs}ln_2.{kind}", (f"{ours}feed_forward_norm.{kind}",), SAME),
                    Entry(f"{theirs}mlp.c_fc.{kind}", (f"{ours}feed_forward.up.{kind}",), single),
                    Entry(f"{theirs}mlp.c_proj.{kind}", (f"{ours}feed_forward.down.{kind}",), single),
                ]
        return found + [Entry(f"transformer.ln_f.{kind}", (f"norm.{kind}",), SAME) for kind in ("weight", "bias")]
