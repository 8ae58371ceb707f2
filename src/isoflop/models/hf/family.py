"""What a family of published models is: its configuration to our architecture and back, and its tensors' names.

A family writes what its configuration can say of a model, and nothing checks beforehand whether that is everything: the
written configuration is read again, and what then differs from the model is exactly what the family cannot hold. So the
two directions cannot drift apart, and no rule about what is legal is written twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...core.contracts import FeedForwardPart, Filling, MixerPart
from ..architectures.transformer import TransformerPart
from .config import Config
from .layouts import SAME, Entry

Tree = dict[str, Any]
"""A part as a recipe writes it."""

GATED: Mapping[str, Tree] = {
    "silu": {"name": "swiglu"},
    "swish": {"name": "swiglu"},
    "gelu_pytorch_tanh": {"name": "geglu"},
    "gelu_new": {"name": "geglu"},
    "gelu": {"name": "geglu", "exact": True},
}
"""Activations of gated feed-forwards by the names that configurations have for them."""
PLAIN: Mapping[str, Tree] = {
    "gelu_new": {"name": "gelu"},
    "gelu_pytorch_tanh": {"name": "gelu"},
    "gelu_fast": {"name": "gelu"},
    "gelu": {"name": "gelu", "exact": True},
    "relu2": {"name": "squared_relu"},
}
"""Those of plain ones."""


@dataclass(frozen=True)
class Sizes:
    """What a configuration says beside the architecture.

    Args:
        vocab_size: rows of the embedding.
        context: tokens of the longest text.

    Example:
        >>> Sizes(vocab_size=49_152, context=8192)
        Sizes(vocab_size=49152, context=8192)
    """

    vocab_size: int
    context: int


class Family(ABC):
    """A family of models.

    Attributes:
        model_type: its name in a configuration.
        architecture: name of its class in a configuration.
        prefix: what the names of all tensors but the head's begin with; absent where the bare model was saved.
        ignored: patterns of tensors without parameters, e.g. stored masks.
        tied: whether the head is the embedding where the configuration does not say.
        context_key: where the configuration says how many tokens a text may have.
        sizes: those that a configuration may leave out, by its keys.
    """

    context_key = "max_position_embeddings"
    model_type: str
    architecture: str
    prefix: str
    ignored: tuple[str, ...] = ()
    tied: bool = False
    sizes: Mapping[str, int] = MappingProxyType({})

    def completed(self, config: Config) -> Config:
        """A configuration with the sizes that it leaves out."""
        return Config({**self.sizes, **config.tree}, config.where)

    @abstractmethod
    def read(self, config: Config, *, tied: bool) -> Tree:
        """Our architecture as a table; DataError if it has none."""

    @abstractmethod
    def write(self, part: TransformerPart, sizes: Sizes) -> Tree:
        """A configuration that says of ``part`` what it can say, without the keys that all families share."""

    def filling(self, config: Config) -> Filling | None:
        """How its models fill in what is hidden; None: they write from left to right."""
        return None

    @abstractmethod
    def entries(self, part: TransformerPart) -> list[Entry]:
        """The tensors, but for an untied head."""

    @abstractmethod
    def head(self) -> str:
        """Name of the tensor of an untied head."""

    def problems(self, part: TransformerPart) -> list[str]:
        """Why other libraries refuse such a configuration though it says everything."""
        return []

    def all_entries(self, part: TransformerPart) -> list[Entry]:
        """The tensors, an untied head's included."""
        head = [] if part.tied else [Entry(self.head(), ("unembedding.weight",), SAME)]
        return [*self.entries(part), *head]


def activation_of(part: FeedForwardPart, known: Mapping[str, Tree], default: str) -> str:
    """The name that configurations have for a feed-forward's activation; the default where it has none."""
    ours = {"name": part.name} | ({"exact": True} if getattr(part, "exact", False) else {})
    return next((name for name, tree in known.items() if tree == ours), default)


def tiled(trees: Sequence[Tree]) -> Tree | list[Tree]:
    """One table where all layers are alike, or the shortest list that repeats over them."""
    period = next(n for n in range(1, len(trees) + 1) if all(trees[i] == trees[i % n] for i in range(len(trees))))
    return trees[0] if period == 1 else list(trees[:period])


def canonical(part: TransformerPart) -> Tree:
    """All that decides what a model computes, layer by layer, defaults resolved: two models are one if these are."""
    width = part.d_model
    found: Tree = {
        "d_model": width,
        "layers": part.layers,
        "norm": part.norm.model_dump(mode="json"),
        "norm_eps": part.norm_eps,
        "arrangement": part.arrangement.name,
        "tied": part.tied,
        "embedding_scale": part.embedding_scale or (width**0.5 if part.tied else 1.0),
        "positions": part.positions,
        "cap": part.cap,
    }
    for i, (mixer, feed_forward) in enumerate(part.blocks()):
        found[f"layer {i}: mixer"] = _mixer(mixer, width)
        found[f"layer {i}: feed_forward"] = _feed_forward(feed_forward, width)
    return found


def _mixer(part: MixerPart, width: int) -> Tree:
    found: Tree = part.model_dump(mode="json")
    if part.name != "attention":
        return found
    found["heads"], found["kv_heads"], found["head_dim"] = part.dimensions(width)  # type: ignore[attr-defined]
    found["scale"] = part.scale or found["head_dim"] ** -0.5  # type: ignore[attr-defined]
    found["position"] = part.position.model_dump(mode="json")  # type: ignore[attr-defined]
    for key in ("qk_norm_by", "qk_norm_whole", "bias", "out_bias", "cap"):
        found.setdefault(key, getattr(part, key))
    found["qk_norm_by"] = part.qk_norm_by.model_dump(mode="json")  # type: ignore[attr-defined]
    if not part.qk_norm:  # type: ignore[attr-defined]
        found["norm_eps"] = found["qk_norm_by"] = found["qk_norm_whole"] = None
    if part.position.name == "none":  # type: ignore[attr-defined]
        found["theta"] = None
    return found


def _feed_forward(part: FeedForwardPart, width: int) -> Tree:
    inner = getattr(part, "inner", None)
    hidden = {} if inner is None else {"hidden": inner(width)}
    return {**part.model_dump(mode="json"), "bias": getattr(part, "bias", False), **hidden}


def differences(ours: Tree, theirs: Tree) -> list[str]:
    """Where two canonical forms differ, each "layer 0: mixer.bias true, not false", like layers told once."""
    found: dict[str, str] = {}
    for path, value in ours.items():
        other = theirs.get(path)
        for key, one, two in _leaves(path, value, other):
            name = key.split(": ", 1)[-1]  # what all layers have in common is said once
            found.setdefault(name, f"model.{name} = {_shown(one)} (it has {_shown(two)})")
    return list(found.values())


def _leaves(path: str, one: Any, two: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(two, dict) and one.get("name") == two.get("name"):
        return [leaf for key in {**one, **two} for leaf in _leaves(f"{path}.{key}", one.get(key), two.get(key))]
    if isinstance(one, dict) and isinstance(two, dict):
        return [(path, one.get("name"), two.get("name"))]
    return [] if _same(one, two) else [(path, one, two)]


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, float) and isinstance(two, float | int) and not isinstance(two, bool):
        return abs(one - two) <= 1e-12 * abs(one)
    return bool(one == two)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
