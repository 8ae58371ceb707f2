"""From a pool to a model trained on what was chosen of it: score, select, train, and one bill for all of it.

Stages are joined by digests: a folder is named after what made it, so that scores serve several selections and nothing
that is done is done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.contracts import ScorerPart, TokenizerPart
from ..core.digests import digest
from ..core.reading import read_json
from ..core.recipe import Recipe
from ..data.engine.choosing import Selection
from ..data.engine.counting import identity_of
from ..data.engine.inputs import stamps, units_of
from ..data.engine.jobs import DOCUMENTS, SUMMARY, JobSettings
from ..data.engine.scoring import flops_of as bill_of
from ..data.engine.scoring import score, select
from ..ledger.ledger import CHARGED
from ..store.run import Run
from ..train.run import train
from .judging import flops_of
from .scorer_models import run_model


@dataclass(frozen=True)
class SelectedRun:
    """A model that was trained on chosen documents.

    Args:
        run: of the model.
        documents: folder of what it was trained on.
        selection: model FLOPs of choosing: of fitting, of scoring, of each model that was asked, and in all.
        training: model FLOPs of its own training.
    """

    run: Run
    documents: Path
    selection: Mapping[str, int]
    training: int

    @property
    def flops(self) -> int:
        """All model FLOPs that led to it; a model that was asked counts with the whole of its training."""
        return self.training + self.selection["all"]


def chosen(
    pool: Sequence[str],
    part: ScorerPart,
    selection: Selection,
    home: Path,
    *,
    texts: Mapping[str, Sequence[str]] | None = None,
    models: Mapping[str, Run] | None = None,
    tokenizer: TokenizerPart | None = None,
) -> tuple[Path, dict[str, int]]:
    """Score a pool and select of it; the folder of what is kept, and the bill.

    Args:
        pool: files of documents.
        part: the scorer.
        selection: how much is kept, and by which rule.
        home: folder below which scores and selections lie.
        texts: files that the scorer fits to, by name.
        models: runs that it asks, by name.
        tokenizer: that a budget in tokens is counted with.
    """
    units = units_of(pool)
    fitted = {name: units_of(files) for name, files in (texts or {}).items()}
    asked = {name: run_model(run, "cpu") for name, run in (models or {}).items()}
    known = [part.header(), part.model_dump(mode="json"), {name: model.identity for name, model in asked.items()}]
    key = digest([*known, stamps(units), {name: stamps(each) for name, each in fitted.items()}])
    scores = home / f"scores-{part.name}-{key[:12]}"
    if not (scores / SUMMARY).exists():
        score(units, part, JobSettings(scores), fitted, asked)
    made = [key, selection.facts, *([] if tokenizer is None else [identity_of(tokenizer)])]
    documents = home / f"selected-{part.name}-{digest(made)[:12]}"
    if not (documents / SUMMARY).exists():
        select(units, scores, selection, JobSettings(documents), tokenizer)
    return documents / DOCUMENTS, bill_of(read_json(documents / SUMMARY, dict[str, Any])["bill"])


def train_on(recipe: Recipe, documents: Path, bill: Mapping[str, int], root: Path) -> SelectedRun:
    """Train a recipe on chosen documents instead of its source.

    Args:
        recipe: whose source is replaced.
        documents: folder of ``chosen``.
        bill: of choosing them.
        root: directory of runs.
    """
    tree = recipe.to_json() | {"source": source_of(documents)}
    run = train(Recipe.from_json(tree, source=recipe.name), root)
    return SelectedRun(run, documents, bill, int(flops_of([run.ledger], CHARGED)))


def source_of(documents: Path) -> dict[str, Any]:
    """The source of chosen documents as a recipe says it; they were deduplicated before, or are not to be."""
    return {"name": "jsonl", "paths": [str(documents / "*")], "deduplicate": "none"}
