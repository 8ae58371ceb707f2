"""A model of ours as a directory that transformers loads without any code of ours: whole, or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.digests import digest
from ...core.errors import NumericsError
from ...core.files import write_json
from ...store.published import CONFIG
from ...store.tensor_writer import SHARD_BYTES, lay_out, open_output
from ...store.tensors import NAMES, as_bytes
from ..architectures.transformer import TransformerPart
from .families import Form, form_of, rewritten
from .family import Sizes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types in which weights are written, by the names that configurations have for them."""


@dataclass(frozen=True)
class Ids:
    """Ids with a meaning: what a text begins and ends with.

    Args:
        begin: the id before every text; None: texts have none.
        end: the id after every text; None: texts have none.

    Example:
        >>> Ids(end=256).keys()
        {'bos_token_id': None, 'eos_token_id': 256, 'pad_token_id': None}
    """

    begin: int | None = None
    end: int | None = None

    def keys(self) -> dict[str, int | None]:
        """As configurations say them."""
        return {"bos_token_id": self.begin, "eos_token_id": self.end, "pad_token_id": None}


def export(
    part: TransformerPart,
    weights: Mapping[str, Tensor],
    out: Path,
    *,
    context: int,
    ids: Ids,
    identity: Any,
    family: str = "",
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
    beside: Callable[[Path, Form], None] = lambda directory, form: None,
) -> Form:
    """Write a model as a directory in Hugging Face's layout.

    Args:
        part: its architecture.
        weights: by our names, parametrizations baked in.
        out: the directory; must not exist.
        context: tokens of the longest text that it is meant for.
        ids: what a text begins and ends with.
        identity: JSON values that decide the weights, e.g. digests of recipe and checkpoint; a call that was killed is
            taken up by one of the same identity.
        family: the one that is tried first, e.g. that which the model came from.
        dtype: of the written weights, one of ``DTYPES``.
        shard_bytes: largest file of weights.
        beside: writes what lies beside the weights (tokenizer, card) into the directory before it is published.

    Returns:
        The form in which the model was written.

    Raises:
        UsageError: no family of published models has this architecture, or ``out`` exists.
        NumericsError: a weight is not finite in ``dtype``.
        StorageError: the disk refused.

    Example, with ``ctx`` a context of 257 tokens:
        >>> part = TransformerPart(d_model=32, layers=2, mixer={"name": "attention", "heads": 4})
        >>> weights = dict(part.build(ctx).named_parameters())
        >>> form = export(part, weights, Path("tiny"), context=64, ids=Ids(end=256), identity="tiny")
        >>> form.family.model_type, sorted(path.name for path in Path("tiny").iterdir())
        ('llama', ['config.json', 'generation_config.json', 'model.safetensors'])
    """
    vocab_size = len(weights["embedding.weight"])
    form = form_of(part, Sizes(vocab_size, part.positions or context), family)
    tensors = rewritten(weights, part, form.part, vocab_size)
    entries, kind = form.family.all_entries(form.part), DTYPES[dtype]
    named = [(e.theirs, NAMES[kind], e.shape([tuple(tensors[name].shape) for name in e.ours])) for e in entries]
    config = {**form.config, **ids.keys(), "torch_dtype": dtype}
    whole = digest({"identity": identity, "config": config, "tensors": [list(entry) for entry in named]})
    with open_output(out, lay_out(named, shard_bytes), whole) as output:
        for entry in entries:
            if entry.theirs in output.done:
                continue
            tensor = entry.layout.join([tensors[name].detach().cpu() for name in entry.ours]).to(kind)
            if not bool(torch.isfinite(tensor).all()):
                what = f"tensor {entry.theirs!r} would hold values that are not finite in {dtype}"
                raise NumericsError(what, where=str(out), fix="choose float32, or another checkpoint")
            output.write(entry.theirs, 0, as_bytes(tensor))
            output.finished(entry.theirs)
        output.close()
        write_json(output.path / CONFIG, config)
        generation = {key: value for key, value in ids.keys().items() if value is not None}
        write_json(output.path / "generation_config.json", generation)
        beside(output.path, form)
    return form
