"""A study's corpus: the facts that belong beside its result, and that all of its runs were made on the same one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core.contracts import Source
from ..core.digests import digest
from ..core.errors import DataError
from ..core.recipe import Recipe
from ..store.machine import once
from ..store.names import CACHE
from ..store.results import RunRow
from ..store.run import Run, run_directories
from .study import Study


def corpus_facts(study: Study, root: Path, *, compressors: bool = False) -> dict[str, Any]:
    """What the baseline's source says of itself: fingerprint, and for text its documents, bytes, tokens by split.

    Args:
        study: whose baseline is asked.
        root: directory of runs, where its tokens are cached.
        compressors: add what xz makes of the held-out text, alone and given training text (some ten CPU-seconds the
            first time; remembered under ``root`` for as long as the corpus stays the same).
    """
    source = _source(study.base(study.baseline), root)
    facts: dict[str, Any] = {"fingerprint": source.fingerprint}
    describe = getattr(source, "describe", None)
    if describe is not None:
        facts |= describe()
    if compressors:
        facts["compressors"] = _compressed(source, root)
    return {key: value for key, value in facts.items() if value is not None}


def epochs(corpus: dict[str, Any], rows: list[RunRow], rung: int) -> float | None:
    """How often the longest evaluation run at ``rung`` passes over the training text; None where that is not known.

    Args:
        corpus: its facts, as ``corpus_facts`` gives them.
        rows: the study's runs.
        rung: index into the ladder.

    Example:
        >>> epochs({}, [], 0) is None
        True
    """
    tokens = text_tokens(corpus)
    ends = [row.end for row in rows if row.role == "evaluation" and row.rung == rung and row.end is not None]
    return max(end.tokens for end in ends) / tokens if tokens and ends else None


def text_tokens(corpus: Mapping[str, Any]) -> int:
    """Tokens of the training text by a corpus's facts; 0 where they do not say.

    Example:
        >>> text_tokens({"train": {"prose": {"tokens": 300}, "code": {"tokens": 100}}}), text_tokens({})
        (400, 0)
    """
    return sum(int(amount["tokens"]) for amount in (corpus.get("train") or {}).values())


def passes(epochs: float) -> str:
    """How often the text is passed over, as a sentence."""
    return f"the longest baseline run passes {epochs:.2f} times over the training text"


class Texts:
    """Holds a study's runs to one text for each source. What a run does not tell is taken to be the same.

    Example:
        >>> Texts(Path("runs")).check([]) is None
        True
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._now: dict[str, dict[str, str]] = {}

    def check(self, runs: Iterable[Run], *, new: bool = False) -> None:
        """Refuse finished runs that were made on other text than their source gives now.

        Args:
            runs: finished runs of the study.
            new: they were made just now, so the first of a source says what it gives.

        Raises:
            DataError: says what changed, and names every such run under the root.
        """
        for run in runs:
            told, key = _told(run), _key(run)
            if not told:
                continue
            if key not in self._now:
                self._now[key] = told if new else _digests(run.recipe, self.root)
            old, now = (self._now[key], told) if new else (told, self._now[key])
            if changes := _changes(old, now):
                stale = [other for other in _runs(self.root) if _key(other) == key and _changes(_told(other), now)]
                raise DataError(
                    f"the text of source {run.resolved['source']['name']} has changed since runs were made on it "
                    f"({', '.join(changes)})",
                    where=str(self.root),
                    fix="restore it, or use another --root, or remove the runs made on the old text: "
                    + " ".join(str(other.path) for other in stale),
                )


def _source(recipe: Recipe, root: Path) -> Source:
    from ..train.build import text_context

    return recipe.source.build(text_context(recipe, root))


def _digests(recipe: Recipe, root: Path) -> dict[str, str]:
    from ..train.build import text_digests

    return text_digests(_source(recipe, root))


def _told(run: Run) -> dict[str, str]:
    """What a finished run says of its text."""
    return {name: run.result[name] for name in ("fingerprint", "heldout") if run.result.get(name)}


def _key(run: Run) -> str:
    """Runs of one key have one text: neither seed nor model changes it."""
    start = run.resolved.get("start") or {}  # whose tokenizer may have been trained on other text
    return digest([run.resolved["source"], run.resolved["tokenizer"], start.get("digest")])


def _changes(told: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs, each "fingerprint 1a2b3c4d5e6f -> 6f5e4d3c2b1a"."""
    pairs = {name: (value, now.get(name)) for name, value in told.items()}
    return [f"{name} {a[:12]} -> {b[:12]}" for name, (a, b) in pairs.items() if b and a != b]


def _runs(root: Path) -> Iterator[Run]:
    for directory in run_directories(root):
        with suppress(DataError):
            yield Run.read(directory)


def _compressed(source: Any, root: Path) -> dict[str, float]:
    from ..data.compressors import compressed_bits_per_byte

    key = digest([source.fingerprint, source.heldout_digest()])
    return once(root / CACHE / "compressors.json", key, dict[str, float], lambda: compressed_bits_per_byte(source))
