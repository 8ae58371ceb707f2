"""Running a plan: tensors stream through the method, piece by piece, into a directory that appears as a whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import DataError, NumericsError
from ..core.files import disk_errors, write_atomic, write_json
from ..core.processes import end_with_parent
from ..store.tensor_writer import Output, open_output, partial_path, refuse_without_room
from ..store.tensors import DTYPES, PIECE, Flat, HeldTensor, Stored, as_bytes, pieces
from .card import card
from .method import Group, on_tensors
from .plan import MergePlan, make_plan, stream_of
from .recipe import MergeRecipe
from .tasks import Task
from .vocabulary import OTHER_FORMS, TOKENIZER

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those of all."""


@dataclass(frozen=True)
class MergeEstimate:
    """What a merge will take.

    Attributes:
        memory: bytes at most.
        disk: bytes of the output.
        seconds: on this machine, roughly.

    Example:
        >>> MergeEstimate(memory=2 * 10**9, disk=10**9, seconds=12.0).disk
        1000000000
    """

    memory: int
    """Bytes of tensors at once, beside the program itself."""
    disk: int
    """Bytes of the output."""
    seconds: float
    """Of one process, from a short trial of the method on this machine."""


def merge(recipe: MergeRecipe, out: Path, *, workers: int = 1, progress: Progress | None = None) -> MergePlan:
    """Merge checkpoints into the new directory ``out``. Started again after a kill, the same merge continues.

    Args:
        recipe: what to merge; paths are relative to the working directory.
        out: must not exist; it appears when everything is written and safe.
        workers: processes; each takes whole tensors. The result does not depend on their number.
        progress: called now and then.

    Raises:
        RecipeError, UsageError: the recipe does not fit the sources; nothing was written.
        StorageError: no room, said before the start.
        DataError, NumericsError: a source is damaged or not finite; names tensor and file.

    Example, with ``write(path, **tensors)`` a directory of weights:
        >>> from isoflop.store.tensors import Checkpoint
        >>> write("a", w=[1.0, 2.0]); write("b", w=[3.0, 4.0])
        >>> plan = merge(MergeRecipe(method="linear", models=({"path": "a"}, {"path": "b"})), Path("out"))
        >>> Checkpoint(Path("out")).read("w").tolist()
        [2.0, 3.0]
    """
    plan = make_plan(recipe)
    refuse_without_room(out, plan.layout, plan.identity)
    overview = None
    with open_output(out, plan.layout, plan.identity) as output:
        left = [number for number, task in enumerate(plan.tasks) if task.name not in output.done]
        if left:
            overview = overview_of(plan)  # reads everything, if it reads at all
        total, done = plan.layout.bytes, 0
        for finished in _run(plan, left, overview, output, workers):
            done += plan.layout.tensors[plan.tasks[finished].name].bytes
            if progress is not None:
                progress(done, total)
        output.close()
        _write_beside(plan, output.path)
    return plan


def _run(plan: MergePlan, left: Sequence[int], overview: object, output: Output, workers: int) -> Iterator[int]:
    if workers < 2 or len(left) < 2:
        for source in plan.sources:
            source.hash_while_reading()
        return (_one(plan, number, overview, output) for number in left)
    return _shared(plan, left, overview, output, workers)


def _one(plan: MergePlan, number: int, overview: object, output: Output) -> int:
    run_task(plan, plan.tasks[number], overview, output)
    return number


def _shared(plan: MergePlan, left: Sequence[int], overview: object, output: Output, workers: int) -> Iterator[int]:
    """Tensors are given to processes, the largest first, each to the one with the least to do."""
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for number in sorted(left, key=lambda number: -plan.layout.tensors[plan.tasks[number].name].bytes):
        least = loads.index(min(loads))
        shares[least].append(number)
        loads[least] += plan.layout.tensors[plan.tasks[number].name].bytes
    with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
        jobs = [pool.submit(_share, plan.recipe, output.path, share, overview) for share in shares if share]
        for job in jobs:
            yield from job.result()


def _share(recipe: MergeRecipe, partial: Path, share: Sequence[int], overview: object) -> list[int]:
    """In a process of its own: the plan is made again, so that nothing but the recipe has to travel."""
    torch.set_num_threads(1)
    plan = make_plan(recipe)
    output = Output(partial, plan.layout)
    try:
        for number in share:
            run_task(plan, plan.tasks[number], overview, output)
    finally:
        output.close()
    return list(share)


def overview_of(plan: MergePlan) -> object:
    """What the method must know of all tensors together."""
    tasks = [task for task in plan.tasks if task.part is not None]
    if not tasks or tasks[0].part is None:
        return None
    return tasks[0].part.overview([_group(plan, task) for task in tasks])


def run_task(plan: MergePlan, task: Task, overview: object, output: Output) -> None:
    """Merge one tensor into its place."""
    if task.part is None:
        _copy(plan, task, output)
        return
    base, models = _group(plan, task)
    survey = task.part.survey(base, models, stream_of(plan.recipe, task.name), overview)
    width = task.numel // max(task.shape[0], 1) if task.vocabulary else 1
    kept = _unmerged(plan, task)
    whole = None
    if task.part.whole:
        whole = task.part.merge(None if base is None else base.whole(), [m.whole() for m in models], survey, 0)
    item = DTYPES[task.dtype].itemsize
    for start, stop in pieces(task.numel, max(PIECE // max(width, 1), 1) * max(width, 1)):  # whole rows of tokens
        if whole is not None:
            made = whole.reshape(-1)[start:stop]
        else:
            origin = None if base is None else base.piece(start, stop)
            made = task.part.merge(origin, [model.piece(start, stop) for model in models], survey, start)
        if kept is not None:
            rows = kept[start // width : stop // width].repeat_interleave(width)
            made = torch.where(rows, (base or models[0]).piece(start, stop), made)
        output.write(task.name, start * item, as_bytes(_finite(made.to(DTYPES[task.dtype]), task)))
    output.finished(task.name)


def _unmerged(plan: MergePlan, task: Task) -> Tensor | None:
    """Mask of the tokens whose rows stay the first model's; None: there are none."""
    shared = task.vocabulary and plan.vocabulary is not None and plan.vocabulary.shared
    return plan.vocabulary.unmerged() if shared and plan.vocabulary is not None else None


def _finite(made: Tensor, task: Task) -> Tensor:
    if not bool(torch.isfinite(made.sum(dtype=torch.promote_types(made.dtype, torch.float32)))):
        bad = int((~torch.isfinite(made)).sum())
        if bad:
            raise NumericsError(
                f"tensor {task.name!r} would hold {bad} values that are not finite",
                where="merge",
                fix="choose a wider dtype, or weaker weights",
            )
    return made


def _group(plan: MergePlan, task: Task) -> Group:
    """The tensor of base and models, to be read in the type of the merge; rows moved to the common vocabulary."""
    dtype = plan.dtype_of(task)
    stored = [plan.sources[number].flat(name, dtype) for number, name in task.inputs]
    flats: list[Flat] = list(stored)
    if task.vocabulary and plan.vocabulary is not None:
        flats = list(_moved(plan, task, stored))
    return (None, flats) if task.base is None else (flats[0], flats[1:])


def _moved(plan: MergePlan, task: Task, stored: Sequence[Stored]) -> list[HeldTensor]:
    assert plan.vocabulary is not None
    numbers = [number for number, _ in task.inputs]
    rows = tuple(plan.vocabulary.rows[number] for number in numbers)
    chosen = type(plan.vocabulary)(plan.vocabulary.tokens, rows, plan.vocabulary.shared, None)
    return chosen.moved(stored)


def _copy(plan: MergePlan, task: Task, output: Output) -> None:
    """A tensor of whole numbers: the same in all sources, or an error."""
    flats = [plan.sources[number].flat(name) for number, name in task.inputs]
    item = DTYPES[task.dtype].itemsize
    for start, stop in pieces(flats[0].numel):
        first = as_bytes(flats[0].piece(start, stop))
        for other in flats[1:]:
            if other.dtype != flats[0].dtype or bytes(as_bytes(other.piece(start, stop))) != bytes(first):
                raise DataError(
                    f"tensor {other.info.name!r} differs from that in {flats[0].info.file}: only equal ones merge",
                    where=str(other.info.file),
                )
        output.write(task.name, start * item, first)
    output.finished(task.name)


def _write_beside(plan: MergePlan, directory: Path) -> None:
    """Configuration, tokenizer, chat template and card."""
    lead = plan.sources[0]
    union = plan.vocabulary is not None and plan.vocabulary.tokenizer is not None
    for file in lead.carried():
        if union and file.name in OTHER_FORMS:
            continue
        with disk_errors(directory / file.name):
            write_atomic(directory / file.name, file.read_bytes())
    if plan.config:
        write_json(directory / "config.json", plan.config)
    if plan.vocabulary is not None and plan.vocabulary.tokenizer is not None:
        text = json.dumps(plan.vocabulary.tokenizer, ensure_ascii=False, indent=2)
        write_atomic(directory / TOKENIZER, text)
    if plan.recipe.chat_template is not None:
        write_atomic(directory / "chat_template.jinja", plan.recipe.chat_template)
    write_atomic(directory / "README.md", card(plan))


def estimate(plan: MergePlan) -> MergeEstimate:
    """Memory, disk and time, the time from a trial on random numbers and a reading speed of 1 GB/s."""
    seconds = plan.reads / 1e9 + plan.layout.bytes / 1e9
    rates: dict[tuple[object, int], float] = {}
    for task in plan.tasks:
        if task.part is None:
            continue
        key = (type(task.part), len(task.models))
        if key not in rates:
            side = 512
            draw = torch.Generator().manual_seed(0)
            tensors = [torch.randn(side, side, generator=draw, dtype=plan.dtype_of(task)) for _ in task.inputs]
            base = tensors[0] if task.base is not None else None
            before = time.process_time()
            on_tensors(task.part, base, tensors[len(tensors) - len(task.models) :])
            rates[key] = (time.process_time() - before) / side**2
        seconds += rates[key] * task.numel
    return MergeEstimate(plan.memory, plan.layout.bytes, seconds)


def continued(plan: MergePlan, out: Path) -> bool:
    """Whether a killed merge of the same plan lies beside ``out``."""
    return partial_path(out, plan.identity).is_dir()
