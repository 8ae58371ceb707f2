"""Parts and the slots that they fill. A slot is a folder, a part is a file in it, the file's name is the part's name.

Only the file that a recipe names is imported. Third parties register a class with ``@part`` in a module of their own,
loaded either by importing it or through an entry point of the group ``isoflop.parts`` that the user enables by naming
it in the environment variable ``ISOFLOP_PLUGINS`` (comma-separated).
"""

from __future__ import annotations

import functools
import os
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import PrivateAttr

from .documents import Frozen, Section
from .errors import RecipeError, UsageError, nearest

SLOTS: dict[str, str] = {
    "source": "data/sources",
    "tokenizer": "data/tokenizers",
    "filter": "data/filters",
    "scorer": "data/scorers",
    "task": "data/tasks",
    "model": "models/architectures",
    "mixer": "models/mixers",
    "feed_forward": "models/feed_forwards",
    "norm": "models/norms",
    "arrangement": "models/arrangements",
    "position": "models/positions",
    "pattern": "models/patterns",
    "objective": "objectives/losses",
    "optimizer": "optim/optimizers",
    "schedule": "optim/schedules",
    "averaging": "optim/averaging",
    "decoder": "decode/decoders",
    "metric": "evals/metrics",
    "law": "laws/forms",
    "parametrization": "compress/parametrizations",
    "merge": "merge/methods",
    "transform": "compress/transforms",
}


class Card(Frozen):
    """What a part says of itself.

    ``isoflop show`` and the generated pages print it, so that a reader can judge a method, its source and its price
    without reading its code. Write one for every part; only the summary is required.

    Example:
        >>> card = Card(summary="Keeps the rate.", equation="lr_t = lr", cost="none")
        >>> card.differs
        'nothing'
    """

    summary: str
    """One sentence: what it does."""
    paper: str = ""
    """Source, e.g. "Vaswani et al. 2017, arXiv 1706.03762"."""
    equation: str = ""
    """The update, loss or form in one line."""
    defaults: str = ""
    """The authors' defaults, where they differ from ours or need context."""
    differs: str = "nothing"
    """Where this implementation differs from the authors' one."""
    cost: str = ""
    """Cost in words: FLOPs, state, memory."""


class Part(Section):
    """A swappable method: its fields are its hyper-parameters, ``build(ctx)`` makes the live object.

    Derive from a slot's base class (``core.contracts``), which derives from this one, to add a method to a slot. A part
    is a value without weights or data, so that a recipe can be checked, hashed and stored before anything is built.

    Example:
        >>> adamw = get("optimizer", "adamw")
        >>> adamw.slot, adamw(lr=0.01).fields()["lr"]
        ('optimizer', 0.01)

    Class attributes:
        slot: the slot it fills (set by the slot's base class).
        name: its name (set by ``@part``).
        card: what it says of itself.
        search: hyper-parameter -> the grid of values that tuning may try, ascending.
        provides: capabilities (Protocol classes of ``core.contracts``) of the live object, whatever the fields.
        needs: slot -> capabilities that this part requires of the part in that slot.
        uses: names of other models that it needs (``models.teacher`` of the recipe, then ``ctx.models["teacher"]``).
        version: counts the changes of what the part computes. Where it is above 1 it enters the recipe's hash, so that
            runs of two versions never stand in one study. Where a change concerns only some hyper-parameters,
            overriding ``current_version`` says so.
    """

    slot: ClassVar[str] = ""
    name: ClassVar[str] = ""
    card: ClassVar[Card] = Card(summary="")
    search: ClassVar[dict[str, tuple[float, ...]]] = {}
    provides: ClassVar[frozenset[type]] = frozenset()
    needs: ClassVar[dict[str, frozenset[type]]] = {}
    uses: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    _stored_version: int | None = PrivateAttr(None)

    @property
    def abilities(self) -> frozenset[type]:
        """Capabilities of the live object that these hyper-parameters make."""
        return self.provides

    def current_version(self) -> int:
        """The version of what this part computes today with these hyper-parameters."""
        return type(self).version

    def stored(self, version: int) -> Self:
        """This part as it was when a run was made with ``version`` of it (only a stored recipe holds an old one)."""
        if version != self.current_version():
            self._stored_version = version
        return self

    def meant_version(self) -> int:
        """The version whose numbers this part stands for: an old one only in a stored recipe."""
        return self._stored_version or self.current_version()

    def header(self) -> dict[str, Any]:
        version = self.meant_version()
        return {"name": type(self).name} | ({"version": version} if version > 1 else {})

    def fields(self) -> dict[str, Any]:
        """Hyper-parameters by name."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def check(self, recipe: Any) -> list[str]:
        """Problems of this part within the whole recipe, each "key.path: what; what to do"; none by default."""
        return []


P = TypeVar("P", bound=type[Part])
_registered: dict[str, dict[str, type[Part]]] = {slot: {} for slot in SLOTS}


def part(cls: P) -> P:
    """Register a part under its file's name (a class may set ``name`` itself when its file holds several).

    Put it above every part's class: recipes then name the part by that name. It gives the class back as it was.

    Args:
        cls: the part's class, derived from a slot's base class.

    Raises:
        UsageError: the class fills no slot, or another part of the slot has its name.

    Example:
        >>> part(get("optimizer", "adamw")).name  # again, which changes nothing
        'adamw'
    """
    if not cls.slot:
        raise UsageError(
            f"{cls.__qualname__} fills no slot", fix="derive it from a slot's base class in core.contracts"
        )
    if "name" not in vars(cls):
        cls.name = cls.__module__.rsplit(".", 1)[-1]
    known = _registered[cls.slot].get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UsageError(f"two parts are named {cls.name!r} in slot {cls.slot}: {known.__module__}, {cls.__module__}")
    _registered[cls.slot][cls.name] = cls
    return cls


def names(slot: str) -> list[str]:
    """The legal names of a slot, sorted: its folder's files and what third parties registered. Imports nothing."""
    _enable_plugins()
    folder = Path(__file__).parent.parent / SLOTS[_known(slot)]
    own = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    return sorted(own | set(_registered[slot]))


def get(slot: str, name: str) -> type[Part]:
    """The part class ``name`` of ``slot``; only its file is imported. UsageError with the nearest name if unknown."""
    known = _registered[_known(slot)]
    if name in known:
        return known[name]
    if name not in names(slot):
        raise UsageError(f"no {slot} is named {name!r}", fix=f"{nearest(name, names(slot))}{_asleep()}")
    if name not in known:  # it may have come with the plugins
        import_module(f"{_package(slot)}.{name}")
    if name not in known:
        raise RecipeError([f"the file of {slot} {name!r} registers no part of that name"], source="registry")
    return known[name]


def shipped(part: Part) -> bool:
    """Whether a part's class lies in its slot's folder, where any process finds it."""
    return type(part).__module__.startswith(f"{_package(part.slot)}.")


def _package(slot: str) -> str:
    return f"isoflop.{SLOTS[slot].replace('/', '.')}"


def _known(slot: str) -> str:
    if slot not in SLOTS:
        raise UsageError(f"no slot is named {slot!r}", fix=nearest(slot, SLOTS))
    return slot


def _wanted() -> list[str]:
    """The plugins that the user has enabled."""
    return [name for name in os.environ.get("ISOFLOP_PLUGINS", "").split(",") if name]


def _asleep() -> str:
    """A hint at plugins that are installed and not enabled, in which an unknown name may be; "" if there are none."""
    found = sorted({point.name for point in entry_points(group="isoflop.parts")} - set(_wanted()))
    if not found:
        return ""
    enabled = ",".join([*_wanted(), *found])
    return f"; installed but not enabled: {', '.join(found)} (ISOFLOP_PLUGINS={enabled} enables them)"


@functools.cache
def _enable_plugins() -> None:
    wanted = _wanted()
    found = {point.name: point for point in entry_points(group="isoflop.parts")}
    for name in wanted:
        if name not in found:
            raise UsageError(f"no plugin is named {name!r}", where="ISOFLOP_PLUGINS", fix=nearest(name, found))
        found[name].load()
