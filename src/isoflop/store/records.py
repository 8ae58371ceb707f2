"""What a run's JSON files hold: the types that they are read as. Other keys than these are kept as they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

Number = int | float
"""A whole number stays one: amounts are exact."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Ledger = dict[str, dict[str, Number]]
"""``ledger.json``: what was spent, by phase and axis."""
_OPEN = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Spent(TypedDict, total=False):
    flops: Number
    hardware_flops: Number
    tokens: Number
    text_bytes: Number
    seconds: Number


@with_config(_OPEN)
class Result(_Spent, total=False):
    """``result.json``: how the run ended, its value in its first metric's unit, what training cost."""

    status: Literal["done", "diverged"]
    message: str
    step: Count
    value: Number
    fingerprint: str
    heldout: str
    weights_sha256: str


@with_config(_OPEN)
class Metric(_Spent, total=False):
    """A line of ``metrics.jsonl``: a training step (kind "step") or an evaluation."""

    kind: str
    step: Count
    """Steps completed."""
    loss: Number
    value: Number
    stderr: Number | None
    domains: dict[str, Number]


@with_config(_OPEN)
class Event(TypedDict, total=False):
    """A line of ``events.jsonl``."""

    kind: str
    time: str
    seconds: Number
    cpu_seconds: Number
    workers: int
    changes: list[str]
    message: str
