"""Any model's parameters in two: matrices inside its blocks, and the rest. For rules that suit only the former."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from ..core.errors import nearest
from .state import OptimizerError

Named = list[tuple[str, nn.Parameter]]
"""Parameters with their names, as every optimizer here and of torch takes them."""
_HEADS = ("lm_head", "head", "output", "embed_out", "classifier", "score", "unembed", "proj_out")
"""Last names of modules that turn hidden vectors into logits."""


class Split(NamedTuple):
    """The two parts of a model's parameters."""

    hidden: Named
    rest: Named


def split(model: nn.Module, rest: Sequence[str] = ()) -> Split:
    """A model's trainable parameters as (hidden matrices, rest), each once, with their names.

    Muon and its kin are for the matrices that turn hidden vectors into hidden vectors. Embeddings, the head, gains and
    biases belong to an elementwise rule; ``Chain`` makes the two one optimizer. The head is known by an attribute
    ``role`` (isoflop's models), by a usual name (``lm_head``, ``head``, ``classifier`` ...), by sharing the weight of
    an embedding, or as the last layer with as many outputs as the largest embedding has rows.

    Args:
        model: any module.
        rest: patterns of names, e.g. "blocks.*.router.weight", of matrices that belong to the rest, too.

    Returns:
        ``hidden`` and ``rest``, lists of (name, parameter).

    Raises:
        OptimizerError: a pattern matches no parameter.

    Example, with ``model`` a Transformer, or any other module:
        >>> hidden, rest = split(model)
        >>> optimizer = Chain([Muon(hidden, lr=0.02), torch.optim.AdamW(rest, lr=3e-3)])
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for pattern in rest:
        if not any(fnmatchcase(name, pattern) for name, _ in named):
            names = [name for name, _ in named]
            fix = nearest(pattern, names, listing=False) or f"e.g. {names[-1] if names else 'none is trained'}"
            raise OptimizerError(f"{pattern!r} matches no parameter", where="rest", fix=fix)
    outside = _outside(model)
    inner = {
        name
        for name, p in named
        if p.ndim >= 2 and id(p) not in outside and not any(fnmatchcase(name, pattern) for pattern in rest)
    }
    return Split([pair for pair in named if pair[0] in inner], [pair for pair in named if pair[0] not in inner])


def _outside(model: nn.Module) -> set[int]:
    """Ids of the parameters of embeddings, heads, and modules whose role is another than hidden."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    found = {id(p) for module in embeddings for p in module.parameters()}
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    vocabulary = max((module.num_embeddings for module in embeddings), default=0)
    as_wide = [module for _, module in linear if module.out_features == vocabulary]
    heads = [module for name, module in linear if name.rsplit(".", 1)[-1] in _HEADS] + as_wide[-1:]
    found |= {id(module.weight) for module in heads if getattr(module, "role", None) is None}
    roles = [module for module in model.modules() if getattr(module, "role", "hidden") != "hidden"]
    return found | {id(p) for module in roles for p in module.parameters(recurse=False)}
