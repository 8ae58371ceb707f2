"""A published model's directory: what it is, and its weights in a model of ours, tensor by tensor."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.context import Context
from ...core.contracts import Filling, ModelPart
from ...core.digests import digest, digest_file
from ...core.errors import DataError
from ...core.reading import user_path
from ...core.registry import get
from ...core.rng import Rng
from ...store.safetensors_dir import FLOATS, TensorInfo
from ...store.tensors import DTYPES, Checkpoint
from ..architectures.transformer import TransformerPart
from .config import Config
from .families import family_of, part_of
from .family import canonical
from .layouts import SAME, Entry, TensorLayout
from .wholes import WHOLE, said, text_tensors

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model")
"""Files of which a directory holds one if it has a tokenizer."""


class Published:
    """A directory in Hugging Face's layout.

    Use it to look at a model before its weights are read; ``load`` gives the model itself.

    Args:
        directory: holds ``config.json`` and the weights.

    Attributes:
        path: the directory.
        config: what its configuration says.
        checkpoint: its tensors.
        part: our architecture.
        vocab_size: rows of its embedding.

    Raises:
        DataError: it is not as the layout wants it, or of a family that is not known here.

    Example, with ``ctx`` a context of 257 tokens, of a model that is written first:
        >>> from isoflop.models.hf.export import Ids, export
        >>> part = TransformerPart(d_model=32, layers=2, mixer={"name": "attention", "heads": 4})
        >>> weights = dict(part.build(ctx).named_parameters())
        >>> form = export(part, weights, Path("tiny"), context=64, ids=Ids(end=256), identity="tiny")
        >>> published = Published("tiny")
        >>> published.part.d_model, published.vocab_size, published.context, published.has_tokenizer
        (32, 257, 64, False)
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = user_path(directory)
        self._said = Config.read(self.path)
        self.family = family_of(self._said)
        self.config = self.family.completed(self._said)
        self.checkpoint = Checkpoint(self.path)
        self.part: TransformerPart = part_of(self.config, tied=self.checkpoint.tied)
        self.vocab_size = self.config.whole("vocab_size")

    @property
    def context(self) -> int:
        """Tokens of the longest text that it is meant for."""
        return self.part.positions or self.config.whole(self.family.context_key, 2048)

    @property
    def whole(self) -> str:
        """The kind of model of which it is the text part alone; "" where it is all there is."""
        return str(self.config.tree.get(WHOLE, ""))

    @property
    def remarks(self) -> list[str]:
        """What a user should know of it, as sentences."""
        return [said(self.whole)] if self.whole else []

    @property
    def filling(self) -> Filling | None:
        """How it fills in what is hidden; None: it writes from left to right."""
        return self.family.filling(self.config)

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer lies beside the weights."""
        return any((self.path / name).is_file() for name in TOKENIZERS)

    def identity(self) -> tuple[str, str]:
        """Digests of the configuration, and of all files of the weights."""
        files = {file.name: digest_file(file) for file in self.checkpoint.files()}
        return digest(dict(self._said.tree)), digest(files)

    def located(self) -> dict[str, TensorInfo]:
        """Where the tensor of each of the family's names lies.

        Raises:
            DataError: tensors are missing, are of no use here, or have another shape or type; names the first.
        """
        entries = self.family.all_entries(self.part)
        there = dict(self.checkpoint.tensors)
        if self.whole:
            there = text_tensors(there, str(self.path))
        prefix = self.family.prefix
        if not any(name.startswith(prefix) for name in there):  # the bare model was saved
            there = {name if name == self.family.head() else prefix + name: info for name, info in there.items()}
        there = {n: t for n, t in there.items() if not any(fnmatch.fnmatch(n, rule) for rule in self.family.ignored)}
        wanted = {entry.theirs: entry for entry in entries}
        self._compare(wanted, there)
        return {name: there[name] for name in wanted}

    def _compare(self, wanted: dict[str, Entry], there: dict[str, TensorInfo]) -> None:
        """DataError if the tensors are not those of the family."""
        said = f"that a {self.family.model_type} of this configuration has"
        if missing := [name for name in wanted if name not in there]:
            what = f"lacks {len(missing)} tensors {said}, e.g. {missing[0]!r}"
            raise DataError(what, where=str(self.path), fix="fetch all files of the model")
        if extra := [name for name in there if name not in wanted]:
            info = there[extra[0]]
            what = f"{len(extra)} tensors are beyond those {said}, e.g. {extra[0]!r}"
            raise DataError(what, where=str(info.file), fix="is its config.json that of another model?")
        shapes = {shape.name: shape.shape for shape in self.part.shapes(self.vocab_size)}
        for name, entry in wanted.items():
            info, shape = there[name], entry.shape([shapes[ours] for ours in entry.ours])
            if info.shape != shape:
                what = f"tensor {name!r} has the shape {list(info.shape)}, the configuration wants {list(shape)}"
                raise DataError(what, where=str(info.file), fix="is its config.json that of another model?")
            if info.dtype not in FLOATS:
                what = f"tensor {name!r} is stored as {info.dtype}; {', '.join(sorted(FLOATS))} are read"
                raise DataError(what, where=str(info.file), fix="take the plain model")

    @torch.no_grad()
    def fill(self, model: torch.nn.Module) -> torch.nn.Module:
        """Give a model of ``part`` these weights, one tensor at a time; what else it has is left as it is."""
        parameters: dict[str, Tensor] = dict(model.named_parameters())
        for entry, info in self._in_order():
            stored = self.checkpoint.flat(info.name, torch.float32)
            if entry.layout is SAME:
                stored.into(parameters[entry.ours[0]])
                continue
            for name, part in zip(entry.ours, entry.layout.split(stored.whole()), strict=True):
                parameters[name].copy_(part)
        return model

    def attach(self, model: torch.nn.Module, *, bf16: bool) -> torch.nn.Module:
        """Put these weights in the place of a model's parameters, for use: mapped where they are held as they lie.

        Args:
            model: of ``part``; its parameters need no memory of their own.
            bf16: hold matrices that are stored in bf16 so, and not in fp32 as everything else.
        """
        for entry, info in self._in_order():
            for name, tensor in zip(entry.ours, self._held(entry.layout, info, bf16), strict=True):
                module, _, kind = name.rpartition(".")
                setattr(model.get_submodule(module), kind, torch.nn.Parameter(tensor, requires_grad=False))
        return model

    def model(self, *, precision: Literal["fp32", "bf16"] = "fp32", device: str = "cpu") -> torch.nn.Module:
        """The model with these weights, ready for use; arguments are those of ``load``."""
        bytes_part: Any = get("tokenizer", "bytes")
        ctx = Context(
            rng=Rng(0),
            cache=self.path,
            tokenizer=bytes_part(),
            vocab_size=self.vocab_size,
            batch=1,
            length=1,  # tables of positions grow with what comes
            device=device,
            precision=precision,
        )
        with torch.device("meta"):
            model = self.part.skeleton(ctx)
        return self.attach(model, bf16=precision == "bf16").to(device).eval()

    def _held(self, layout: TensorLayout, info: TensorInfo, bf16: bool) -> Sequence[Tensor]:
        """A tensor's parameters as a model holds them for use."""
        small = bf16 and info.dtype == "BF16" and len(info.shape) == 2
        stored = self.checkpoint.flat(info.name, torch.bfloat16 if small else torch.float32)
        there = stored.mapped() if layout is SAME and stored.dtype == DTYPES[info.dtype] else None
        if there is not None:
            return [there]
        return [part.contiguous() for part in layout.split(stored.whole())]

    def _in_order(self) -> list[tuple[Entry, TensorInfo]]:
        """Each tensor with its place, in the order of the files' bytes."""
        located = self.located()
        found = [(entry, located[entry.theirs]) for entry in self.family.all_entries(self.part)]
        return sorted(found, key=lambda pair: (pair[1].file.name, pair[1].begin))


def load(
    directory: str | Path, *, precision: Literal["fp32", "bf16"] = "fp32", device: str = "cpu"
) -> tuple[torch.nn.Module, TransformerPart]:
    """A published model, ready for use, and its architecture.

    Args:
        directory: in Hugging Face's layout.
        precision: of its products; weights that are stored in bf16 are held so where products are in bf16, all others
            in fp32.
        device: where it is built.

    Raises:
        DataError: it cannot be read, or is of a family that is not known here.

    Example:
        >>> model, part = load("models/SmolLM2-135M")  # doctest: +SKIP
        >>> logits = model(torch.tensor([[504, 3575, 282]]))  # doctest: +SKIP
    """
    found = Published(directory)
    return found.model(precision=precision, device=device), found.part


def fill(directory: Path, part: ModelPart, ctx: Context, into: torch.nn.Module | None = None) -> torch.nn.Module:
    """A model with the weights of a directory: see ``core.origins.fill``, whose answer this is."""
    found = Published(directory)
    if not isinstance(part, TransformerPart) or canonical(part) != canonical(found.part):
        raise DataError("is of another architecture than the recipe's model", where=str(directory))
    return found.fill(part.skeleton(ctx) if into is None else into).to(ctx.device)


def describe(directory: Path, wanted: str | None = None) -> dict[str, Any]:
    """What a recipe keeps of a published model, and the model and tokenizer that it brings (``resolved``).

    Args:
        directory: the model's.
        wanted: digest of the weights, where the user gives it.

    Raises:
        DataError: it cannot be read, or holds other weights.
    """
    found = Published(directory)
    found.located()
    configuration, weights = found.identity()
    if wanted not in (None, weights):
        raise DataError(f"holds weights with digest {weights[:12]}, not {str(wanted)[:12]}", where=str(directory))
    resolved: dict[str, Any] = {"model": found.part.model_dump(mode="json")}
    if found.has_tokenizer:
        resolved["tokenizer"] = _tokenizer(found)
    if found.filling is not None:
        resolved["filling"] = found.filling
        resolved["objective"] = {"name": "masked", "shifted": found.filling.shifted}
    return {
        "run": str(found.path),
        "recipe": configuration,
        "digest": weights,
        "vocab_size": found.vocab_size,
        "format": "huggingface",
        "context": found.context,
        "remarks": found.remarks,
        "resolved": resolved,
    }


def _tokenizer(found: Published) -> dict[str, Any]:
    from ...core.slots import resolve

    plain: Any = resolve("tokenizer", {"name": "pretrained", "path": str(found.path)})
    own = plain.vocabulary
    part = plain if own == found.vocab_size else plain.model_copy(update={"vocab_size": found.vocab_size})
    return part.model_dump(mode="json")  # type: ignore[no-any-return]
