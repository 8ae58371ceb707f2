"""Making the model of one stage, and measuring it: whatever is made or measured already is taken as it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..core.contracts import Metric, Source, Subject, merged
from ..core.cost import ZERO, Cost
from ..core.digests import digest
from ..core.files import append_jsonl, mend_jsonl
from ..core.reading import read_json, read_jsonl
from ..core.recipe import Recipe
from ..core.roles import parameter_groups
from ..ledger.budgets import leaves_at
from ..ledger.ledger import Ledger
from ..merge.execute import merge
from ..merge.lora_trained import write_weights
from ..merge.recipe import MergeRecipe, load
from ..merge.search import BEST, BILL, Scored, Space, search
from ..store.pipelines import Choice, Values
from ..store.records import Ancestor, Ancestors, joined
from ..store.results import Trunk
from ..store.run import Run
from ..store.tensors import Checkpoint
from ..train.build import text_context
from ..train.restore import trained
from ..train.run import train
from .compressed_runs import compress_to_run
from .compressing import record_of
from .pipeline import CompressedModel, Pipeline, SampledText
from .sampling import TEXT, cost_of, write_samples

MEASURED, MERGED, SEARCHED, WRITTEN = "measured.jsonl", "merged", "searched", "written"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """What a stage made.

    Attributes:
        identity: hash of its recipe, or digest of the merge and what it merged.
        place: the run's directory, or that of the merged weights.
        run: where it was trained.
        ledger: what the stage itself spent.
        ancestors: what the models that it builds on had cost.
        is_text: it is no model but a text.
        trunk: the part of its path that it took over from a shorter run.
    """

    identity: str
    place: Path
    run: Run | None
    ledger: Mapping[str, Mapping[str, float]]
    ancestors: Ancestors
    is_text: bool = False
    trunk: Trunk | None = None

    def weights(self) -> dict[str, Tensor]:
        """What is evaluated: averaged weights, parametrizations baked in."""
        if self.run is not None:
            return merged(trained(self.run, device="cpu").model)
        return weights_in(self.place)

    def reference(self) -> dict[str, str]:
        """What later stages' recipes name: the directory of a model, the file of a text."""
        return {"run": str(self.place), "path": str(self.place / TEXT)}

    def bill(self) -> Ancestors:
        """Itself and its ancestors."""
        own = {self.identity: Ancestor(name=self.place.name, ledger={k: dict(v) for k, v in self.ledger.items()})}
        return joined([own, self.ancestors])


@dataclass
class Maker:
    """Makes and measures the stages of a pipeline.

    Args:
        pipeline: whose stages.
        root: directory of runs.
        home: the pipeline's own directory.
        say: called with a line of text whenever something was made.
        spent: what measuring cost, also where it was measured before.
    """

    pipeline: Pipeline
    root: Path
    home: Path
    say: Say
    spent: Ledger = field(default_factory=Ledger)
    _measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    _made: dict[str, Made] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.home / MEASURED).exists():
            mend_jsonl(self.home / MEASURED)
            self._measured = {record["key"]: record for record in read_jsonl(self.home / MEASURED)}
        self._probe = lru_cache(maxsize=2 * len(self.pipeline.texts))(self._new_probe)

    def made(self, stage: str, seed: int, choices: Mapping[str, Choice]) -> Made:
        """A stage's model, or text, for a seed, and before it those that it builds on."""
        key = digest([stage, seed, dict(choices)])
        if key not in self._made:
            self._made[key] = self._make(stage, seed, choices)
        return self._made[key]

    def _make(self, stage: str, seed: int, choices: Mapping[str, Choice]) -> Made:
        parents = {name: self.made(name, seed, choices) for name in self.pipeline.parents(stage)}
        if (sample := self.pipeline.stages[stage].sample) is not None:
            return self._written(stage, sample, seed, parents[sample.model])
        if (compress := self.pipeline.stages[stage].compress) is not None:
            return self._compressed(stage, compress, parents[compress.model])
        if not self.pipeline.made_by_training(stage):
            return self._merged(stage, seed, choices, parents)
        recipe = self.pipeline.recipe_of(stage, seed, choices, lambda name: parents[name].reference())
        found = Run.find(self.root, recipe)
        branches = self.pipeline.branches
        run = train(recipe, self.root, lengthens=branches, branch=leaves_at(recipe) if branches else 0)
        if found is None or not found.finished:
            self.say(f"{run.path.name}: {run.figure('value'):.4f} after {run.figure('step'):.0f} steps")
        texts = [parent.bill() for parent in parents.values() if parent.is_text]
        trunk = Trunk.of(run.events("lengthened"))
        return Made(run.hash, run.path, run, run.ledger, joined([run.ancestors, *texts]), trunk=trunk)

    def measure(self, made: Made, seed: int, choices: Mapping[str, Choice]) -> Values:
        """What a model reaches on every text."""
        first = self.made(self.pipeline.first, seed, choices)
        start = str(made.place if made.run is not None and _other_shape(made.run, first.run) else first.place)
        weights = cache(made.weights)  # read once, and only if a text is left to measure
        values: Values = {}
        for text in self.pipeline.texts:
            probe = self._probe(start, text)
            key = digest([made.identity, probe.recipe.hash])
            if key not in self._measured:
                self._measured[key] = {"key": key, **probe.measure(weights())}
                append_jsonl(self.home / MEASURED, self._measured[key])
            self.spent.add("evaluation", Cost(**self._measured[key]["cost"]))
            values[text] = self._measured[key]["values"]
        return values

    def _new_probe(self, start: str, text: str) -> Probe:
        return Probe(self.pipeline.probe(text, start), self.root)

    def _written(self, stage: str, sample: SampledText, seed: int, model: Made) -> Made:
        """A stage's text, in a directory that is named after the model that wrote it and how."""
        assert model.run is not None
        identity = digest([__version__, sample.model_dump(mode="json"), seed, model.identity])
        out, ledger = self.home / WRITTEN / f"{stage}-{identity[:12]}", Ledger()
        ledger.add("rollout", cost_of(out) if out.exists() else write_samples(model.run, sample, seed, out))
        return Made(identity, out, None, ledger.to_json(), model.bill(), is_text=True)

    def _compressed(self, stage: str, compress: CompressedModel, model: Made) -> Made:
        """A stage's compressed model, a run that is named after the run that it was made from and how."""
        assert model.run is not None
        key = digest([__version__, record_of(compress.transforms), model.identity])
        name = f"{self.pipeline.name}-{stage}"[:48] + f"-{key[:10]}"
        there = (self.root / name).exists()
        made = compress_to_run(model.run, compress.transforms, self.root, name)
        if not there:
            self.say(made.line(name))
        run = Run.read(self.root / name)
        return Made(run.hash, run.path, run, run.ledger, run.ancestors)

    def _merged(self, stage: str, seed: int, choices: Mapping[str, Choice], parents: Mapping[str, Made]) -> Made:
        """A stage's merge, in a directory that is named after what it merges and how."""

        def place(name: str, last: bool) -> str:
            run = parents[name].run
            return str(run.path) if last and run is not None else str(self._directory(parents[name]))

        named = self.pipeline.merge_of(stage, choices, lambda name, last: name).model_dump(mode="json")
        recipe, ledger = self.pipeline.merge_of(stage, choices, place), Ledger()
        wanted = self.pipeline.stages[stage].search
        if wanted is not None:
            named |= {"search": [wanted.model_dump(mode="json"), list(self.pipeline.judges(stage)), seed]}
        identity = digest([__version__, named, {name: parent.identity for name, parent in parents.items()}])
        if wanted is not None:
            start = str(self.made(self.pipeline.first, seed, choices).place)
            probes = [self._probe(start, text) for text in self.pipeline.judges(stage)]
            out = self.home / SEARCHED / f"{stage}-{identity[:12]}"
            space = Space(recipe, wanted.knobs, wanted.filters, wanted.blocks)
            search(space, lambda asked: score(asked, probes), out, trials=wanted.trials, seed=seed)
            recipe, ledger = load(out / BEST), Ledger.from_json(read_json(out / BILL, dict[str, Any]))
        out = self.home / MERGED / f"{stage}-{identity[:12]}"
        if not out.exists():
            merge(recipe, out)
        held = Checkpoint(out)
        numel, size = (sum(getattr(info, key) for info in held.tensors.values()) for key in ("numel", "bytes"))
        count = len(recipe.paths())
        ledger.add("train", Cost(elementwise=2 * numel * count, moved=size * (count + 1)))
        bills = joined(parent.bill() for parent in parents.values())
        return Made(identity, out, None, ledger.to_json(), bills)

    def _directory(self, made: Made) -> Path:
        """A model as a directory that merges read."""
        if made.run is None:
            return made.place
        out = self.home / MERGED / f"weights-{made.identity[:12]}"
        if not out.exists():
            write_weights(made.weights(), out)
        return out


def _other_shape(run: Run, first: Run | None) -> bool:
    """Whether a run's model is of another shape than the first stage's."""
    return first is not None and run.recipe.model != first.recipe.model


def weights_in(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a directory."""
    held = Checkpoint(directory)
    return {name: held.read(name) for name in held.tensors}


def score(recipe: MergeRecipe, probes: Sequence[Probe]) -> Scored:
    """A merge's mean over texts of the first metric."""
    with TemporaryDirectory() as folder:
        merge(recipe, Path(folder) / "merged")
        weights = weights_in(Path(folder) / "merged")
    found = [probe.score(weights) for probe in probes]
    return Scored(fmean(value for value, _ in found), sum((cost for _, cost in found), ZERO))


class Probe:
    """A text with the metrics that models are measured by.

    Args:
        recipe: whose source is the text.
        root: directory of runs.
    """

    def __init__(self, recipe: Recipe, root: Path) -> None:
        self.recipe = recipe
        ctx = text_context(recipe, root)
        self.source: Source = recipe.source.build(ctx)
        self.model: torch.nn.Module = recipe.policy.build(ctx).to(ctx.device)
        ctx = ctx.having(horizon=1, models={"policy": self.model}, groups=tuple(parameter_groups(self.model)))
        self.subject = Subject(self.model, recipe.objective.build(ctx), ctx)
        self.metrics: dict[str, Metric] = {part.name: part.build(ctx) for part in recipe.metrics}

    def score(self, weights: Mapping[str, Tensor]) -> tuple[float, Cost]:
        """The first metric as a cost (lower is better), and what measuring it cost."""
        self.model.load_state_dict(dict(weights))
        part, rng = self.recipe.metrics[0], self.recipe.rng("evaluation")
        found = self.metrics[part.name].measure(self.subject, self.source.heldout(), rng(part.name))
        return part.scale.cost(found.value), found.cost

    def measure(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """``values`` by metric, and their ``cost``, as JSON values."""
        self.model.load_state_dict(dict(weights))
        heldout, rng = self.source.heldout(), self.recipe.rng("evaluation")
        found = {name: metric.measure(self.subject, heldout, rng(name)) for name, metric in self.metrics.items()}
        cost = sum((each.cost for each in found.values()), ZERO)
        return {"values": {name: each.value for name, each in found.items()}, "cost": cost.__dict__}
