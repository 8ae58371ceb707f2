"""Scores of every document, stored beside them, and documents chosen by stored scores."""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.contracts import Groups, Scorer, ScorerPart, TokenizerPart
from ...core.digests import digest, document_hash
from ...core.errors import DataError, NumericsError, UsageError
from ...core.reading import read_json
from ...core.tokenizer import ReadsFiles
from .choosing import Selection
from .counting import identity_of, token_counts
from .inputs import DocumentRow, Keys, Unit, blocks, cut_of, rows_of, stamps
from .jobs import (
    DOCUMENTS,
    JOB,
    SUMMARY,
    Counts,
    Desk,
    JobSettings,
    add_cost,
    conclude,
    json_line,
    opened_job,
    part_file,
    take_cost,
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
        for row in rows_of(unit, keys.only()):
            if isinstance(row, DocumentRow) and row.text.strip():
                place = -int.from_bytes(document_hash(row.text)[:8], "big")
                if len(held) < most:
                    heapq.heappush(held, (place, row.text))
                elif place > held[0][0]:
                    heapq.heapreplace(held, (place, row.text))
    return [text for _, text in sorted(held, reverse=True)]


def sampled(units: Sequence[Unit], keys: Keys, most: int = SAMPLE) -> Iterator[str]:
    """The texts of ``sample_of``, which is drawn when the first one is asked for: most tokenizers ask for none."""
    yield from sample_of(units, keys, most)


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
        counts, before = Counts(), self.scorer.cost
        with desk.writer(SCORES, unit.number, "jsonl.gz") as note:
            for block in blocks(desk.texts(unit, counts)):
                found, groups = _scored(self.scorer, [(row.id, row.text) for row in block])
                if not np.isfinite(found).all():
                    where = block[int(np.flatnonzero(~np.isfinite(found))[0])].where
                    raise NumericsError("its score is not finite", where=where, fix="drop it, or mend the scorer")
                counts["also_fitted_to"] += sum(document_hash(row.text) in self.known for row in block)
                for row, score, group in zip(block, found.tolist(), groups, strict=True):
                    note(json_line({"id": row.id, "score": score, "bytes": len(row.text.encode())} | group))
        add_cost(counts, self.scorer.cost - before)
        return counts


def _scored(
    scorer: Scorer, documents: Sequence[tuple[str, str]]
) -> tuple[npt.NDArray[np.float64], list[dict[str, int]]]:
    """Scores, and what a line says of each document's group: nothing where the scorer knows none."""
    if not isinstance(scorer, Groups):
        return scorer.score(documents), [{} for _ in documents]
    found, groups = scorer.grouped(documents)
    return found, [{"group": group} for group in groups]


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
    what: dict[str, Any] = {
        "verb": "score",
        "scorer": {"name": part.name, **part.model_dump(mode="json")},
        "texts": {name: stamps(given) for name, given in sorted(texts.items())},
        "models": {name: model.identity for name, model in sorted(models.items())},
        "sample": sample,
    }
    if isinstance(part, ReadsFiles):
        what["inputs"] = part.inputs()
    with opened_job(settings, units, what):
        given: dict[str, Any] = {name: _Texts(each, settings.keys) for name, each in texts.items()}
        given["pool"] = _Sample(units, settings.keys, sample)
        live = part.build(given, models)
        built = asdict(live.cost)
        alone = settings.alone if models else settings
        known = frozenset(document_hash(text) for name in texts for text in given[name])
        counts = work_through(units, Scoring(live, known), alone)
        spent = take_cost(counts)
        bills = {name: model.bill for name, model in sorted(models.items())}
        facts = {"scorer": what["scorer"], "fitting": built, "scoring": spent, "models": bills}
        return conclude(settings, counts, verb="score", **facts)


class _Texts:
    """Documents of units, read anew each time."""

    def __init__(self, units: Sequence[Unit], keys: Keys) -> None:
        self.units, self.keys = units, keys

    def __iter__(self) -> Iterator[str]:
        for unit in self.units:
            for row in rows_of(unit, self.keys.only()):
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
        counts, chosen = Counts(kept=0), np.load(self.chosen, mmap_mode="r")
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
    _check_scores(folder, units)
    counts, found, sizes = list[int](), list[float](), list[int]()
    for unit in units:
        before = len(found)
        for line in _score_lines(folder, [unit]):
            found.append(line["score"])
            sizes.append(line["bytes"])
        counts.append(len(found) - before)
    return counts, np.array(found, np.float64), np.array(sizes, np.int64)


def _check_scores(folder: Path, units: Sequence[Unit]) -> None:
    if not (folder / SUMMARY).exists() or not (folder / SCORES).is_dir():
        raise UsageError("holds no finished scores", where=str(folder), fix="run `isoflop data score` first")
    known = read_json(folder / JOB, dict[str, Any])
    if known["files"] != stamps(units) or known["units"] != cut_of(units):
        raise UsageError("holds scores of other files, or of these before they changed", where=str(folder))


def _score_lines(folder: Path, units: Sequence[Unit]) -> Iterator[dict[str, Any]]:
    for unit in units:
        with gzip.open(part_file(folder / SCORES, unit.number, "jsonl.gz")) as file:
            yield from map(json.loads, file)


def select(
    units: Sequence[Unit],
    scores: Path,
    choice: Selection,
    settings: JobSettings,
    tokenizer: TokenizerPart | None = None,
    groups: Path | None = None,
) -> dict[str, Any]:
    """Write the documents that a choice keeps by stored scores; in memory lie some 30 bytes a document.

    Args:
        units: of the input, as they were scored.
        scores: folder of ``score``.
        choice: how many, and which.
        settings: where and how.
        tokenizer: that a budget in tokens is counted with; one that learns learns from a sample of the pool.
        groups: folder of scores whose groups are those of the diversity rule, where ``choice.key`` names none; by
            default that of ``scores``.

    Raises:
        UsageError: a budget in tokens has no tokenizer, a diversity rule no groups; or the scores are not those of this
            input.
        DataError: the pool is smaller than the budget.
    """
    if choice.tokens is not None and tokenizer is None:
        fix = "name that of the model: --tokenizer bytes"
        raise UsageError("counts tokens, and whose is not said", where="select", fix=fix)
    counts, values, sizes = scores_in(scores, units)
    if groups is not None:
        _check_scores(groups, units)
    starts = tuple(np.cumsum([0, *counts[:-1]]).tolist())
    facts = choice.facts
    job = {"verb": "select", "choice": facts, "scores": digest(read_json(scores / JOB, dict[str, Any]))}
    job |= {} if tokenizer is None else {"tokenizer": identity_of(tokenizer)}
    job |= {} if groups is None else {"groups": digest(read_json(groups / JOB, dict[str, Any]))}
    with opened_job(settings, units, job):
        tokens = None
        if tokenizer is not None:
            live = tokenizer.build(sampled(units, settings.keys))
            tokens = token_counts(units, live, settings)
        place = settings.out / CHOSEN
        if not place.exists():
            of = _groups(units, settings.keys, choice, groups or scores)
            write_array(place, choice.choose(values, sizes if choice.tokens is None or tokens is None else tokens, of))
        kept = np.load(place, mmap_mode="r")
        counted = work_through(units, Taking(str(place), starts), settings)
        least, highest = (float(f(values[kept])) if kept.any() else None for f in (np.min, np.max))
        told = read_json(scores / SUMMARY, dict[str, Any])
        bill = {key: told[key] for key in ("scorer", "fitting", "scoring", "models")}
        pool: dict[str, Any] = {"pool_bytes": int(sizes.sum()), "epochs": choice.repeats, "scores": [least, highest]}
        if tokens is not None:
            counted["kept_tokens"] = int(tokens[kept].sum())
            pool |= {"pool_tokens": int(tokens.sum()), "tokenizer": job["tokenizer"]}
        return conclude(settings, counted, verb="select", choice=facts, **pool, bill=bill)


def _groups(units: Sequence[Unit], keys: Keys, choice: Selection, scores: Path) -> list[str] | None:
    """The group of every document by the diversity rule; None where there is no rule."""
    if choice.most == 1:
        return None
    found = list[str]()
    if choice.key is not None:
        for unit in units:
            rows = (row for row in rows_of(unit, keys.only(choice.key)) if isinstance(row, DocumentRow))
            found += [str(row.record.get(choice.key, "")) for row in rows]
        return found
    for line in _score_lines(scores, units):
        if "group" not in line:
            fix = "name a key (key=domain), or scores of clusters: --groups DIRECTORY"
            raise UsageError(
                f"most={choice.most:g} limits groups, and these scores know none", where=str(scores), fix=fix
            )
        found.append(str(line["group"]))
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
