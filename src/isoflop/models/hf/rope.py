"""Rotary positions as configurations say them, and as our positions do.

Older files have ``rope_theta`` and ``rope_scaling``, newer ones ``rope_parameters`` with both, perhaps one for each
type of layer. Older ones are written, which every version reads.
"""

from __future__ import annotations

from typing import Any

from ...core.contracts import PositionPart
from ...core.errors import DataError, nearest
from .config import Config

KNOWN = ("default", "linear", "llama3", "yarn")


def read_rope(
    config: Config, theta: float, *, layer_type: str = "", fraction: float | None = None
) -> tuple[float, dict[str, Any]]:
    """Base of the wavelengths, and our position part as a table.

    Args:
        config: of the model.
        theta: the family's default base.
        layer_type: whose positions are wanted, where each type of layer has its own.
        fraction: the family's default share of numbers that turn; None: the family turns all.

    Raises:
        DataError: a type, or a share, that the family or this project does not have; names the nearest.
    """
    rope = config.table("rope_parameters") or config.table("rope_scaling") or Config({}, config.where)
    if layer_type and isinstance(rope.tree.get(layer_type), dict):
        rope = rope.table(layer_type) or rope
    elif not layer_type and any(isinstance(value, dict) for value in rope.tree.values()):
        raise DataError("gives each type of layer positions of its own, which this family has not", where=rope.where)
    base = rope.number("rope_theta", config.number("rope_theta", theta))
    kind = rope.tree.get("rope_type") or rope.tree.get("type") or "default"
    if kind not in KNOWN:
        fix = f"{nearest(str(kind), KNOWN)}: no other rotary positions are known here"
        raise DataError(f"rope_type is {kind!r}, which is not known here", where=rope.where, fix=fix)
    share = rope.number("partial_rotary_factor", config.number("partial_rotary_factor", fraction or 1.0))
    if fraction is None and share != 1:
        raise DataError(f"partial_rotary_factor is {share}, which this family has not", where=rope.where)
    return base, {"name": "rotary" if kind == "default" else kind, "fraction": share, **_READ[kind](rope, config)}


def write_rope(position: PositionPart, theta: float) -> dict[str, Any]:
    """The keys of a configuration. What it cannot say is left out; whoever reads it back sees the difference."""
    fields = position.fields()
    scaling = _WRITTEN[position.name](fields) if position.name in _WRITTEN else None
    return {"rope_theta": theta} | ({"rope_scaling": scaling} if scaling else {})


def _original(rope: Config, config: Config) -> int:
    """Length of the original context."""
    whole = config.maybe_whole("original_max_position_embeddings")
    return whole or rope.whole("original_max_position_embeddings", config.maybe_whole("max_position_embeddings"))


def _linear(rope: Config, config: Config) -> dict[str, Any]:
    return {"factor": rope.number("factor")}


def _llama3(rope: Config, config: Config) -> dict[str, Any]:
    return {
        "factor": rope.number("factor"),
        "low": rope.number("low_freq_factor"),
        "high": rope.number("high_freq_factor"),
        "original": _original(rope, config),
    }


def _yarn(rope: Config, config: Config) -> dict[str, Any]:
    original = _original(rope, config)
    factor = rope.maybe_number("factor") or config.whole("max_position_embeddings") / original
    found = {
        "factor": factor,
        "original": original,
        "fast": rope.number("beta_fast", 32.0),
        "slow": rope.number("beta_slow", 1.0),
        "whole": rope.flag("truncate", True),
    }
    attention = rope.maybe_number("attention_factor")
    some, every = rope.tree.get("mscale"), rope.tree.get("mscale_all_dim")
    if attention is None and some and every:
        one, other = (rope.number(key) for key in ("mscale", "mscale_all_dim"))
        attention = _size(factor, one) / _size(factor, other)
    return found if attention is None else {**found, "attention": attention}


def _size(factor: float, weight: float) -> float:
    import math

    return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0


_READ = {"default": lambda rope, config: {}, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
_WRITTEN = {
    "linear": lambda f: {"rope_type": "linear", "factor": f["factor"]},
    "llama3": lambda f: {
        "rope_type": "llama3",
        "factor": f["factor"],
        "low_freq_factor": f["low"],
        "high_freq_factor": f["high"],
        "original_max_position_embeddings": f["original"],
    },
    "yarn": lambda f: {
        "rope_type": "yarn",
        "factor": f["factor"],
        "original_max_position_embeddings": f["original"],
        "beta_fast": f["fast"],
        "beta_slow": f["slow"],
        **({} if f["attention"] is None else {"attention_factor": f["attention"]}),
        **({} if f["whole"] else {"truncate": False}),
    },
}
