"""The demo: three methods against tuned AdamW on the Python standard library, sized to the machine by a pre-flight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..core.reading import user_path
from ..store.results import StudyResult
from .compare import Say, compare
from .corpus import corpus_facts
from .plan import StudyPlan, priced
from .preflight import Speed, speeds_here
from .study import Study

CAP = 640.0
"""CPU-seconds that the whole demo may take."""
RESERVE = 40.0
"""CPU-seconds of them for what is no run of the study: corpus, tokenizer, compressors, report."""
SLOWER: tuple[tuple[tuple[str, ...], str], ...] = (
    ((), ""),
    (
        ("ladder.rungs=[96, 192, 384, 768]",),
        "the pre-flight found this machine slow: the lowest rung has 96 steps instead of 128",
    ),
    (
        ("ladder.rungs=[96, 192, 384, 768]", "tuning.top_points=2"),
        "the pre-flight found this machine too slow for the whole study: the lowest rung has 96 steps instead of 128, "
        "and the baseline is tuned again with 2 rates instead of 4, which may cost it some of its due",
    ),
)
"""What to change, from the whole study to the cheapest, and what to say of it."""


def demo(root: Path | str = "runs", *, workers: int = 2, progress: Say | None = None) -> StudyResult:
    """Run the demo's study under ``root``; a second call finds its runs and takes seconds.

    Raises as ``compare`` does.

    Args:
        root: directory of runs.
        workers: processes, one thread each.
        progress: called with a line of text whenever a run ends.

    Example:
        >>> result = demo("runs", workers=2)  # doctest: +SKIP
    """
    root, say = user_path(root), progress or (lambda line: None)
    study = Study.load("demo")
    say("pre-flight: corpus, tokenizer, and a few steps of each arm to time them")
    study, planned, notes = sized(study, speeds_here(study, root, workers), workers, root)
    for line in [*notes, planned.text()]:
        say(line)
    notes += [planned.preflight] if planned.preflight else []
    corpus = corpus_facts(study, root, compressors=True)
    sizes = ", ".join(f"{name} {value:.2f}" for name, value in corpus["compressors"].items())
    notes.append(f"what general compressors need for the held-out text, in bits per byte: {sizes}")
    return compare(study, root, workers=workers, progress=progress, corpus=corpus, notes=notes)


def sized(
    study: Study, speeds: Mapping[str, Speed], workers: int, root: Path | None = None
) -> tuple[Study, StudyPlan, list[str]]:
    """The largest form of the study whose plan keeps to the cap, its plan, and what must be said about it.

    The runs that an optimum at an edge may add are not reserved for: the plan states them apart.
    """
    for changes, remark in SLOWER:
        fitted = study.with_(*changes)
        planned = priced(fitted, speeds, workers, root)
        notes = [remark] if remark else []
        if planned.cpu_seconds <= CAP - RESERVE:
            return fitted, planned, notes
    notes.append(f"it is expected to take {planned.cpu_seconds:.0f} CPU-seconds, more than the {CAP:.0f} aimed at")
    return fitted, planned, notes
