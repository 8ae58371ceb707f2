"""What lm-evaluation-harness measured of a model, as it is kept beside it: lines of ``harness.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import model_validator

from ..core.documents import Frozen
from ..core.files import append_jsonl, disk_errors, jsonable, mend_jsonl
from ..core.reading import read_jsonl

HARNESS = "harness.jsonl"
"""The file in a run's directory; of a published model, in the root of runs."""


class HarnessMetric(Frozen):
    """A number of a task.

    Example:
        >>> HarnessMetric(value=0.25, stderr=0.1).higher_is_better is None
        True
    """

    value: float | None
    """None: it is not finite."""
    stderr: float | None = None
    """Its standard error; None where the harness knows none."""
    higher_is_better: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _finite(cls, tree: Any) -> Any:
        """JSON has no infinity: a perplexity that is one is none."""
        return jsonable(tree) if isinstance(tree, dict) else tree


class HarnessResult(Frozen):
    """One task's numbers, with all that they depend on.

    Example:
        >>> result = HarnessResult(task="yes_or_no", form="multiple_choice", samples=40, lm_eval="0.4.13",
        ...                        digest="ab", metrics={"acc": HarnessMetric(value=0.5, stderr=0.08)})
        >>> store(Path("harness.jsonl"), [result])
        >>> [each.task for each in latest(stored(Path("harness.jsonl")))]
        ['yes_or_no']
    """

    task: str
    version: str = ""
    """The task's own, from its file."""
    form: str
    """Its ``output_type``."""
    samples: int
    """Items that were measured."""
    shots: int = 0
    """Examples before each item."""
    limit: int | None = None
    """Only so many items were wanted."""
    metrics: dict[str, HarnessMetric]
    lm_eval: str
    """The harness' version."""
    digest: str
    """Of the task's keys and rows."""
    model: str = ""
    """The published model's directory; "" for the run beside which this is kept."""
    weights: str = ""
    """Digest of the weights."""
    step: int = 0
    """Of the checkpoint."""
    created: str = ""
    """UTC, ISO 8601."""


def store(file: Path, results: Iterable[HarnessResult]) -> None:
    """Add results to a file, whose folder is made if needed."""
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    mend_jsonl(file)
    for result in results:
        made = datetime.now(UTC).isoformat(timespec="seconds")
        append_jsonl(file, result.model_copy(update={"created": made}).model_dump(mode="json"))


def stored(file: Path) -> list[HarnessResult]:
    """All results of a file, in order; [] where there is none. A broken line is a DataError."""
    found: list[HarnessResult] = read_jsonl(file, HarnessResult)
    return found


def latest(results: Iterable[HarnessResult]) -> list[HarnessResult]:
    """The newest result of each task, as often as it was measured in another way (fewer items, more examples)."""
    newest = {(each.model, each.task, each.digest, each.shots, each.limit): each for each in results}
    return list(newest.values())
