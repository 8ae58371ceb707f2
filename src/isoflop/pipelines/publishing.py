"""From a run, or a published model, to a directory that other libraries load: weights, tokenizer, card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from .. import __version__
from ..core.contracts import PlainModel, Tokenizer, merged
from ..core.digests import digest
from ..core.errors import DataError, UsageError
from ..core.files import disk_errors, write_atomic, write_json
from ..core.reading import user_path
from ..data.exported import write_tokenizer
from ..data.tokenizing import beginning
from ..models.architectures.transformer import TransformerPart
from ..models.gguf import write_gguf
from ..models.hf.config import Config
from ..models.hf.directory import Published
from ..models.hf.export import Ids, export
from ..models.hf.families import Form
from ..store import checkpoint
from ..store.published import is_published
from ..store.records import scale_of
from ..store.run import Run
from ..store.tensors import CARRIED
from ..train.restore import trained

CARD = "README.md"
COMPRESSION = "compression.json"
"""What was done to the weights of a directory that compression made."""


@dataclass(frozen=True)
class WeightChange:
    """What is done to a model's weights on their way out.

    Args:
        of: the model -> the one that is written.
        record: JSON values that say what it is, kept beside the weights.

    Example:
        >>> WeightChange(of=lambda model: model, record=[]).record
        []
    """

    of: Callable[[PlainModel], PlainModel]
    record: Any

    def keep(self, directory: Path) -> None:
        """Say beside the weights what was done to them."""
        write_json(directory / COMPRESSION, self.record)


def publish_run(
    run: Run,
    out: Path,
    *,
    dtype: str = "float32",
    context: int | None = None,
    warn: Callable[[str], None] | None = None,
    change: WeightChange | None = None,
) -> Form:
    """Write a run's model as it is evaluated, whatever it was trained with baked in, with its tokenizer and a card.

    Args:
        run: the run.
        out: the directory; must not exist.
        dtype: of the weights: "float32", "bfloat16" or "float16".
        context: tokens of the longest text that it is meant for; default: as it was trained, or as its start was.
        warn: called with each warning, e.g. a damaged checkpoint that was skipped.
        change: what is done to the weights on their way.

    Raises:
        UsageError: no family of published models is like this one, or the run has no checkpoint yet.
    """
    recipe = run.recipe
    if any(pattern is not None for pattern in recipe.objective.patterns):
        what = f"was trained by {recipe.objective.name} to see what follows, which no causal model of others does"
        raise UsageError(what, where=str(run.path), fix="`isoflop merge export` writes its weights by our names")
    if not isinstance(recipe.model, TransformerPart):
        what = f"no published model is a {recipe.model.name}"
        raise UsageError(what, where=str(run.path), fix="`isoflop merge export` writes its weights by our names")
    found = trained(run, device="cpu", warn=warn)
    step, place = run.checkpoint() or (0, run.path)
    digests = checkpoint.digests(place)

    def beside(directory: Path, form: Form) -> None:
        if found.tokenizer is not None:
            write_tokenizer(found.tokenizer, directory)
        write_atomic(directory / CARD, card(run, form, step, digests["model.safetensors"]))
        if change is not None:
            change.keep(directory)

    model = _changed_model(PlainModel(recipe.model, found.ctx.vocab_size, merged(found.model)).joined(), change)
    assert isinstance(model.part, TransformerPart)
    return export(
        model.part,
        model.tensors,
        out,
        context=context or _context(run),
        family=_family(run),
        ids=_ids(found.tokenizer),
        identity={"recipe": run.hash, "checkpoint": dict(digests), "version": __version__, **_changed(change)},
        dtype=dtype,
        beside=beside,
    )


def publish_directory(
    directory: Path,
    out: Path,
    *,
    dtype: str = "float32",
    context: int | None = None,
    change: WeightChange | None = None,
) -> Form:
    """Write a published model anew: in another type, or from an older layout. Arguments are ``publish_run``'s."""
    source = Published(directory)
    if source.filling is not None:
        what = "fills in what is hidden: models of its family are read, not written, and no causal model is like it"
        raise UsageError(what, where=str(directory), fix="copy the directory as it is")
    model, config = source.model(), source.config

    def beside(target: Path, form: Form) -> None:
        for name in CARRIED:
            if (directory / name).is_file():
                shutil.copyfile(directory / name, target / name)
        if change is not None:
            change.keep(target)
        elif (directory / COMPRESSION).is_file():
            shutil.copyfile(directory / COMPRESSION, target / COMPRESSION)

    ids = [config.tree.get(key) for key in ("bos_token_id", "eos_token_id")]
    made = _changed_model(PlainModel(source.part, source.vocab_size, dict(model.named_parameters())), change)
    assert isinstance(made.part, TransformerPart)
    form = export(
        made.part,
        made.tensors,
        out,
        context=context or source.context,
        family=source.family.model_type,
        ids=Ids(*ids),
        identity={"source": list(source.identity()), "version": __version__, **_changed(change)},
        dtype=dtype,
        beside=beside,
    )
    return replace(form, remarks=(*form.remarks, *source.remarks))


def _changed_model(model: PlainModel, change: WeightChange | None) -> PlainModel:
    return model if change is None else change.of(model)


def _changed(change: WeightChange | None) -> dict[str, Any]:
    return {} if change is None else {"change": change.record}


def publish_gguf(write: Callable[[Path], Form], out: Path, kind: str = "f16") -> tuple[Form, list[str]]:
    """Write a GGUF file of what ``write`` makes: a directory that is kept only meanwhile, beside the file.

    Args:
        write: ``publish_run`` or ``publish_directory`` of a model, given a directory that does not exist.
        out: the file; must not exist.
        kind: type of the matrices, one of ``models.gguf.TYPES``.

    Returns:
        The form in which the model was written, and what llama.cpp will do otherwise than it, in sentences.
    """
    with on_the_way(out, out.stem, "name another file") as directory:
        form = write(directory)
        return form, write_gguf(directory, out, kind)


@contextmanager
def on_the_way(out: Path, name: str, fix: str) -> Iterator[Path]:
    """A directory of some name, beside ``out`` and not there yet, for what is kept only until ``out`` is written.

    Args:
        out: the file or directory to be made; must not exist.
        name: of the directory.
        fix: what to do where ``out`` exists.
    """
    if out.exists():
        raise UsageError("exists already", where=str(out), fix=fix)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as meanwhile:
            yield Path(meanwhile) / name


def _ids(tokenizer: Tokenizer | None) -> Ids:
    if tokenizer is None:
        return Ids()
    return Ids(begin=(beginning(tokenizer) or (tokenizer.eot,))[0], end=tokenizer.eot)


def _start(run: Run) -> Config | None:
    """The configuration of the published model that a run began with, if it did and that is still there as it was."""
    start = run.recipe.start
    if start is None or not start.published or not is_published(user_path(start.run)):
        return None
    try:
        found = Config.read(user_path(start.run))
    except DataError:  # the run holds all weights, and needs no other directory to be whole
        return None
    return found if digest(dict(found.tree)) == start.recipe else None


def _context(run: Run) -> int:
    """Tokens that a run's model was trained on at a time; of one that began with a published model, that one's."""
    start, own = _start(run), run.recipe.train.length
    said = None if start is None else start.tree.get("max_position_embeddings")
    return max(own, said) if isinstance(said, int) else own


def _family(run: Run) -> str:
    """The family that a run's model came from, if it did from one."""
    start = _start(run)
    return "" if start is None else str(start.tree.get("model_type", ""))


def card(run: Run, form: Form, step: int, digest: str) -> str:
    """The model card: what it is, what it cost, how good it is, and how it was made."""
    result, recipe = run.result, run.recipe
    value = "not measured yet"
    if isinstance(result.get("value"), int | float):
        scale = scale_of(result)
        value = f"{scale.text(result['value'], bound=result.get('bound', False))} {scale.unit}, on held-out text"
    facts = {
        "architecture": f"{form.family.architecture}, written by isoflop {__version__}",
        "recipe": f"`{run.hash}`",
        "weights": f"SHA-256 `{digest}` of the checkpoint after step {step:,}",
        "value": value,
        **({"but for": "; ".join(form.remarks)} if form.remarks else {}),
    }
    lines = ["---", "library_name: transformers", "tags: [isoflop]", "---", f"# {run.label}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {text} |" for key, text in facts.items()]
    lines += ["", "## What it cost", "", *_bill("this run", run.ledger)]
    for ancestor in run.ancestors.values():
        lines += _bill(f"its ancestor {ancestor.name}", ancestor.ledger)
    if recipe.start is not None and recipe.start.published:
        lines.append("- what the published model that it began with cost is not known here")
    lines += ["", "## Recipe", "", "```toml", tomli_w.dumps(_shown(recipe.to_json())).strip(), "```", ""]
    return "\n".join(lines)


def _bill(whose: str, ledger: Mapping[str, Mapping[str, float]]) -> list[str]:
    """FLOPs by phase."""
    return [f"- {whose}, {phase}: {axes['flops']:.4g} FLOPs" for phase, axes in ledger.items() if axes.get("flops")]


def _shown(tree: Any) -> Any:
    """A recipe without what lies where on this machine: of absolute paths the last piece alone."""
    if isinstance(tree, dict):
        return {key: _shown(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_shown(item) for item in tree]
    return Path(tree).name if isinstance(tree, str) and tree.startswith(("/", "~")) else tree
