"""Facts about a study's corpus that belong beside its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.files import read_json, write_json
from ..store.results import RunRow
from .study import Study


def corpus_facts(study: Study, root: Path, *, compressors: bool = False) -> dict[str, Any]:
    """What the baseline's source says of itself: fingerprint, and for text its documents, bytes, tokens by split.

    Args:
        compressors: add what xz makes of the held-out text, alone and given training text (some ten CPU-seconds the
            first time; remembered in the study's directory for as long as the corpus stays the same).
    """
    from ..train.run import base_context

    recipe = study.run_recipe(study.baseline, 0, study.seeds[0])
    source = recipe.source.build(base_context(recipe, root))
    facts: dict[str, Any] = {"fingerprint": source.fingerprint}
    describe = getattr(source, "describe", None)
    if describe is not None:
        facts |= describe()
    if compressors:
        facts["compressors"] = _remembered(source, root / study.name / "compressors.json")
    return {key: value for key, value in facts.items() if value is not None}


def epochs(corpus: dict[str, Any], rows: list[RunRow], rung: int) -> float | None:
    """How often the longest baseline run passes over the training text; None where its size is not known."""
    amounts = corpus.get("train")
    ends = [row.end for row in rows if row.role == "evaluation" and row.rung == rung and row.end is not None]
    if not amounts or not ends:
        return None
    return float(max(end.tokens for end in ends) / sum(amount["tokens"] for amount in amounts.values()))


def _remembered(source: Any, path: Path) -> dict[str, float]:
    from ..data.compressors import compressed_bits_per_byte

    try:
        known = read_json(path)
        if known["fingerprint"] == source.fingerprint:
            return dict(known["bits_per_byte"])
    except (DataError, KeyError, TypeError):
        pass
    found = compressed_bits_per_byte(source)
    write_json(path, {"fingerprint": source.fingerprint, "bits_per_byte": found})
    return found
