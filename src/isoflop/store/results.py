"""The stored result of a study: written by ``lab``, read by ``report`` and by anybody's notebook."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from ..core.digests import digest
from ..core.documents import Frozen
from ..core.errors import DataError
from ..core.files import write_json
from ..core.reading import read_json
from ..core.scale import Scale
from ..core.table import Table
from .names import printable
from .notebook import html
from .records import UNSAID, Ancestors

STUDY = "study.json"
"""The file of a study's directory that holds its result."""
Axis = Literal["flops", "hardware_flops", "steps", "tokens", "text_bytes", "seconds"]


class Point(Frozen):
    """One evaluation within a run: what had been spent (training phases only) and the quality reached.

    Example:
        >>> spent = dict(flops=10**12, hardware_flops=10**12, tokens=10**6, text_bytes=4 * 10**6, seconds=60.0)
        >>> Point(step=100, **spent, value=2.1, stderr=0.01).value
        2.1
    """

    step: int
    flops: int
    hardware_flops: int
    tokens: int
    text_bytes: int
    seconds: float
    value: float
    stderr: float | None
    domains: dict[str, float] = {}
    bound: bool = False
    """``value`` is one: what it stands for is at least as good."""


class Trunk(Frozen):
    """The first steps of a run that another had made: one of the same recipe with a smaller budget.

    Example:
        >>> Trunk(recipe_hash="ab", step=200, ledger={"train": {"flops": 10**9}}).step
        200
    """

    recipe_hash: str
    """Of the run that had made them."""
    step: int
    """How many they are."""
    ledger: dict[str, dict[str, float]] = {}
    """What they had cost."""

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> Trunk | None:
        """What a run took over, by its events of kind "lengthened"; None: nothing, or an older release did not say."""
        taken = [event for event in events if "ledger" in event]
        if not taken:
            return None
        return cls(recipe_hash=taken[-1]["recipe"], step=taken[-1]["step"], ledger=taken[-1]["ledger"])


def own_part(
    ledger: Mapping[str, Mapping[str, float]], trunk: Trunk | None, made: Container[str]
) -> dict[str, dict[str, float]]:
    """What a run spent itself: all, but for a trunk that one of ``made`` (recipes' hashes) has paid.

    Example:
        >>> trunk = Trunk(recipe_hash="ab", step=4, ledger={"train": {"steps": 4}})
        >>> own_part({"train": {"steps": 10}}, trunk, {"ab"}), own_part({"train": {"steps": 10}}, trunk, set())
        ({'train': {'steps': 6.0}}, {'train': {'steps': 10}})
    """
    taken = trunk.ledger if trunk is not None and trunk.recipe_hash in made else {}
    return {
        phase: {axis: amount - taken.get(phase, {}).get(axis, 0) for axis, amount in amounts.items()}
        for phase, amounts in ledger.items()
    }


class RunRow(Frozen):
    """One run of a study. ``curve``'s last point is the run's end; a diverged or failed run has an empty curve.

    Example:
        >>> row = RunRow(run="a-1", recipe_hash="ab", arm="muon", rung=0, seed=1, role="evaluation", status="diverged")
        >>> row.end is None
        True
    """

    run: str
    recipe_hash: str
    arm: str
    rung: int
    seed: int
    role: Literal["tuning", "evaluation"]
    hyper: dict[str, float] = {}
    status: Literal["done", "diverged", "failed"]
    curve: list[Point] = []
    ledger: dict[str, dict[str, float]] = {}
    """What the whole path cost, by phase and axis."""
    trunk: Trunk | None = None
    """The part of the path that it took over, if it did; the ledger holds that, too."""
    ancestors: Ancestors = {}
    """What was spent on the models that it begins with or uses, by the hash of the recipe that made each."""
    reused: bool = False
    """It had been finished before this study was started."""
    fingerprint: str = ""
    """Fingerprint of the training corpus; "" where it is not known."""
    heldout: str = ""
    """Digest of the text it was evaluated on; "" where it is not known."""
    exclusive: bool = False
    """It had the machine to itself as far as the study knows: only such seconds are comparable."""
    cpu_seconds: float | None = None
    """Processor time of everything it did, building and evaluation included, where it is known."""
    wall_seconds: float | None = None
    """Wall-clock time of the same."""
    memory_bytes: int | None = None
    """Most main memory that the process which made it had held by then, where it is known."""
    bits_per_weight: float | None = None
    """Of the model in use, the mean over its matrices, where it is known."""
    inference_flops: float | None = None
    """Of a token, what masks skip left out, where it is known."""
    environment: str = ""
    """What made it: a key of the study's ``environments``; "" where it is not known."""

    @property
    def end(self) -> Point | None:
        return self.curve[-1] if self.curve and self.status == "done" else None


class Tuning(Frozen):
    """One arm's tuning of a hyper-parameter at one rung. ``quality``: on the study's scale, None if it diverged.

    Example:
        >>> tuned = dict(hyper="optimizer.lr", values=[1e-3, 2e-3], quality=[2.2, 2.1], chosen=2e-3, edge=True)
        >>> Tuning(arm="muon", rung=0, **tuned).chosen
        0.002
    """

    arm: str
    rung: int
    hyper: str
    values: list[float]
    quality: list[float | None]
    chosen: float
    edge: bool = False
    """The optimum lay at the edge of the grid and the grid could not be widened."""


class MultiplierRow(Frozen):
    """Compute-equivalent gain of one arm at one rung on one axis (DESIGN: the multiplier, exactly).

    ``value``, ``low`` and ``high`` are None when any seed is censored; then ``bound`` holds with ``censored``:
    "above": the multiplier is > bound; "below": it is < bound. Of seeds all censored it is their limit; of some,
    the end of an interval around the mean over all seeds, each censored one at its own limit; None where seeds are
    censored on both sides ("mixed").

    Example:
        >>> row = MultiplierRow(arm="muon", rung=1, axis="flops", value=1.3, low=1.1, high=1.5, seeds=3)
        >>> row.value, row.conclusive, row.brief
        (1.3, False, '1.30x (not significant)')
    """

    arm: str
    rung: int
    axis: Axis
    all_in: bool = False
    """Charges tuning too."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    interpolation: float = 0.0
    """Standard error of the mean log multiplier that comes from interpolating between rungs; part of the interval."""
    level: float = 0.95
    """Confidence level of the interval: 95 %, raised by Holm's correction."""
    p: float | None = None
    """Holm-adjusted two-sided p-value of log m = 0."""
    significant: bool = False
    """The interval excludes 1."""
    censored: Literal["", "above", "below", "mixed"] = ""
    bound: float | None = None
    bound_level: float | None = None
    """Level of the interval whose end ``bound`` is, where some seeds are censored; None: where all are. Results of
    before have none: their bound is the mean itself."""
    censored_seeds: int = 0
    bounds: Literal["", "arm", "baseline", "both"] = ""
    """Whose qualities are bounds. Of an arm's, the multiplier is at least the one given; of a baseline's, at most."""
    seeds: int
    per_seed: list[float | None] = []
    sentence: str = ""
    """The row in words, as printed."""

    @property
    def conclusive(self) -> bool:
        """Significant, and not on the side of 1 from which qualities that are only bounds may bring it back."""
        open_side = {"arm": self.value is not None and self.value < 1, "baseline": (self.value or 0) > 1}
        return self.significant and not open_side.get(self.bounds, False)

    @property
    def brief(self) -> str:
        """The multiplier in a word or three; a bound is rounded so that it claims no more."""
        if self.value is not None:
            return f"{self.value:.2f}x" + ("" if self.significant else " (not significant)")
        if self.bound is not None and self.censored == "above":
            return f"> {math.floor(round(100 * self.bound, 6)) / 100:.2f}x"
        if self.bound is not None and self.censored == "below":
            return f"< {math.ceil(round(100 * self.bound, 6)) / 100:.2f}x"
        return "unknown"


class InteractionRow(Frozen):
    """Whether two changes do more together than apart: the multiplier of both over the product of each one's.

    Example:
        >>> row = InteractionRow(arms=["muon", "wsd"], axis="flops", rung=1, seeds=3, value=1.1, low=1.0, high=1.2)
        >>> row.value
        1.1
    """

    arms: list[str]
    """The two changes."""
    axis: Axis
    rung: int
    seeds: int
    value: float | None = None
    """Above 1: more than the product. None where a seed is censored."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval."""
    p: float | None = None
    """Two-sided p-value of no interaction."""
    sentence: str = ""
    """The row in words."""


class StudyResult(Frozen):
    """Everything that a report shows. ``schema_version`` counts incompatible changes of this file's form.

    ``lab.compare`` returns and writes one; a page, a table and the index read it without the runs themselves.

    Example:
        >>> shape = dict(name="duel", title="", created="2026-01-01T00:00:00Z", baseline="adamw", arms=["adamw"])
        >>> made = StudyResult(**shape, rung_axis="steps", rungs=[100], runs=[], headline="not measured yet")
        >>> made.write(Path("study.json"))
        >>> StudyResult.read(Path("study.json")).headline
        'not measured yet'
    """

    schema_version: Literal[1] = 1
    name: str
    title: str
    created: str
    baseline: str
    arms: list[str]
    rung_axis: Axis
    rungs: list[float]
    """Budgets of the ladder, ascending, on ``rung_axis``."""
    unit: str = UNSAID.unit
    higher_is_better: bool = UNSAID.higher_is_better
    runs: list[RunRow]
    tunings: list[Tuning] = []
    multipliers: list[MultiplierRow] = []
    interactions: list[InteractionRow] = []
    """Of a table of factors."""
    estimator: Literal["chord", "cubic"] = "chord"
    """How the baseline's rungs are joined: straight lines, their error in no interval, or cubics, theirs in each."""
    refusals: dict[str, str] = {}
    """Axis -> why no multiplier is given on it."""
    arm_refusals: dict[str, dict[str, str]] = {}
    """Arm -> axis -> why this arm alone has no multiplier on it."""
    headline: str
    notes: list[str] = []
    bill: dict[str, dict[str, float]] = {}
    """Phase -> axis -> amount, over every run of the study."""
    ancestors: Ancestors = {}
    """What was spent before on the models that its runs begin with or use, each once; not in ``bill``."""
    corpus: dict[str, Any] = {}
    """Fingerprint, bytes, documents, tokens, epochs, compressors' bits per byte."""
    recipes: dict[str, str] = {}
    """Arm -> the TOML of its recipe at the lowest rung."""
    definition: str = ""
    """The study's TOML with whatever was overridden: `isoflop compare` of it makes the same study again."""
    environments: dict[str, dict[str, Any]] = {}
    """What made the runs, each distinct environment once; a list of values where a run went on elsewhere."""
    environment: dict[str, Any] = {}
    """The process that wrote this."""

    @property
    def scale(self) -> Scale:
        """What the study's qualities are measured on."""
        return Scale(self.unit, self.higher_is_better)

    @classmethod
    def read(cls, path: Path) -> StudyResult:
        """Read a stored result; DataError if it is broken or of another version."""
        try:
            return cast(StudyResult, read_json(path, cls))
        except DataError as error:
            what = f"is not a study result of version 1: it {error.what}"
            raise DataError(what, where=error.where, fix="run `isoflop compare` again") from error

    def _repr_html_(self) -> str:
        """What a notebook shows: the headline, and each multiplier in words (those that charge tuning left out)."""
        rows = [
            (
                printable(each.arm),
                each.axis,
                str(each.rung),
                "-" if each.value is None else f"{each.value:.2f}",
                each.sentence,
            )
            for each in self.multipliers
            if not each.all_in
        ]
        columns = ("arm", "axis", "rung", "multiplier", "in words")
        return html(printable(self.title), map(printable, self.headline.splitlines()), columns, rows)

    def write(self, path: Path) -> None:
        """Write it atomically."""
        write_json(path, self.model_dump(mode="json"))

    def home(self, root: Path) -> Path:
        """Its directory under ``root``: ``<name>``, or ``label`` if that holds a run or another study."""
        return study_home(root, self.name, self.definition)

    @property
    def label(self) -> str:
        """What tells it from an edited study of the same name: ``<name>-<hash8>`` by its definition."""
        return study_label(self.name, self.definition)

    def table(self) -> Table:
        """One row per evaluation point, for laws and notebooks: arm, rung, seed, role, step, flops, ..., value."""
        return Table.from_records(
            {"arm": r.arm, "rung": r.rung, "seed": r.seed, "role": r.role, "run": r.run, **r.hyper}
            | {k: v for k, v in p.model_dump().items() if k != "domains"}
            | {f"value_{d}": v for d, v in p.domains.items()}
            for r in self.runs
            for p in r.curve
        )


def study_label(name: str, definition: str) -> str:
    """What tells a study from an edited one of the same name."""
    return f"{name[:55]}-{digest(definition)[:8]}"


def study_home(root: Path, name: str, definition: str) -> Path:
    """The directory of a study: ``<root>/<name>``, or ``study_label`` if that holds a run or another study."""
    plain = root / name
    taken = os.path.lexists(plain / "resolved.json")  # a run has the name
    if os.path.lexists(plain / STUDY):
        try:
            taken = StudyResult.read(plain / STUDY).definition not in ("", definition)
        except DataError:
            taken = True
    return root / study_label(name, definition) if taken else plain


def spent(runs: Iterable[RunRow]) -> Iterator[tuple[RunRow, str, Mapping[str, float]]]:
    """(run, phase, amounts by axis) of every run, each once; all that a tuning run trained is phase ``tuning``.

    A run that several arms share is the first one's. First steps that a run took over from another one of these are
    that one's.
    """
    runs, seen = list(runs), set[str]()
    made = {run.recipe_hash for run in runs}
    for run in runs:
        if run.run not in seen:
            seen.add(run.run)
            for phase, amounts in own_part(run.ledger, run.trunk, made).items():
                yield run, phase if "evaluation" in (run.role, phase) else "tuning", amounts


def abridged(value: Any) -> str:
    """A value of an environment in a sentence: commits by their first twelve digits, several as "1 -> 2, 4"."""
    first, *then = map(str, value) if isinstance(value, list) else [str(value)]
    text = f"{first} -> {', '.join(then)}" if then else first
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28}\b", r"\1", text)


def decimals(low: float, high: float) -> int:
    """Decimals (1 to 3) that keep the two ends of a printed interval apart, and off 1."""
    return next((d for d in (1, 2) if high - low >= 3 * 10**-d and min(abs(low - 1), abs(high - 1)) >= 10**-d / 2), 3)
