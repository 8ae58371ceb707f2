"""Scores of every document, stored beside them, and documents chosen by stored scores."""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...core.contracts import Scorer, ScorerPart
from ...core.digests import digest, document_hash
from ...core.errors import DataError, NumericsError, UsageError
from ...core.reading import read_json
from ...core.rng import Rng
from .inputs import DocumentRow, Keys, Unit, blocks, cut_of, rows_of, stamps
from .jobs import (
    DOCUMENTS,
    JOB,
    SUMMARY,
    Counts,
    Desk,
    JobSettings,
    conclude,
    json_line,
    opened_job,
    part_file,
    work_through,
    write_array,
)

SCORES, CHOSEN = "scores", "chosen.npy"
SAMPLE = 100_000
"""Documents of the pool that a scorer sees before it scores, at most."""


def sample_of(units: Sequence[Unit], keys: Keys, most: int = SAMPLE) -> list[str]:
    """Texts of so many documents, drawn by a hash of each: the same ones in whatever order the files are."""
    held: list[tuple[int, str]] = []
    for unit in units:
        for row in rows_of(unit, keys):
            if isinstance(row, DocumentRow) and row.text.strip():
                place = -int.from_bytes(document_hash(row.text)[:8], "big")
                if len(held) < most:
                    heapq.heappush(held, (place, row.text))
                elif place > held[0][0]:
                    heapq.heapreplace(held, (place, row.text))
    return [text for _, text in sorted(held, reverse=True)]


@dataclass(frozen=True)
class Scoring:
    """The work of scoring a unit.

    Args:
        scorer: live.
        known: hashes of the documents that it was fitted to: those of the pool among them are counted.

    Example:
        >>> from isoflop.data.scorers.length import Length
        >>> Scoring(Length()).scorer.score([("a", "four")]).tolist()
        [4.0]
    """

    scorer: Scorer
    known: frozenset[bytes] = frozenset()

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, before = Counts(), asdict(self.scorer.cost)
        with desk.writer(SCORES, unit.number, "jsonl.gz") as note:
            for block in blocks(desk.rows(unit, counts)):
                found = self.scorer.score([(row.id, row.text) for row in block])
                if not np.isfinite(found).all():
                    where = block[int(np.flatnonzero(~np.isfinite(found))[0])].where
                    raise NumericsError("its score is not finite", where=where, fix="drop it, or mend the scorer")
                counts["also_fitted_to"] += sum(document_hash(row.text) in self.known for row in block)
                for row, score in zip(block, found.tolist(), strict=True):
                    note(json_line({"id": row.id, "score": score, "bytes": len(row.text.encode())}))
        counts.update({f"cost.{key}": value - before[key] for key, value in asdict(self.scorer.cost).items()})
        return counts


def score(
    units: Sequence[Unit],
    part: ScorerPart,
    settings: JobSettings,
    texts: Mapping[str, Sequence[Unit]],
    models: Mapping[str, Any],
    sample: int = SAMPLE,
) -> dict[str, Any]:
    """Score every document; what scoring, and what the scorer is made of, has cost is in the summary.

    So is how many documents of the pool are among those that the scorer was fitted to (``also_fitted_to``): they lie on
    top of any ranking, and say nothing of the rest. Decontaminate the pool, or leave them out.

    Args:
        units: of the input.
        part: the scorer.
        settings: where and how.
        texts: documents that the scorer fits to, by the names in ``part.fits``.
        models: trained models, by the names in ``part.uses``.
        sample: documents of the pool that it sees first, at most.

    Raises:
        UsageError: texts or models are missing, or do not fit each other.
        NumericsError: a score is not finite.

    Example:
        >>> from isoflop.data.engine.inputs import units_of
        >>> from isoflop.data.scorers.length import LengthPart
        >>> _ = Path("a.jsonl").write_text('{"text": "four"}')
        >>> score(units_of(["a.jsonl"]), LengthPart(), JobSettings(Path("s")), {}, {})["counts"]["documents"]
        1
    """
    if missing := [name for name in part.fits if name not in texts]:
        fix = " ".join(f"--text {name}=FILE" for name in missing)
        raise UsageError(f"{part.name} needs documents as {' and as '.join(missing)}", where="scorer", fix=fix)
    what = {
        "verb": "score",
        "scorer": {"name": part.name, **part.model_dump(mode="json")},
        "texts": {name: stamps(given) for name, given in sorted(texts.items())},
        "models": {name: model.identity for name, model in sorted(models.items())},
        "sample": sample,
    }
    with opened_job(settings, units, what):
        given: dict[str, Any] = {name: _Texts(each, settings.keys) for name, each in texts.items()}
        given["pool"] = _Sample(units, settings.keys, sample)
        live = part.build(given, models)
        built = asdict(live.cost)
        alone = replace(settings, workers=1) if models else settings
        known = frozenset(document_hash(text) for name in texts for text in given[name])
        counts = work_through(units, Scoring(live, known), alone)
        spent = {key: counts.pop(f"cost.{key}", 0) for key in built}
        bills = {name: model.bill for name, model in sorted(models.items())}
        facts = {"scorer": what["scorer"], "fitting": built, "scoring": spent, "models": bills}
        return conclude(settings, counts, verb="score", **facts)


class _Texts:
    """Documents of units, read anew each time."""

    def __init__(self, units: Sequence[Unit], keys: Keys) -> None:
        self.units, self.keys = units, keys

    def __iter__(self) -> Iterator[str]:
        for unit in self.units:
            for row in rows_of(unit, self.keys):
                if not isinstance(row, DocumentRow):
                    raise DataError(f"{row.what}: {row.quote}", where=row.where, fix="repair or drop that line")
                yield row.text


class _Sample(_Texts):
    """A sample of them, drawn when a scorer first reads it: most never do."""

    def __init__(self, units: Sequence[Unit], keys: Keys, most: int) -> None:
        super().__init__(units, keys)
        self.most = most

    @cached_property
    def drawn(self) -> list[str]:
        return sample_of(self.units, self.keys, self.most)

    def __iter__(self) -> Iterator[str]:
        return iter(self.drawn)


Rule = Literal["global", "batched"]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """How many documents are kept, and which.

    Exactly one of ``bytes``, ``documents`` and ``ratio`` says how many.

    Args:
        bytes: of text that training is to see, repeats included.
        documents: that many different ones.
        ratio: the pool's bytes over the kept ones': tau.
        repeats: epochs over what is kept: of a budget in bytes so many times fewer different ones are taken.
        rule: the best of all; or of each batch of ``batch`` documents, drawn in an order by hash, its share.
        batch: documents of a batch.
        gumbel: times Gumbel noise, by document, added to scores: at 1 and log weights, a draw in proportion to them.
        lowest: take the lowest scores.
        key: a key of records, of whose values none fills more than ``most``.
        most: share of what is kept.
        seed: of order and noise.

    Example:
        >>> Selection(ratio=4.0).budget(np.array([100, 300]))
        100.0
    """

    bytes: int | None = None
    documents: int | None = None
    ratio: float | None = None
    repeats: int = 1
    rule: Rule = "global"
    batch: int = 1024
    gumbel: float = 0.0
    lowest: bool = False
    key: str | None = None
    most: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.bytes, self.documents, self.ratio)) != 1:
            raise UsageError("give one of bytes, documents and ratio", where="select")
        if self.ratio is not None and not self.ratio >= 1:
            raise UsageError(f"ratio is {self.ratio:g}: the pool over what is kept, 1 or more", where="select")
        if min(self.repeats, self.batch) < 1 or not 0 < self.most <= 1 or not 0 <= self.gumbel < float("inf"):
            raise UsageError("repeats, batch, most or gumbel is out of range", where="select")
        if self.rule not in ("global", "batched"):
            raise UsageError(f"no rule is named {self.rule!r}", where="select", fix="take global or batched")

    def budget(self, sizes: npt.NDArray[np.int64]) -> float:
        """What is kept, in bytes; in documents where these are counted."""
        if self.bytes is not None:
            return self.bytes / self.repeats
        return float(self.documents) if self.documents is not None else float(sizes.sum()) / float(self.ratio or 1)

    def choose(
        self, scores: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64], groups: Sequence[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """bool (n,): which documents are kept; of equal scores the earlier one.

        Args:
            scores: (n,).
            sizes: (n,) bytes.
            groups: (n,) values of ``key``.

        Raises:
            DataError: the pool is smaller than the budget.
        """
        weights = np.ones(len(sizes)) if self.documents is not None else sizes.astype(np.float64)
        budget = self.budget(sizes)
        if budget > weights.sum() * (1 + 1e-12):
            unit = "documents" if self.documents is not None else "bytes"
            what = f"holds {weights.sum():,.0f} {unit}, and {budget:,.0f} are to be kept"
            raise DataError(what, where="the pool", fix="lower the budget, or repeat: repeats=4")
        rng = Rng(self.seed)("select")
        value = -scores if self.lowest else scores
        if self.gumbel:
            value = value + self.gumbel * rng("gumbel").at().gumbel(size=len(value))
        order = np.argsort(-value, kind="stable")
        if self.rule == "batched":
            drawn = rng("order").at().permutation(len(value))
            batch = np.empty(len(value), np.int64)
            batch[drawn] = np.arange(len(value)) // self.batch
            order = self._shared(order, batch[order], weights, budget)
        kept, held, cap = np.zeros(len(value), np.bool_), 0.0, dict[str, float]()
        for place in order.tolist():
            weight = weights[place]
            if held + weight > budget * (1 + 1e-12):
                continue
            if groups is not None:
                filled = cap.get(groups[place], 0.0) + weight
                if filled > self.most * budget:
                    continue
                cap[groups[place]] = filled
            kept[place], held = True, held + weight
        return kept

    def _shared(self, order: Places, batch: Places, weights: npt.NDArray[np.float64], budget: float) -> Places:
        """Documents in the order in which each batch gives its best share; those beyond come after, if room is left."""
        share, rank = budget / weights.sum(), np.zeros(len(order))
        for number in range(int(batch.max(initial=-1)) + 1):
            mine = np.flatnonzero(batch == number)
            filled = np.cumsum(weights[order[mine]])
            rank[mine] = filled / max(filled[-1], 1e-300)
        return np.concatenate([order[rank <= share], order[rank > share]])


@dataclass(frozen=True)
class Taking:
    """The work of writing a unit's chosen documents.

    Args:
        chosen: file of a flag a document, over all units.
        starts: place of each unit's first document.

    Example:
        >>> Taking("chosen.npy", (0,)).starts
        (0,)
    """

    chosen: str
    starts: tuple[int, ...]

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, chosen = Counts(), np.load(self.chosen, mmap_mode="r")
        place = self.starts[unit.number]
        with desk.writer(DOCUMENTS, unit.number) as keep:
            for row in desk.rows(unit, counts):
                if chosen[place]:
                    counts["kept"] += 1
                    counts["kept_bytes"] += len(row.text.encode())
                    keep(row.line(desk.keys.text, desk.keys.id))
                place += 1
        return counts


def scores_in(folder: Path, units: Sequence[Unit]) -> tuple[list[int], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Documents of each unit, their scores and bytes, as ``score`` left them.

    Raises:
        UsageError: the folder holds no finished scores, or those of other files.
    """
    if not (folder / SUMMARY).exists() or not (folder / SCORES).is_dir():
        raise UsageError("holds no finished scores", where=str(folder), fix="run `isoflop data score` first")
    known = read_json(folder / JOB, dict[str, Any])
    if known["files"] != stamps(units) or known["units"] != cut_of(units):
        raise UsageError("holds scores of other files, or of these before they changed", where=str(folder))
    counts, found, sizes = list[int](), list[float](), list[int]()
    for unit in units:
        with gzip.open(part_file(folder / SCORES, unit.number, "jsonl.gz")) as file:
            lines = [json.loads(line) for line in file]
        counts.append(len(lines))
        found += [line["score"] for line in lines]
        sizes += [line["bytes"] for line in lines]
    return counts, np.array(found, np.float64), np.array(sizes, np.int64)


def select(units: Sequence[Unit], scores: Path, choice: Selection, settings: JobSettings) -> dict[str, Any]:
    """Write the documents that a choice keeps by stored scores; in memory lie 20 bytes a document.

    Args:
        units: of the input, as they were scored.
        scores: folder of ``score``.
        choice: how many, and which.
        settings: where and how.
    """
    counts, values, sizes = scores_in(scores, units)
    starts = tuple(np.cumsum([0, *counts[:-1]]).tolist())
    facts = asdict(choice)
    job = {"verb": "select", "choice": facts, "scores": digest(read_json(scores / JOB, dict[str, Any]))}
    with opened_job(settings, units, job):
        place = settings.out / CHOSEN
        if not place.exists():
            groups = _groups(units, settings.keys, choice.key) if choice.key is not None else None
            write_array(place, choice.choose(values, sizes, groups))
        kept = np.load(place, mmap_mode="r")
        counted = work_through(units, Taking(str(place), starts), settings)
        least, highest = (float(f(values[kept])) if kept.any() else None for f in (np.min, np.max))
        told = read_json(scores / SUMMARY, dict[str, Any])
        bill = {key: told[key] for key in ("scorer", "fitting", "scoring", "models")}
        pool = {"pool_bytes": int(sizes.sum()), "epochs": choice.repeats, "scores": [least, highest]}
        return conclude(settings, counted, verb="select", choice=facts, **pool, bill=bill)


def _groups(units: Sequence[Unit], keys: Keys, key: str) -> list[str]:
    found = list[str]()
    for unit in units:
        found += [str(row.record.get(key, "")) for row in rows_of(unit, keys) if isinstance(row, DocumentRow)]
    return found


def flops_of(bill: Mapping[str, Any]) -> dict[str, int]:
    """A selection's model FLOPs: of fitting, of scoring, of training each model it reads, and in all.

    Example:
        >>> flops_of({"fitting": {"flops": 1}, "scoring": {"flops": 2}, "models": {"prior": {"flops": 3}}})["all"]
        6
    """
    found = {"fitting": int(bill["fitting"]["flops"]), "scoring": int(bill["scoring"]["flops"])}
    trained = {name: int(model["flops"]) for name, model in bill["models"].items()}
    return {**found, **trained, "all": sum(found.values()) + sum(trained.values())}
