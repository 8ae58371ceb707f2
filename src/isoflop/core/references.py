"""Other models that a recipe names: those it starts from or uses, by where they lie and by what they are.

A user writes the name, directory or hash of a run, the directory of one of its checkpoints, or that of a published
model. When the recipe is read, that becomes a reference: the hash of the run's recipe (or of the configuration) and the
digest of the weights, which are its identity. Where the model lies may change; what it is may not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import NonNegativeInt, PositiveInt, ValidationError
from pydantic_core import PydanticCustomError

from .digests import canonical_json
from .documents import Later, Section, Worded, leaves
from .errors import IsoflopError
from .origins import describe
from .registry import SLOTS
from .slots import ModelSlot, ParametrizationSlot, resolve

Digest = Annotated[str, Worded("[0-9a-f]{64}", "should be a SHA-256, 64 hex digits")]
"""SHA-256 in hexadecimal."""
IDENTITY = ("recipe", "digest", "optimizer")
"""The keys of a reference that enter the hash of the recipe that makes it."""
INHERITED = ("model", "tokenizer")
"""Keys of a recipe that are its start's."""
STATE = ("optimizer", "parametrization", "freeze")
"""Those that are its start's where the optimizer's state is kept."""
ROOT: ContextVar[Path | None] = ContextVar("root", default=None)
"""Directory below which runs are looked up by name; None: that of the environment variable ISOFLOP_ROOT, or runs."""
PUBLISHED, ADAPTER = "huggingface", "peft"
"""Formats of models, and of adapters, that are no run of ours."""
_FORM = (
    "should name a run (its name, directory or hash), a checkpoint's directory or a Hugging Face directory, "
    "as text or {run = ...}"
)


class Reference(Section):
    """A model that was trained before. Users give ``run``; reading the recipe adds the rest.

    Example:
        >>> Reference(run="runs/base", recipe="ab" * 32, digest="cd" * 32, vocab_size=257).published
        False
    """

    run: str
    """The directory of the run, or of the checkpoint, where it was found; no part of the identity."""
    recipe: Digest
    """Hash of the recipe that made it; of a published model, the digest of its configuration."""
    digest: Digest
    """SHA-256 of the file of its weights, or digest of the SHA-256 of all of them."""
    vocab_size: PositiveInt
    """Token ids that it knows."""
    format: Annotated[Literal["isoflop", "huggingface", "peft"], Later()] = "isoflop"
    """What it lies in: a run of isoflop's, a directory in Hugging Face's layout, or an adapter in PEFT's."""

    @property
    def published(self) -> bool:
        """Whether it is a published model, of which there is no run."""
        return self.format == PUBLISHED

    @property
    def adapter(self) -> bool:
        """Whether it is an adapter's directory: updates of the start's weights, and no model."""
        return self.format == ADAPTER


class Start(Reference):
    """The model whose weights a run begins with, evaluated (averaged) ones where its run has such.

    Example:
        >>> Start(run="runs/base", recipe="ab" * 32, digest="cd" * 32, vocab_size=257).optimizer
        False
    """

    optimizer: Annotated[bool, Later()] = False
    """Go on with the optimizer's state, too, and so from the weights that were trained, not from averaged ones."""
    steps: Annotated[NonNegativeInt, Later()] = 0
    """Steps that the optimizer whose state is kept had taken."""


class ModelReference(Reference):
    """A model that is used and not trained, e.g. a teacher."""

    model: ModelSlot
    """Its architecture."""
    parametrization: Annotated[ParametrizationSlot | None, Later()] = None
    """What it was trained with."""


def identity(reference: Any) -> Any:
    """What a stored reference, a JSON value, adds to the hash of its recipe."""
    if not isinstance(reference, Mapping):
        return reference
    return {key: reference[key] for key in IDENTITY if key in reference}


def root() -> Path:
    """The directory below which runs are looked up by name."""
    return ROOT.get() or Path(os.environ.get("ISOFLOP_ROOT") or "runs")


def completed(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A recipe's tree with its references resolved, and its problems by key path.

    With ``start`` the model and the tokenizer (and the optimizer, if its state is kept) may be left out and are the
    start's; where they are given they must be the same.
    """
    tree, problems = dict(tree), dict[str, str]()
    if tree.get("start") is not None:
        facts = _facts(tree["start"], "start", problems)
        if facts is not None:
            stored, keeps = facts.pop("resolved", None), facts.get("optimizer") is True
            if keeps and facts.get("format") == PUBLISHED:
                problems["start.optimizer"] = "a published model comes without an optimizer's state; leave it out"
                return tree, problems
            if facts.get("format") == ADAPTER:
                fix = "start with what it was trained on, and name it in models"
                problems["start"] = f"{facts['run']} is an adapter, no model; {fix}"
                return tree, problems
            tree["start"] = facts if keeps else {key: value for key, value in facts.items() if key != "steps"}
            inherited = () if stored is None else INHERITED + (STATE if keeps else ())
            differing = [line for key in inherited for line in _inherit(tree, key, stored.get(key))]
            if differing:
                problems["start"] = f"{facts['run']} has {'; '.join(differing)}; leave out what is the start's"
    if isinstance(tree.get("models"), dict):
        models = tree["models"] = dict(tree["models"])
        for name, value in models.items():
            facts = _facts(value, f"models.{name}", problems)
            if facts is not None:
                stored = facts.pop("resolved", None)
                facts.pop("steps", None)
                if stored is not None and facts.get("format") == ADAPTER:  # it is one of the start's model
                    start = tree.get("start")
                    if not isinstance(start, dict) or "vocab_size" not in start or "model" not in tree:
                        problems[f"models.{name}"] = f"{facts['run']} is an adapter: start with what it was trained on"
                        continue
                    facts["vocab_size"], stored = start["vocab_size"], {**stored, "model": tree["model"]}
                known = [] if stored is None else [key for key in ("model", "parametrization") if key in stored]
                models[name] = {**facts, **{key: _unversioned(stored[key]) for key in known}}
    return tree, problems


def _facts(value: Any, path: str, problems: dict[str, str]) -> dict[str, Any] | None:
    """A reference as JSON values, with the recipe that made it (``resolved``) where it was looked up just now."""
    value = {"run": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("run"), str):
        problems[path] = _FORM
        return None
    if "recipe" in value and "digest" in value:
        return value
    try:
        facts = describe(value["run"], root(), value.get("digest"))
        return {**value, **{key: fact for key, fact in facts.items() if key not in ("context", "remarks")}}
    except IsoflopError as error:
        problems[path] = str(error)
        return None


def _inherit(tree: dict[str, Any], key: str, theirs: Any) -> Iterator[str]:
    """Put what the start has where the tree has nothing; otherwise what differs, each "model.layers 2, not 3"."""
    theirs, ours = _unversioned(theirs), tree.get(key)
    if ours is None:
        tree.update({} if theirs is None else {key: theirs})
        return
    if isinstance(ours, dict) and isinstance(theirs, dict) and "name" not in ours:  # the rest is the start's
        ours = tree[key] = {**theirs, **ours}
    try:
        given, kept = (dict(leaves(_plain(key, value), key)) for value in (ours, theirs))
    except (ValidationError, PydanticCustomError):
        return  # validation says what is wrong with it
    for path in {**kept, **given}:
        if given.get(path) != kept.get(path):
            yield f"{path} {_shown(kept.get(path))}, not {_shown(given.get(path))}"


def _plain(key: str, value: Any) -> Any:
    """A key's value with every default of its part."""
    return value if value is None or key not in SLOTS else resolve(key, value).model_dump(mode="json")


def _unversioned(tree: Any) -> Any:
    """A part without its versions: the weights come from elsewhere, and today's code computes with them."""
    if isinstance(tree, list):
        return [_unversioned(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return {key: _unversioned(value) for key, value in tree.items() if key != "version" or "name" not in tree}


def _shown(value: Any) -> str:
    return "none" if value is None else canonical_json(value)
