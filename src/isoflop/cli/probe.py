"""A merge's fitness: the first metric of a run, on its held-out text."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..core.contracts import Subject
from ..merge.execute import merge
from ..merge.recipe import MergeRecipe
from ..merge.search import Fitness, Scored
from ..store.tensors import Checkpoint

if TYPE_CHECKING:
    from ..train.session import Session


def heldout_fitness(session: Session) -> Fitness:
    """Scores merges that fit the session's model; a metric of which more is better is turned round."""
    (name, metric), model = session.parts.metrics[0], session.parts.model
    heldout = session.parts.source.heldout()

    def fitness(recipe: MergeRecipe) -> Scored:
        with TemporaryDirectory() as folder:
            merge(recipe, Path(folder) / "merged")
            made = Checkpoint(Path(folder) / "merged")
            model.load_state_dict({tensor: made.read(tensor) for tensor in made.tensors})
        subject = Subject(model, session.parts.objective, session.ctx)
        found = metric.measure(subject, heldout, session.recipe.rng("evaluation")(name))
        return Scored(session.scale.cost(found.value), found.cost)

    return fitness
