"""Objectives to test with, those included that say nothing by default."""

from __future__ import annotations

from typing import Any

from isoflop.core.contracts import ObjectivePart
from isoflop.core.slots import resolve

FIELDS: dict[str, dict[str, Any]] = {
    "weighted": {"terms": [{"objective": "next_token"}, {"objective": "distill", "weight": 0.5}]},
}
"""Fields of parts that cannot be built by default."""
MODELS = ("teacher",)
"""Names under which parts may find other models in their context."""


def objective_of(name: str) -> ObjectivePart:
    return resolve("objective", {"name": name, **FIELDS.get(name, {})})  # type: ignore[return-value]
