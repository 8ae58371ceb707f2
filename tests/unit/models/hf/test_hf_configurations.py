"""Whatever a family's configuration says, its own writing says it again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.models.hf.config import Config
from isoflop.models.hf.families import FAMILIES, form_of, part_of
from isoflop.models.hf.family import Sizes, canonical

ROPES: list[dict[str, Any] | None] = [
    None,
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 99, "truncate": False},
    {
        "type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 3.0,
        "original_max_position_embeddings": 77,
    },
]
TYPES = st.sampled_from(["sliding_attention", "full_attention"])


@st.composite
def configurations(draw: st.DrawFn, family: str) -> dict[str, Any]:
    layers, heads = draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 4]))
    always = family in ("gemma2", "gemma3_text")  # transformers wants a size there
    plain = ["gelu", "gelu_new", "relu2"]
    return {
        "model_type": family,
        "hidden_size": heads * (8 if family == "gpt_neox" else draw(st.sampled_from([8, 12]))),
        "intermediate_size": draw(st.integers(3, 40)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from([1, heads])),
        "head_dim": draw(st.sampled_from([4, 6, 10])),
        "rms_norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
        "max_position_embeddings": draw(st.sampled_from([64, 4096])),
        "rope_theta": draw(st.sampled_from([1e4, 5e5, 123.5])),
        "rope_scaling": draw(st.sampled_from(ROPES)),
        "sliding_window": draw(st.sampled_from([3, 4096] if always else [None, 3, 4096])),
        "layer_types": draw(st.none() | st.lists(TYPES, min_size=layers, max_size=layers)),
        "use_sliding_window": draw(st.booleans()),
        "max_window_layers": draw(st.integers(0, 9)),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "no_rope_layer_interval": draw(st.integers(2, 5)),
        "query_pre_attn_scalar": draw(st.sampled_from([256, 9, 17.5])),
        "final_logit_softcapping": draw(st.sampled_from([None, 30.0])),
        "hidden_act": draw(st.sampled_from(plain if family == "gpt_neox" else ["silu", "gelu", "gelu_pytorch_tanh"])),
        "hidden_activation": draw(st.sampled_from(["gelu_pytorch_tanh", "silu"])),
        "n_embd": heads * 7,
        "n_head": heads,
        "n_layer": layers,
        "n_positions": 33,
        "scale_attn_by_inverse_layer_idx": draw(st.booleans()),
        "scale_attn_weights": draw(st.booleans()),
        "rotary_pct": draw(st.sampled_from([1.0, 0.5])),
        "use_parallel_residual": draw(st.booleans()),
    }


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), tied=st.booleans())
@settings(max_examples=25, deadline=None)
def test_what_a_family_reads_it_writes(family: str, data: st.DataObject, tied: bool) -> None:
    config = data.draw(configurations(family))
    part = part_of(Config(config, "drawn"), tied=tied)
    form = form_of(part, Sizes(50, config["max_position_embeddings"]), family)
    assert (form.family.model_type, form.remarks) == (family, ())
    assert canonical(part_of(Config(form.config, "again"), tied=tied)) == canonical(part)
