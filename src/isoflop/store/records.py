"""What a run's JSON files hold: the types that they are read as. Other keys than these are kept as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from ..core.documents import Frozen
from ..core.scale import Scale

Number = int | float
"""A whole number stays one: amounts are exact."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Ledger = dict[str, dict[str, Number]]
"""``ledger.json``: what was spent, by phase and axis."""
UNSAID = Scale("bits per byte")
"""What values are measured on that do not say it: the first release knew no other metric."""

State = Literal["created", "running", "done", "failed", "diverged", "stopped"]


class Status(Frozen):
    """What a run is doing. Times are UTC, ISO 8601.

    Example:
        >>> now = "2026-01-01T00:00:00Z"
        >>> Status(created=now, updated=now, pid=4321, host="here", step=40, horizon=200).state
        'created'
    """

    state: State = "created"
    created: str
    updated: str
    """The last heartbeat or change of state."""
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    host: str
    step: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Steps completed."""
    horizon: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Steps in all; 0: not known yet."""
    message: str = ""


class Ancestor(Frozen):
    """A run whose model another run began with or used: ``ledger`` is what it had spent on that model.

    Example:
        >>> Ancestor(name="base", ledger={"train": {"flops": 600}}).ledger["train"]["flops"]
        600
    """

    name: str
    ledger: Ledger


Ancestors = dict[str, Ancestor]
"""``ancestors.json``: all ancestors of a run, theirs included, by the hash of the recipe that made each."""


def joined(bills: Iterable[Mapping[str, Ancestor]]) -> Ancestors:
    """The ancestors of several, each once; of one that was taken up at several points, the most that it had spent.

    Example:
        >>> early, late = (Ancestor(name="base", ledger={"train": {"flops": flops}}) for flops in (300, 600))
        >>> joined([{"ab": early}, {"ab": late}])["ab"].ledger["train"]["flops"]
        600
    """
    found: Ancestors = {}
    for bill in bills:
        for key, ancestor in bill.items():
            before = found.get(key, ancestor).ledger
            most = {
                phase: {
                    axis: max(
                        amounts.get(axis, 0) for amounts in (before.get(phase, {}), ancestor.ledger.get(phase, {}))
                    )
                    for axis in {**before.get(phase, {}), **ancestor.ledger.get(phase, {})}
                }
                for phase in {**before, **ancestor.ledger}
            }
            found[key] = Ancestor(name=ancestor.name, ledger=most)
    return found


OPEN = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
"""A table that may hold more than is read of it."""


class _Spent(TypedDict, total=False):
    flops: Number
    hardware_flops: Number
    tokens: Number
    text_bytes: Number
    seconds: Number


@with_config(OPEN)
class _Measured(_Spent, total=False):
    value: Number
    """Of the recipe's first metric."""
    bound: bool
    """It is one: what it stands for is at least as good."""
    unit: str
    higher_is_better: bool


@with_config(OPEN)
class Result(_Measured, total=False):
    """``result.json``: how the run ended, its value, what training cost.

    Example:
        >>> result: Result = {"status": "done", "step": 200, "value": 2.1, "unit": "bits per byte"}
        >>> scale_of(result).unit
        'bits per byte'
    """

    status: Literal["done", "diverged"]
    message: str
    step: Count
    fingerprint: str
    heldout: str
    weights_sha256: str


@with_config(OPEN)
class MetricRecord(_Measured, total=False):
    """A line of ``metrics.jsonl``: a training step (kind "step") or an evaluation, whose ``metrics`` holds each.

    Example:
        >>> record: MetricRecord = {"kind": "step", "step": 40, "loss": 3.2}
        >>> record["loss"]
        3.2
    """

    kind: str
    step: Count
    """Steps completed."""
    loss: Number
    stderr: Number | None
    domains: dict[str, Number]


class Change(TypedDict):
    """What differs between two environments.

    Example:
        >>> change: Change = {"key": "threads", "before": 1, "after": 2}
        >>> change["key"]
        'threads'
    """

    key: str
    before: Any
    after: Any


@with_config(OPEN)
class Event(TypedDict, total=False):
    """A line of ``events.jsonl``.

    Example:
        >>> event: Event = {"kind": "started", "time": "2026-01-01T00:00:00Z", "workers": 2}
        >>> event["workers"]
        2
    """

    kind: str
    time: str
    seconds: Number
    cpu_seconds: Number
    workers: int
    changes: list[Change | str]
    """Of kind "environment". The first release stored each as text: "threads: 1 -> 2"."""
    message: str


def numbers(record: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record with their places as names: ``metrics/bits_per_byte/value``.

    Example:
        >>> dict(numbers({"kind": "step", "step": 4, "loss": 3.5, "terms": {"z_loss": 0.1}, "bound": False}))
        {'step': 4, 'loss': 3.5, 'terms/z_loss': 0.1}
    """
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{under}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{under}{key}", value


def scale_of(stored: Mapping[str, Any]) -> Scale:
    """What the value of a result or of an evaluation is measured on."""
    return Scale(stored.get("unit", UNSAID.unit), stored.get("higher_is_better", UNSAID.higher_is_better))
