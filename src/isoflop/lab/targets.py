"""Steps to a target: how many steps each batch size needs to reach a quality, and from which size on more is wasted.

Each batch trains at a rate without a horizon, so that one run's evaluations tell when it passed the target. Its rate is
searched on seeds of its own, with as many values for every batch; what counts is the fewest steps.

Data to the target are E(B) = B S(B). Small batches need the least, E_min; the critical batch is the size at which they
need ``overhead`` times that (1.2: a fifth is wasted), found between two sizes by interpolation in logarithms. Sizes
beyond it need not reach the target: that they take more than they were given is all that is asked of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, PrivateAttr, model_validator

from ..core.digests import digest
from ..core.documents import Describes
from ..core.errors import NumericsError, RecipeError
from ..core.files import write_atomic, write_json
from ..core.reading import user_path
from ..core.recipe import Name, Recipe, Train
from ..core.roles import numel
from ..core.scale import Scale
from ..core.toml import TomlDocument, locate, read
from ..store.environment import process
from ..store.measured import TARGETS, MeasuredResult
from ..store.results import RunRow, spent
from . import ladder
from .study import OWN, Role
from .study_keys import Seed, Seeds
from .workers import Assignment, Executor, LocalWorkers

STEPS = "steps.csv"
"""The file beside the result that holds what laws are fitted to: N, B, seed, steps of each run that reached it."""
Rates = Annotated[tuple[PositiveFloat, ...], Field(min_length=3)]


class TargetStudy(TomlDocument):
    """Batch sizes on their way to a target quality.

    Example:
        >>> text = '''name = "sizes"
        ... target = 2.6
        ... batches = [4, 8, 16]
        ... tokens = 65536
        ... seeds = [1, 2, 3]
        ... tuning_seeds = [101]
        ... rates = [0.004, 0.008, 0.016]
        ... recipe = { source = "stdlib", model = "transformer", schedule = "constant", train = { length = 32 } }'''
        >>> TargetStudy.from_toml(text).recipe_of(8, 1, 0.008).budget
        Budget(flops=None, steps=256, tokens=None, text_bytes=None, seconds=None)
    """

    name: Name
    """What the study is called, and the directory of its result."""
    title: str = ""
    """One line about it."""
    recipe: Annotated[dict[str, Any], Describes(Recipe)]
    """The runs' recipe without name, seed, budget and batch. Its schedule needs no horizon."""
    target: float
    """The quality that is to be reached, in the unit of the first metric."""
    batches: Annotated[tuple[PositiveInt, ...], Field(min_length=3)]
    """Sequences a step, ascending."""
    tokens: PositiveInt
    """Tokens that every run may take. Twice the least that reach the target are enough: larger batches need not."""
    evaluations: Annotated[int, Field(ge=4)] = 16
    """Evaluations of each run, at equal distances: between two, the quality is interpolated in log steps."""
    seeds: Seeds
    """Seeds of the evaluation runs, at least three: an interval of two is 18 of their standard deviations wide."""
    tuning_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """On which the rates are searched; never among ``seeds``."""
    rates: Rates
    """Learning rates that are tried for every batch."""
    overhead: Annotated[float, Field(gt=1)] = 1.2
    """How many times the least data the critical batch needs."""

    kind = "study of batch sizes"

    _made: dict[tuple[int, int, float], Recipe] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _sound(self) -> TargetStudy:
        problems = [f"recipe.{key}: is set by the study; leave it out" for key in OWN if key in self.recipe]
        if list(self.batches) != sorted(set(self.batches)):
            problems.append("batches: must ascend")
        if list(self.rates) != sorted(set(self.rates)):
            problems.append("rates: must ascend")
        problems += [f"tuning_seeds: {s} is also an evaluation seed" for s in self.tuning_seeds if s in self.seeds]
        if not problems:
            try:
                recipe = self.recipe_of(self.batches[-1], self.seeds[0], self.rates[0])
                if recipe.schedule.needs_horizon:
                    problems.append("recipe.schedule: needs a horizon, so no run shows when it passed the target")
            except RecipeError as error:
                problems += [f"recipe: {problem}" for problem in error.problems]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def scale(self) -> Scale:
        """What the target is measured on: the runs' first metric."""
        return self.recipe_of(self.batches[0], self.seeds[0], self.rates[0]).metrics[0].scale

    @property
    def identity(self) -> str:
        """Digest of all that it says."""
        return digest(self.to_json())

    def recipe_of(self, batch: int, seed: int, rate: float) -> Recipe:
        """The recipe of one run; RecipeError if it is not legal.

        Args:
            batch: sequences a step.
            seed: of initialisation and data order.
            rate: the learning rate.
        """
        if (batch, seed, rate) not in self._made:
            train = {**self.recipe.get("train", {}), "batch": batch, "evaluations": self.evaluations}
            length, accumulate = (int(train.get(key, getattr(Train(), key))) for key in ("length", "accumulate"))
            steps = self.tokens // max(batch * length * accumulate, 1)
            tree = {**self.recipe, "train": train, "seed": seed, "budget": {"steps": max(steps, 1)}}
            tree["name"] = f"{self.name}-{batch}"[:64]
            change = f"optimizer.lr={rate!r}"
            self._made[batch, seed, rate] = Recipe.from_json(tree, change, source=self.name)
        return self._made[batch, seed, rate]


def is_target_study(name: str) -> bool:
    """Whether a file, or what is shipped under a name, is a study of batch sizes.

    Args:
        name: as the command line takes it.
    """
    path = locate(name)
    if not path.is_file():  # a pipe can be read only once
        return False
    tree, _ = read(path)
    return "batches" in tree and "ladder" not in tree


def steps_to(row: RunRow, target: float, cost: Callable[[float], float] = float) -> tuple[float, bool]:
    """Steps at which a run first reached a quality, and whether it did; if not, the steps that it took.

    Args:
        row: the run with its evaluations.
        target: the quality.
        cost: turns a quality so that lower is better.
    """
    if len(row.curve) < 2:
        return math.inf, False
    u = np.log([point.step for point in row.curve])
    y = np.array([cost(point.value) for point in row.curve])
    at, side = ladder.invert(u, y, np.asarray(cost(target)))
    return float(np.exp(at)), int(side) <= 0


def critical_batch(
    batches: Sequence[float], steps: Sequence[float], overhead: float, reached: Sequence[bool] | None = None
) -> tuple[float, str]:
    """The batch at which data to the target are ``overhead`` times the least, or a bound and its side.

    Args:
        batches: ascending.
        steps: to the target, of each; of those that did not reach it, the steps that they took.
        overhead: above 1.
        reached: whether each reached the target; default: all. The others' data are known to be more than they took.

    Returns:
        The batch and "", or a bound and "above" or "below".

    Example:
        >>> sizes = [1, 2, 4, 8, 16]
        >>> round(critical_batch(sizes, [100 * (1 + 10 / b) for b in sizes], 1.2)[0], 1)
        3.1
        >>> critical_batch([1, 2, 4], [100, 50, 25], 1.2)
        (4.0, 'above')
    """
    b, data = np.log(np.asarray(batches, float)), np.log(np.asarray(batches, float) * np.asarray(steps, float))
    known = np.ones(len(b), bool) if reached is None else np.asarray(reached, bool)
    least = int(np.argmin(np.where(known, data, np.inf)))
    limit = float(data[least]) + math.log(overhead)
    for k in range(least + 1, len(b)):
        if data[k] > limit:
            share = (limit - data[k - 1]) / (data[k] - data[k - 1])
            return float(np.exp(b[k - 1] + share * (b[k] - b[k - 1]))), "" if known[k] else "below"
        if not known[k]:
            return float(batches[k - 1]), "above"
    return float(batches[-1]), "above"


def run_targets(
    study: TargetStudy,
    root: Path | str = "runs",
    *,
    workers: int = 1,
    say: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
) -> MeasuredResult:
    """Search every batch's rate, run all seeds, and return steps to the target and the critical batch, seed by seed.

    The result also lies in ``root``/NAME as targets.json, with the steps as steps.csv: such tables of several sizes in
    one are what the law ``critical_batch`` is fitted to. Finished runs are not repeated.

    Args:
        study: what is asked.
        root: directory of runs.
        workers: processes, one thread each.
        say: called with a line whenever a run ends.
        executor: carries out the runs instead of local worker processes.

    Raises:
        NumericsError: no rate of a batch reached the target.
        Stopped: a signal; the state of all runs is saved.

    Example:
        >>> result = run_targets(TargetStudy.load("sizes.toml"), "runs")  # doctest: +SKIP
    """
    root = user_path(root)
    if executor is None:
        with LocalWorkers(root, workers) as local:
            return run_targets(study, root, say=say, executor=local)
    tuned = _carried_out(study, executor, "tuning", study.tuning_seeds, None, say)
    chosen = _chosen(study, tuned)
    rows = _carried_out(study, executor, "evaluation", study.seeds, chosen, say)
    result = _concluded(study, chosen, rows, [*tuned.values(), *rows.values()])
    write_atomic(root / study.name / "study.toml", study.to_toml())
    write_json(root / study.name / TARGETS, result.model_dump(mode="json"))
    write_atomic(root / study.name / STEPS, _table(study, result))
    return result


Done = Mapping[tuple[int, int, float], RunRow]


def _table(study: TargetStudy, result: MeasuredResult) -> str:
    """Parameters, sequences a step, seed and steps, a line for each run of a batch that always reached the target."""
    recipe = study.recipe_of(study.batches[0], study.seeds[0], study.rates[0])
    size, lines = numel(recipe.model.shapes(recipe.vocab_size)), ["N,B,seed,steps"]
    for batch in study.batches:
        reached = zip(study.seeds, result.values.get(f"steps_{batch}", []), strict=False)
        lines += [f"{size},{batch},{seed},{steps!r}" for seed, steps in reached]
    return "\n".join([*lines, ""])


def _jobs(
    study: TargetStudy, role: Role, seeds: Sequence[int], chosen: Mapping[int, float] | None
) -> Iterator[tuple[tuple[int, int, float], Assignment]]:
    for number, batch in enumerate(study.batches):
        for seed in seeds:
            for rate in study.rates if chosen is None else (chosen[batch],):
                recipe = study.recipe_of(batch, seed, rate)
                key = (batch, seed, rate)
                yield key, Assignment(recipe, f"batch {batch}", number, role, {"optimizer.lr": rate})


def _carried_out(
    study: TargetStudy,
    executor: Executor,
    role: Role,
    seeds: Sequence[int],
    chosen: Mapping[int, float] | None,
    say: Callable[[str], None],
) -> Done:
    jobs = dict(_jobs(study, role, seeds, chosen))
    found: dict[str, RunRow] = {}
    for row in executor(list(jobs.values())):
        found[row.recipe_hash] = row
        end = "diverged" if row.end is None else f"{row.end.value:.4f}"
        say(f"{role} {len(found)}/{len(jobs)}: {row.arm}, seed {row.seed}: {end}")
    return {key: found[job.recipe.hash] for key, job in jobs.items()}


def _chosen(study: TargetStudy, rows: Done) -> dict[int, float]:
    """Batch -> the rate that reached the target in the fewest steps, over the tuning seeds, or came nearest to it."""
    chosen, short, cost = {}, list[int](), study.scale.cost
    for batch in study.batches:
        needed = {}
        for rate in study.rates:
            each = [rows[batch, seed, rate] for seed in study.tuning_seeds]
            steps = [steps_to(row, study.target, cost) for row in each]
            missed = sum(not reached for _, reached in steps)
            ends = math.fsum(math.inf if row.end is None else cost(row.end.value) for row in each)
            needed[rate] = (missed, math.fsum(math.log(taken) for taken, _ in steps), ends)
        chosen[batch] = min(needed, key=lambda rate: needed[rate])
        short += [batch] * (needed[chosen[batch]][0] > 0)
    if len(short) > len(study.batches) - 2:  # of one batch alone nothing is known about another
        raise NumericsError(
            f"no rate of batch {short[0]} reached {study.target:g} within {study.tokens:,} tokens",
            where=study.name,
            fix="give more tokens, a weaker target, or other rates",
        )
    return chosen


def _concluded(study: TargetStudy, chosen: Mapping[int, float], rows: Done, made: Sequence[RunRow]) -> MeasuredResult:
    values, cost = dict[str, list[float]](), study.scale.cost
    notes = [f"rates: {', '.join(f'{batch} {rate:g}' for batch, rate in chosen.items())}"]
    for batch, rate in chosen.items():
        if rate in (study.rates[0], study.rates[-1]):
            notes.append(f"batch {batch}: the best rate, {rate:g}, lies at the end of those tried")
    passed = {
        batch: [steps_to(rows[batch, seed, rate], study.target, cost) for seed in study.seeds]
        for batch, rate in chosen.items()
    }
    for batch, each in passed.items():
        if missed := [str(seed) for seed, (_, reached) in zip(study.seeds, each, strict=True) if not reached]:
            notes.append(f"batch {batch} needs more than {study.tokens:,} tokens (seeds {', '.join(missed)})")
        else:
            values[f"steps_{batch}"] = [steps for steps, _ in each]
    for number, seed in enumerate(study.seeds):
        steps, reached = zip(*(passed[batch][number] for batch in study.batches), strict=True)
        if not any(reached):
            notes.append(f"seed {seed} reached the target at no batch and is left out")
            continue
        size, side = critical_batch(study.batches, steps, study.overhead, reached)
        if side:
            notes.append(f"seed {seed} is left out: its critical batch lies {side} {size:.3g}, where is not known")
            continue
        values.setdefault("critical_batch", []).append(size)
        values.setdefault("log2_critical_batch", []).append(math.log2(size))
    return MeasuredResult(
        name=study.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        values=values,
        notes=notes,
        script=study.identity,
        environment=process(),
        cpu_seconds=math.fsum(row.cpu_seconds or 0.0 for row in made),
        flops=math.fsum(amounts.get("flops", 0.0) for _, _, amounts in spent(made)),
        recipes=[row.recipe_hash for row in made],
    )
