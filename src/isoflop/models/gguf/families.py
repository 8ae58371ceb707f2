"""What llama.cpp calls a family of models, its keys, and in which form it wants the family's tensors.

The keys are those that llama.cpp's loader asks for, and say what our architecture of the model says; what no key can
hold is refused, or, where llama.cpp computes something else only beyond a certain length, told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...core.errors import DataError
from ..architectures.transformer import TransformerPart
from ..hf.config import Config
from ..hf.directory import Published
from ..positions.rotary import Rotary

Key = tuple[str, Any]
"""A key behind the family's name, and its value: whole numbers, floats, truth values and texts keep their kind."""


@dataclass(frozen=True)
class GgufFamily:
    """A family as llama.cpp knows it.

    Args:
        name: llama.cpp's.
        interleaved: neighbours turn together, so that rows of queries and keys change places.
        offset: gains of norms are stored as their difference from 1.
        transposed: matrices of layers are stored as (columns, rows).
        fused: queries, keys and values of a head lie beside each other, not those of all heads.
        separate_head: llama.cpp wants the head even where it is the embedding.
        tied: llama.cpp knows no head of its own.
        capped: scores and logits may be softly capped.
        windows: every how many layers one sees everything; 0: all do.
        layer_norm: norms subtract the mean.

    Example:
        >>> import torch
        >>> GgufFamily("gemma", offset=True).tensor("model.norm.weight", torch.tensor([0.0, 0.5]), 1, 1)
        tensor([1.0000, 1.5000])
    """

    name: str
    interleaved: bool = False
    offset: bool = False
    transposed: bool = False
    fused: bool = False
    separate_head: bool = False
    tied: bool = False
    capped: bool = False
    windows: int = 0
    layer_norm: bool = False

    def tensor(self, name: str, stored: Tensor, heads: int, kv_heads: int) -> Tensor:
        """A tensor as llama.cpp wants it, from one of Hugging Face's name and form."""
        if self.interleaved and ".self_attn.q_proj." in name:
            return _interleaved(stored, heads)
        if self.interleaved and ".self_attn.k_proj." in name:
            return _interleaved(stored, kv_heads)
        if self.offset and name.endswith("norm.weight"):
            return stored.float() + 1.0
        if self.transposed and stored.ndim == 2 and ".h." in f".{name}":
            return stored.T.contiguous()
        if self.fused and ".query_key_value." in name:
            by_head = stored.reshape(heads, 3, -1, *stored.shape[1:])
            return by_head.transpose(0, 1).reshape(stored.shape).contiguous()
        return stored


FAMILIES = {
    "llama": GgufFamily("llama", interleaved=True),
    "mistral": GgufFamily("llama", interleaved=True),
    "qwen2": GgufFamily("qwen2"),
    "qwen3": GgufFamily("qwen3"),
    "olmo2": GgufFamily("olmo2", separate_head=True),
    "gemma": GgufFamily("gemma", offset=True, tied=True),
    "gemma2": GgufFamily("gemma2", offset=True, tied=True, capped=True, windows=2),
    "gemma3_text": GgufFamily("gemma3", offset=True, tied=True, windows=6),
    "gpt2": GgufFamily("gpt2", transposed=True, layer_norm=True),
    "gpt_neox": GgufFamily("gptneox", fused=True, separate_head=True, layer_norm=True),
}
"""By the model type of a configuration."""


def family_of(config: Config) -> GgufFamily:
    """That of a configuration; DataError names the nearest where there is none."""
    return config.choice("model_type", FAMILIES, what="family of models for GGUF")  # type: ignore[no-any-return]


def heads_of(part: TransformerPart) -> tuple[int, int, int]:
    """Heads, heads of keys and values, and numbers of a head."""
    return _looking_far(part).dimensions(part.d_model)  # type: ignore[no-any-return]


def keys(family: GgufFamily, published: Published, note: Callable[[str], None]) -> Iterator[Key]:
    """Every key of the model, behind ``<family's name>.``.

    Args:
        family: that of the configuration.
        published: the model.
        note: told what llama.cpp will compute otherwise.

    Raises:
        DataError: the configuration asks for what llama.cpp's family cannot do.
    """
    part, config = published.part, published.config
    inner: Any = part.blocks()[0][1]
    heads, kv_heads, head_dim = heads_of(part)
    context = part.positions or config.whole("max_position_embeddings")
    yield from (
        ("block_count", part.layers),
        ("context_length", context),
        ("embedding_length", part.d_model),
        ("feed_forward_length", inner.inner(part.d_model)),
        ("attention.head_count", heads),
    )
    if part.positions is None:
        yield "vocab_size", published.vocab_size
    if family.layer_norm:
        yield "attention.layer_norm_epsilon", part.norm_eps
    else:
        yield "attention.head_count_kv", kv_heads
        yield "attention.key_length", head_dim
        yield "attention.value_length", head_dim
        yield "attention.layer_norm_rms_epsilon", part.norm_eps
    if family.name == "gptneox":
        yield "use_parallel_residual", part.arrangement.name == "parallel"
    yield from _rope(part)
    yield from _scores(family, published)
    yield from _windows(family, published, context, note)


def _looking_far(part: TransformerPart) -> Any:
    """The attention of the first layer without a window, of which llama.cpp's keys speak; else of the first layer."""
    mixers: list[Any] = [mixer for mixer, _ in part.blocks()]
    return next((mixer for mixer in mixers if mixer.pattern is None), mixers[0])


def _rope(part: TransformerPart) -> Iterator[Key]:
    mixer, (*_, head_dim) = _looking_far(part), heads_of(part)
    position = mixer.position
    if position.name == "none":
        return
    yield "rope.freq_base", mixer.theta
    yield "rope.dimension_count", position.turning(head_dim)
    if position.name in ("rotary", "llama3"):  # the latter is a tensor, see ``rope_factors``
        return
    yield "rope.scaling.type", position.name
    yield "rope.scaling.factor", position.factor
    if position.name == "yarn":
        yield "rope.scaling.original_context_length", position.original


def rope_factors(part: TransformerPart) -> Tensor | None:
    """What llama.cpp divides the frequencies by, (head's numbers / 2,) fp32, where the type is llama3; else None."""
    mixer, (*_, head_dim) = _looking_far(part), heads_of(part)
    if mixer.position.name != "llama3":
        return None
    slowed: Tensor = mixer.position.rates(head_dim, mixer.theta)
    return (Rotary().rates(head_dim, mixer.theta) / slowed).float()


def _scores(family: GgufFamily, published: Published) -> Iterator[Key]:
    """What scores and logits are multiplied or bounded by."""
    part, config, (*_, head_dim) = published.part, published.config, heads_of(published.part)
    if (scalar := config.tree.get("query_pre_attn_scalar")) not in (None, head_dim):
        raise config.problem("query_pre_attn_scalar", f"is {scalar}; llama.cpp takes the head's size, {head_dim}")
    mixers: list[Any] = [mixer for mixer, _ in part.blocks()]
    if not all(math.isclose((mixer.scale or head_dim**-0.5) ** -2, head_dim) for mixer in mixers):
        what = f"asks for scores that are not divided by the square root of the head's size, {head_dim}, as llama.cpp's"
        raise DataError(what, where=config.where)
    caps = {"attn_logit_softcapping": mixers[0].cap, "final_logit_softcapping": part.cap}
    if family.capped:
        for key, cap in caps.items():
            if cap is None:
                raise config.problem(key, f"is null; llama.cpp's {family.name} has a bound")
            yield key, cap
    elif config.tree.get("final_logit_softcapping") is not None:
        raise config.problem("final_logit_softcapping", f"is given; llama.cpp's {family.name} caps nothing")


def _windows(family: GgufFamily, published: Published, context: int, note: Callable[[str], None]) -> Iterator[Key]:
    """Sliding windows: llama.cpp knows where they lie."""
    config, mixers = published.config, [mixer for mixer, _ in published.part.blocks()]
    windows: list[Any] = [mixer.fields()["pattern"] for mixer in mixers]
    if family.windows:
        window = config.maybe_whole("sliding_window") or 4096
        usual = [(i + 1) % family.windows != 0 for i in range(len(windows))]
        if window < context and [each is not None for each in windows] != usual:
            what = f"is not llama.cpp's, in whose {family.name} each layer of {family.windows} sees everything"
            raise config.problem("layer_types", what)
        yield "attention.sliding_window", window
        return
    window = min((each.size for each in windows if each is not None), default=context)
    if window < context:
        note(f"llama.cpp's {family.name} has no windows: texts longer than {window} tokens give other results there")


def refuse_unlike(family: GgufFamily, config: Config, tied: bool) -> None:
    """DataError if the model has a head of its own where llama.cpp's family has none."""
    if family.tied and not tied:
        raise DataError(f"has a head of its own; llama.cpp's {family.name} takes the embedding", where=config.where)


def _interleaved(stored: Tensor, heads: int) -> Tensor:
    """Rows of each head from (first half, second half) to neighbours."""
    halves = stored.reshape(heads, 2, stored.shape[0] // heads // 2, *stored.shape[1:])
    return halves.transpose(1, 2).reshape(stored.shape).contiguous()
