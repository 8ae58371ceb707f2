"""Which family a directory is of, and which family can hold a model of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from ...core.errors import DataError, UsageError, nearest
from ...core.reading import complaint
from ...core.roles import numel
from ...core.slots import resolve
from ..architectures.transformer import TransformerPart
from ..memory import LARGEST
from .config import Config
from .family import GATED, PLAIN, Family, Sizes, Tree, canonical, differences
from .gpt2 import Gpt2
from .gpt_neox import GptNeoX
from .llama import FAMILIES as LLAMA_LIKE
from .masked import FILLING

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (*LLAMA_LIKE, Gpt2(), GptNeoX())}
"""By ``model_type``, in the order in which a family for a model is looked for."""
READ: Mapping[str, Family] = {**FAMILIES, **{family.model_type: family for family in FILLING}}
"""Those that are read: these, and families of models that fill in, which nothing is written as."""
_FEED_FORWARDS = {str(tree["name"]) for tree in (*GATED.values(), *PLAIN.values())}


def family_of(config: Config) -> Family:
    """The family of a configuration.

    Raises:
        DataError: it is not known here, or its weights are quantised; names the nearest.
    """
    name = config.tree.get("model_type")
    if said := config.tree.get("quantization_config"):
        ours = isinstance(said, dict) and said.get("quant_method") == "isoflop"
        fix = "make the plain model of it: isoflop export DIRECTORY OUT" if ours else "take the plain model"
        raise config.problem("quantization_config", "is there: quantised weights are not read", fix)
    if isinstance(name, str) and name in READ:
        return READ[name]
    if name is None:
        raise config.problem("model_type", "is missing", f"known are {', '.join(READ)}")
    said = config.tree.get("architectures")
    what = f"is {name!r}" + (f" ({said[0]})" if isinstance(said, list) and said else "")
    fix = nearest(str(name), READ)
    raise config.problem(
        "model_type", f"{what}, a family that is not known here, and no code of a directory is run", fix
    )


def part_of(config: Config, *, tied: bool) -> TransformerPart:
    """Our architecture of a configuration; DataError if a value of it has no counterpart."""
    try:
        part = resolve("model", family_of(config).read(config, tied=tied))
    except ValidationError as error:
        raise DataError(f"asks for what no model here has: {complaint(error)}", where=config.where) from error
    assert isinstance(part, TransformerPart)
    problems = {problem for mixer, _ in part.blocks() for problem in mixer.problems(part.d_model)}
    if problems:
        raise DataError("; ".join(sorted(problems)), where=config.where)
    if 4 * numel(part.shapes(1)) > LARGEST:
        raise DataError("describes a model larger than any that is read: is a size mistyped?", where=config.where)
    return part


@dataclass(frozen=True)
class Form:
    """A model as a family holds it.

    Args:
        family: the family.
        part: the architecture, perhaps in an equivalent form.
        config: the configuration that says it.
        remarks: how the form differs from the model, as sentences; it computes the same.

    Example, of a model whose factor on embedded tokens no family of its kind can say:
        >>> part = TransformerPart(d_model=64, layers=2, embedding_scale=2.0)
        >>> form = form_of(part, Sizes(vocab_size=257, context=64))
        >>> form.family.model_type, form.remarks
        ('llama', ('the factor 2 on embedded tokens lies in the embedding',))
    """

    family: Family
    part: TransformerPart
    config: Tree
    remarks: tuple[str, ...] = ()


def form_of(part: TransformerPart, sizes: Sizes, first: str = "") -> Form:
    """The first family that can hold a model, as it is or in an equivalent form.

    Args:
        part: the model's architecture.
        sizes: of its embedding and context.
        first: the family that is tried before the others, e.g. that which the model came from.

    Raises:
        UsageError: none can; names the nearest, and what of the model that one does not have.
    """
    if strange := _strange(part):
        known = "attention with rotary or learned positions; swiglu, geglu, gelu and squared_relu"
        raise UsageError(f"no family of published models has {' or '.join(strange)}", fix=f"some have {known}")
    lacking: dict[str, list[str]] = {}
    for form, remarks in equivalents(part):
        for name, family in sorted(FAMILIES.items(), key=lambda item: item[0] != first):
            config = {**family.write(form, sizes), **shared(family, form, sizes)}
            reasons = _unsaid(family, form, config)
            if not reasons:
                return Form(family, form, config, remarks)
            if not remarks:
                lacking[name] = reasons
    name = min(lacking, key=lambda name: len(lacking[name]))
    raise UsageError(
        f"no family of published models has all that this model has; the nearest is {name}, but for "
        f"{'; '.join(lacking[name])}",
        fix="train a variant that a family has (docs/guide/hugging-face.md lists them)",
    )


EXAMPLE: Tree = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "sliding_window": 32,
    "n_embd": 64,
    "n_layer": 12,
    "n_head": 4,
}
"""A configuration with what every family needs, for tables; ``model_type`` is to be said."""
_SIZES = ("d_model", "hidden", "heads", "kv_heads", "head_dim", "theta", "scale", "norm_eps", "size")
_USUAL = ("qk_norm_by=rms", "qk_norm_whole=false")  # where there is such a norm at all


def variants() -> dict[str, tuple[str, list[str]]]:
    """For each family its architecture, and what its models say that no default says, each "key=value"."""
    width, layers = EXAMPLE["hidden_size"], EXAMPLE["num_hidden_layers"]
    usual = {"d_model": width, "layers": layers, "embedding_scale": 1.0, "feed_forward": {"name": "swiglu"}}
    plain, found = canonical(TransformerPart.model_validate(usual)), {}
    for name, family in FAMILIES.items():
        theirs = canonical(part_of(Config({**EXAMPLE, "model_type": name}, "table"), tied=family.tied))
        said = [each for path, value in theirs.items() for each in _said(path.split(": ", 1)[-1], value, plain[path])]
        some = {each for each in said if each.startswith(("mixer", "feed_forward")) and said.count(each) < layers}
        lines = [f"{each} in some layers" if each in some else each for each in dict.fromkeys(said)]
        found[name] = family.architecture, [line for line in lines if not line.endswith(_USUAL)]
    return found


def _said(path: str, one: object, other: object) -> Iterator[str]:
    """Values that differ from another form's, sizes left out."""
    if path.rsplit(".", 1)[-1] in _SIZES or one == other:
        return
    if not isinstance(one, dict):
        word = str(one).lower() if isinstance(one, bool) else "none" if one is None else str(one)
        yield f"{path}={'sqrt(d_model)' if path == 'embedding_scale' else word}"
        return
    known = other if isinstance(other, dict) and other.get("name") == one.get("name") else {}
    if not known and "name" in one:
        yield f"{path}={one['name']}"
    for key, value in one.items():
        if key != "name" and (known or (value is not None and value is not False)):
            yield from _said(f"{path}.{key}", value, known.get(key))


def shared(family: Family, part: TransformerPart, sizes: Sizes) -> Tree:
    """The keys of a configuration that all families share."""
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": sizes.vocab_size,
        "tie_word_embeddings": part.tied,
        "use_cache": True,
    }


def _unsaid(family: Family, part: TransformerPart, config: Tree) -> list[str]:
    """What of a model is lost when its family's configuration is read again."""
    try:
        again = part_of(Config(config, family.model_type), tied=part.tied)
    except DataError as error:
        return [str(error)]
    return differences(canonical(part), canonical(again)) + family.problems(part)


def _strange(part: TransformerPart) -> list[str]:
    """Mixers and feed-forwards of no family."""
    mixers = {mixer.name for mixer, _ in part.blocks()} - {"attention"}
    patterns = {getattr(mixer.fields().get("pattern"), "name", "window") for mixer, _ in part.blocks()} - {"window"}
    others = {feed_forward.name for _, feed_forward in part.blocks()} - _FEED_FORWARDS
    found = [f"the mixer {name}" for name in sorted(mixers)] + [f"the feed-forward {name}" for name in sorted(others)]
    return found + [f"the pattern {name}" for name in sorted(patterns)]


# ---------------------------------------------------------------- equivalent forms


def equivalents(part: TransformerPart) -> Iterator[tuple[TransformerPart, tuple[str, ...]]]:
    """The model, then forms that compute the same: with a factor in the embedding, and with biases of 0."""
    scaled = part.embedding_scale or (part.d_model**0.5 if part.tied else 1.0)
    folded = part.model_copy(update={"tied": False, "embedding_scale": 1.0})
    said = f"the factor {scaled:g} on embedded tokens lies in the embedding"
    forms: list[tuple[TransformerPart, tuple[str, ...]]] = [(part, ())]
    if scaled != 1:
        forms.append((folded, (f"{said}, which is apart from the head" if part.tied else said,)))
    yield from forms
    for form, remarks in forms:
        biased = _biased(form)
        if canonical(biased) != canonical(form):
            yield biased, (*remarks, "biases that the model has not are 0")


def _biased(part: TransformerPart) -> TransformerPart:
    """The same with every bias that there can be."""
    mixers = [mixer.model_copy(update={"bias": True, "out_bias": True}) for mixer, _ in part.blocks()]
    inners = [inner.model_copy(update={"bias": True}) for _, inner in part.blocks()]
    norm = part.norm.model_copy(update={"bias": True}) if part.norm.name == "layer" else part.norm
    return part.model_copy(update={"mixer": tuple(mixers), "feed_forward": tuple(inners), "norm": norm})


def rewritten(
    weights: Mapping[str, Tensor], part: TransformerPart, form: TransformerPart, vocab_size: int
) -> dict[str, Tensor]:
    """The weights of a model's equivalent form, by our names."""
    found = dict(weights)
    if form.embedding_scale == 1 and part.embedding_scale != 1 and (part.tied or part.embedding_scale is not None):
        scale = part.embedding_scale or part.d_model**0.5
        if part.tied:
            found["unembedding.weight"] = found["embedding.weight"]
        found["embedding.weight"] = found["embedding.weight"].float() * scale
    for shape in form.shapes(vocab_size):
        if shape.name not in found:
            found[shape.name] = torch.zeros(shape.shape)
    return found
