"""The directory of claims: each claim's files, what froze its bars, its results, and the index of systems."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import model_validator

from ...core.digests import digest, digest_file
from ...core.documents import Frozen, Section
from ...core.errors import IsoflopError, UsageError, nearest
from ...core.files import write_json
from ...core.reading import read_json, user_path
from ...core.recipe import Name
from ...core.toml import TomlDocument, locate, read
from ...pipelines.pipeline import Pipeline
from ...store.environment import process
from ...store.measured import MeasuredResult
from ...store.pipelines import PipelineResult
from ...store.results import StudyResult, spent
from ..study import Study
from ..targets import TargetStudy
from .claim import CLAIM, CPU, Claim
from .findings import Stored
from .verdicts import ClaimVerdict, judged

FROZEN = "frozen.json"
"""What a claim's bars were when its first run began."""
INDEX = "index.toml"
"""The systems whose claims are looked at, each with its status."""
Kind = Literal["study", "pipeline", "targets", "script"]
Document = Study | Pipeline | TargetStudy
DOCUMENTS: dict[str, type[Document]] = {"study": Study, "pipeline": Pipeline, "targets": TargetStudy}


class Freeze(Frozen):
    """The bars of a claim at its first run.

    Example:
        >>> Freeze(bars="0" * 64, since="2026-01-01T00:00:00+00:00", commit="").bars[:4]
        '0000'
    """

    bars: str
    """Digest of them."""
    since: str
    """When the first run began."""
    commit: str
    """Of the code that ran."""


class IndexedSystem(Section):
    """A system in the index: its claim, or why there is none.

    Example:
        >>> IndexedSystem(name="SOAP", claim="soap").status
        'claim'
    """

    name: str
    """What it is called."""
    claim: Name | None = None
    """The directory of its claim."""
    planned: str = ""
    """What is planned, where it has no claim yet."""
    out_of_scope: str = ""
    """Why it has none and will have none."""

    @model_validator(mode="after")
    def _one(self) -> IndexedSystem:
        if sum(map(bool, (self.claim, self.planned, self.out_of_scope))) != 1:
            raise ValueError(f"{self.name}: give one of claim, planned and out_of_scope")
        return self

    @property
    def status(self) -> str:
        """Which of the three it is."""
        return "claim" if self.claim else "planned" if self.planned else "out of scope"


class ClaimIndex(TomlDocument):
    """Every system that is looked at, in order.

    Example:
        >>> ClaimIndex.from_toml('systems = [{ name = "SOAP", claim = "soap" }]').systems[0].claim
        'soap'
    """

    systems: tuple[IndexedSystem, ...]
    """Each once."""

    kind = "index"

    @model_validator(mode="after")
    def _once(self) -> ClaimIndex:
        names = [system.name for system in self.systems]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"systems: {', '.join(twice)} more than once")
        return self


class ShelvedClaim:
    """A claim with the files beside it.

    Args:
        folder: its directory.

    Raises:
        RecipeError: ``claim.toml`` is not legal.

    Example:
        >>> ShelvedClaim(Path("claims/soap")).claim.name  # doctest: +SKIP
        'soap'
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._studies: dict[str, Document] = {}
        self.claim = Claim.load(folder / CLAIM)
        if self.claim.name != folder.name:
            what = f"name: is {self.claim.name!r}, but the claim's directory is {folder.name!r}"
            raise UsageError(what, where=str(folder / CLAIM), fix="name them alike")

    # ------------------------------------------------------------ files

    def file(self, label: str) -> Path:
        """The file of one of its studies: beside it, or shipped."""
        beside = self.folder / self.claim.studies[label]
        return beside if os.path.isfile(beside) else locate(self.claim.studies[label])

    def kind(self, label: str) -> Kind:
        """What a study is, by its file."""
        file = self.file(label)
        if file.suffix == ".py":
            return "script"
        tree, _ = read(file)
        return "pipeline" if "stages" in tree else "targets" if "batches" in tree else "study"

    def study(self, label: str, *overrides: str) -> Document:
        """One of its studies that is no script."""
        document = DOCUMENTS[self.kind(label)]
        if overrides:
            return document.load(self.file(label), *overrides)
        if label not in self._studies:
            self._studies[label] = document.load(self.file(label))
        return self._studies[label]

    def place(self, label: str, scale: str = CPU) -> Path:
        """Where a study's result lies."""
        return self.folder / (f"{label}.json" if scale == CPU else f"{label}.{scale}.json")

    def result(self, label: str, scale: str = CPU) -> Stored | None:
        """A study's result; None where there is none.

        Raises:
            DataError: it is broken.
        """
        place = self.place(label, scale)
        if not place.exists():
            return None
        kinds = {"study": StudyResult, "pipeline": PipelineResult}
        return cast(Stored, read_json(place, kinds.get(self.kind(label), MeasuredResult)))

    def results(self, scale: str = CPU) -> dict[str, Stored]:
        """The results that there are, by label."""
        found = {label: self.result(label, scale) for label in self.claim.studies}
        return {label: result for label, result in found.items() if result is not None}

    # ------------------------------------------------------------ bars

    @cached_property
    def bars(self) -> str:
        """Digest of the bars, those that its pipelines state among them."""
        stated = {
            label: [bar.model_dump(mode="json") for bar in study.bars]
            for label in sorted({bar.study for bar in self.claim.bars if bar.stated is not None})
            if isinstance(study := self.study(label), Pipeline)
        }
        return digest([self.claim.asked(), stated])

    def frozen(self) -> Freeze | None:
        """What froze the bars; None where nothing has been run."""
        place = self.folder / FROZEN
        return cast(Freeze, read_json(place, Freeze)) if place.exists() else None

    def freeze(self) -> None:
        """Freeze the bars, if that has not been done."""
        if not (self.folder / FROZEN).exists():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            made = Freeze(bars=self.bars, since=now, commit=str(process().get("commit") or ""))
            write_json(self.folder / FROZEN, made.model_dump(mode="json"))

    def marks(self, results: Mapping[str, Stored]) -> Iterator[str]:
        """What a reader must hold against the verdict."""
        frozen = self.frozen()
        if frozen is not None and frozen.bars != self.bars:
            yield f"the bars were changed after the first run ({frozen.since[:10]})"
        if frozen is None and results and not all(bar.stated for bar in self.claim.bars):
            yield "the bars were written after the run"
        for label, result in results.items():
            if changed := self._edited(label, result):
                yield f"{self.claim.studies[label]} was edited after it ran: {changed}"

    def _edited(self, label: str, result: Stored) -> str:
        """Where a study's file differs from what was run; "" where it does not."""
        if self.kind(label) == "script" and isinstance(result, MeasuredResult):
            return "" if digest_file(self.file(label)) == result.script else "the script's text"
        try:
            now = self.study(label)
            if isinstance(now, TargetStudy) or isinstance(result, MeasuredResult):
                same = isinstance(now, TargetStudy) and getattr(result, "script", "") == now.identity
                return "" if same else "its recipe, batches, rates or target"
            kind = Study if isinstance(now, Study) else Pipeline
            if now.to_toml() == result.definition:
                return ""
            then = kind.from_toml(result.definition)
        except IsoflopError:
            return "what was run is no longer legal"
        if isinstance(now, Study) and isinstance(then, Study):
            return ", ".join(now.differences(then))
        return "" if now == then else "its stages, texts, seeds or bars"

    # ------------------------------------------------------------ verdict

    def verdict(self, scale: str = CPU) -> ClaimVerdict:
        """What became of it, from the results that lie beside it."""
        results = self.results(scale)
        status, bars = judged(self.claim, results)
        return ClaimVerdict(
            claim=self.claim,
            status=status,
            bars=bars,
            missing=tuple(label for label in self.claim.studies if label not in results),
            marks=tuple(self.marks(results)),
            cpu_seconds=sum(map(cpu_seconds, results.values())),
            flops=sum(map(model_flops, results.values())),
            commits=tuple(dict.fromkeys(str(r.environment.get("commit") or "")[:12] for r in results.values())),
        )


def cpu_seconds(result: Stored) -> float:
    """Processor seconds of a result's runs, as far as they know; of a pipeline's, the seconds of its bill."""
    if isinstance(result, MeasuredResult):
        return result.cpu_seconds
    if isinstance(result, StudyResult):
        runs = {run.run: run for run in result.runs}
        return sum(run.cpu_seconds or 0.0 for run in runs.values())
    return sum(amounts.get("seconds", 0.0) for amounts in result.bill.values())


def model_flops(result: Stored) -> float:
    """Model FLOPs of all phases of a result's runs, as far as they are counted."""
    if isinstance(result, MeasuredResult):
        return result.flops or 0.0
    if isinstance(result, StudyResult):
        return sum(amounts.get("flops", 0.0) for _, _, amounts in spent(result.runs))
    return sum(amounts.get("flops", 0.0) for amounts in result.bill.values())


def directory_of_claims(folder: Path | str) -> Path:
    """The directory of claims; UsageError where there is none.

    Args:
        folder: what the user gave.
    """
    place = user_path(folder)
    if not place.is_dir():
        fix = "run it where the repository lies, or give --claims DIRECTORY"
        raise UsageError("is no directory of claims", where=str(folder), fix=fix)
    return place


def names(folder: Path) -> list[str]:
    """The claims in a directory, by name."""
    return sorted(file.parent.name for file in folder.glob(f"*/{CLAIM}"))


def index_of(folder: Path) -> ClaimIndex | None:
    """The index of a directory of claims, if it has one."""
    return ClaimIndex.load(folder / INDEX) if (folder / INDEX).exists() else None


def shelved(folder: Path, name: str) -> ShelvedClaim:
    """One claim of a directory; UsageError where there is none of that name.

    Args:
        folder: the directory of claims.
        name: of the claim.
    """
    (found,) = chosen(folder, [name])
    return found


def chosen(folder: Path, wanted: list[str]) -> list[ShelvedClaim]:
    """The claims that were asked for, or all, in order; UsageError where there is none of a name.

    Args:
        folder: the directory of claims.
        wanted: names; none: all.
    """
    known = names(folder)
    for name in wanted:
        if name not in known:
            raise UsageError("no such claim", where=name, fix=nearest(name, known))
    return [ShelvedClaim(folder / name) for name in wanted or known]


def facts(verdict: ClaimVerdict) -> dict[str, Any]:
    """A verdict as JSON values."""
    claim = verdict.claim
    return {
        "name": claim.name,
        "status": verdict.status,
        "statement": claim.statement,
        "figure": claim.figure,
        "setting": claim.setting,
        "headline": verdict.headline,
        "marks": list(verdict.marks),
        "missing": list(verdict.missing),
        "cpu_seconds": verdict.cpu_seconds,
        "flops": verdict.flops,
        "commits": list(verdict.commits),
        "bars": [
            {
                "says": each.bar.says,
                "decides": each.bar.decides,
                "outcome": each.outcome,
                "size": each.size,
                "value": each.found.value,
                "low": each.found.low,
                "high": each.found.high,
                "per_seed": list(each.found.per_seed),
                "note": each.found.note,
            }
            for each in verdict.bars
        ],
    }
