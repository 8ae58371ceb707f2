"""Tasks in local JSON Lines: multiple choice, sentences to complete, and answers that are written and checked.

What a line holds says its kind: ``query, choices, gold`` (the likeliest choice); ``context_options, continuation,
gold`` (the context that makes the end likeliest); ``context, continuation`` (is every token the likeliest?); a question
with an ``answer`` (what is written is checked: the last number, or the text).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..core.contracts import Tokenizer
from ..core.errors import DataError, nearest
from ..core.reading import read_json
from ..data.engine.inputs import line_text, lines_in, units_of
from ..data.tokenizing import as_prompt, encode_many
from .calibration import Paired, paired
from .scoring import PairScorer

Kind = Literal["choice", "schema", "completion", "answer"]
NORMS = ("sum", "token", "character", "byte")
"""What the log-likelihood of a choice is divided by: nothing, its tokens, characters, or UTF-8 bytes."""
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_QUESTIONS = ("question", "context", "query", "prompt", "input")


@dataclass(frozen=True)
class TaskItem:
    """One item: pairs of a context and what follows it, of which one is right; or a question and its answer.

    Args:
        pairs: (context, continuation) of each choice.
        gold: number of the right one.
        answer: of a question that is to be answered in writing; "" otherwise.

    Example:
        >>> TaskItem((("2 + 2 =", " 4"), ("2 + 2 =", " 5")), 0).gold
        0
    """

    pairs: tuple[tuple[str, str], ...]
    gold: int
    answer: str = ""


@dataclass(frozen=True)
class LocalTask:
    """The items of a file.

    Args:
        name: of the task: its file's.
        kind: what is asked.
        items: all.

    Example:
        >>> _ = Path("sums.jsonl").write_text('{"query": "2 + 2 =", "choices": ["4", "5"], "gold": 0}')
        >>> LocalTask.read("sums.jsonl").items[0].pairs[0]
        ('2 + 2 =', ' 4')
    """

    name: str
    kind: Kind
    items: tuple[TaskItem, ...]

    @classmethod
    def read(cls, path: str | Path) -> LocalTask:
        """The task of a JSON Lines file, plain or packed.

        Raises:
            DataError: a line is no item, or of another kind than the first; says which.
        """
        kind, items = "", list[TaskItem]()
        for unit in units_of([str(path)]):
            for number, line in lines_in(unit):
                if line is not None and not line.strip():
                    continue
                where = f"{path}:{number}"
                record = _record(line, where)
                mine, item = _item(record, where)
                if kind and mine != kind:
                    raise DataError(f"is an item of the kind {mine}, and the first is of {kind}", where=where)
                kind = mine
                items.append(item)
        if not items:
            raise DataError("holds no items", where=str(path))
        name = Path(path).name.partition(".")[0]
        return cls(name, kind, tuple(items))  # type: ignore[arg-type]


def _record(line: bytes | None, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line_text(line or b""))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"is not JSON ({error})", where=where, fix="repair that line: an item must not be lost"
        ) from None
    if not isinstance(record, dict):
        raise DataError("is no object", where=where, fix='e.g. {"query": ..., "choices": [...], "gold": 0}')
    return record


def _item(record: Mapping[str, Any], where: str) -> tuple[Kind, TaskItem]:
    if "choices" in record:
        query, choices = _text(record, "query", where), record["choices"]
        pairs = tuple((query.rstrip(), f" {str(choice).strip()}") for choice in choices)
        return "choice", TaskItem(pairs, _gold(record, len(pairs), where))
    if "context_options" in record:
        end = _text(record, "continuation", where)
        pairs = tuple((str(each).rstrip(), f" {end.strip()}") for each in record["context_options"])
        return "schema", TaskItem(pairs, _gold(record, len(pairs), where))
    if "continuation" in record:
        context, end = _text(record, "context", where), _text(record, "continuation", where)
        return "completion", TaskItem(((context.rstrip(), f" {end.strip()}"),), 0)
    question = next((key for key in _QUESTIONS if key in record), "")
    if not question or "answer" not in record:
        has = f"it has: {', '.join(sorted(record)) or 'none'}"
        raise DataError(f"is no item of a known kind ({has})", where=where, fix="see docs/guide/data.md")
    return "answer", TaskItem(((_text(record, question, where), ""),), 0, str(record["answer"]))


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(record.get(key), str):
        raise DataError(f"lacks a text under {key!r}", where=where)
    return str(record[key])


def _gold(record: Mapping[str, Any], count: int, where: str) -> int:
    gold = record.get("gold")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < count:
        raise DataError(f"its 'gold' is {gold!r}, the number of none of {count} choices", where=where)
    return gold


@dataclass(frozen=True)
class TaskScore:
    """How a model did on a task.

    Args:
        task: its name.
        right: by what the choice is normalised -> 1 or 0 an item; "exact" where nothing is chosen.
        probabilities: (items, choices) normalised over the choices by their sums, of multiple choice with equally many;
            None otherwise.
        gold: the right choices.

    Example:
        >>> score = TaskScore("sums", {"sum": np.array([1.0, 0.0, 1.0, 1.0])}, None, np.zeros(4, int))
        >>> score.accuracy("sum"), round(score.stderr("sum"), 3)
        (0.75, 0.25)
    """

    task: str
    right: Mapping[str, npt.NDArray[np.float64]]
    probabilities: npt.NDArray[np.float64] | None
    gold: npt.NDArray[np.int64]

    def accuracy(self, norm: str) -> float:
        return float(self.right[norm].mean())

    def stderr(self, norm: str) -> float:
        """Of the accuracy, over items."""
        values = self.right[norm]
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class OtherScores:
    """How another model did on each item, as ``isoflop eval --task --json`` printed it.

    Args:
        name: of the model; "" where there is none.
        right: task -> by what the choice is normalised -> 1 or 0 an item.

    Example:
        >>> other = OtherScores("b", {"sums": {"sum": [0, 0, 1, 1, 0, 0]}})
        >>> score = TaskScore("sums", {"sum": np.ones(6)}, None, np.zeros(6, int))
        >>> round(other.beside(score)["sum"].difference, 3), other.beside(score)["sum"].p
        (0.667, 0.125)
    """

    name: str = ""
    right: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | str) -> OtherScores:
        """Read such a file; DataError for another one."""
        fix = "name what `isoflop eval RUN --task FILE --json` printed"
        try:
            known = read_json(Path(file), dict[str, Any])
        except DataError as error:
            raise DataError(error.what, where=error.where, fix=error.fix or fix) from None
        try:
            rows = {
                row["task"]: {
                    norm: [float(each) for each in found["right"]]
                    for norm, found in row.items()
                    if isinstance(found, dict) and "right" in found
                }
                for row in known["tasks"]
            }
            return cls(str(known["model"]), rows)
        except (KeyError, TypeError, ValueError):
            raise DataError("holds no items of tasks", where=str(file), fix=fix) from None

    def known(self, task: str) -> Mapping[str, Sequence[float]]:
        """What it did on a task's items, by norm; nothing where there is no other model.

        Raises:
            DataError: it was not asked that task.
        """
        if self.name and task not in self.right:
            where = f"--against: {self.name}"
            raise DataError(f"has no task {task!r}", where=where, fix=nearest(task, list(self.right)))
        return self.right.get(task, {})

    def beside(self, score: TaskScore) -> dict[str, Paired]:
        """The difference of a model's score to it, item by item; none without another model.

        Raises:
            DataError: it was not asked that task, or other items of it.
        """
        known = self.known(score.task)
        return {norm: paired(mine, np.array(known[norm])) for norm, mine in score.right.items() if norm in known}


def measure_task(
    task: LocalTask,
    scorer: PairScorer,
    tokenizer: Tokenizer,
    write: Callable[[Sequence[str]], Sequence[str]] | None = None,
) -> TaskScore:
    """Measure a model on a task.

    Args:
        task: of any kind.
        scorer: of the model.
        tokenizer: of the model.
        write: from questions to what the model writes; needed for answers.

    Raises:
        DataError: answers are asked for, and nothing writes.
    """
    gold = np.array([item.gold for item in task.items])
    if task.kind == "answer":
        if write is None:
            raise DataError("asks for written answers, and no decoder is there", where=task.name)
        said = write([item.pairs[0][0] for item in task.items])
        found = [float(checked(text, item.answer)) for text, item in zip(said, task.items, strict=True)]
        return TaskScore(task.name, {"exact": np.array(found)}, None, gold)
    pairs = list(_tokens(task, tokenizer))
    scores = iter(scorer.score(pairs))
    if task.kind == "completion":
        exact = np.array([float(next(scores).greedy) for _ in task.items])
        return TaskScore(task.name, {"exact": exact}, None, gold)
    sizes, right = iter(pairs), {norm: np.zeros(len(task.items)) for norm in NORMS}
    sums = list[list[float]]()
    for number, item in enumerate(task.items):
        logs = np.array([next(scores).logprob for _ in item.pairs])
        tokens = np.array([max(len(next(sizes)[1]), 1) for _ in item.pairs])
        texts = [text.removeprefix(" ") for _, text in item.pairs]
        per = {
            "sum": np.ones(len(logs)),
            "token": tokens,
            "character": np.array([max(len(text), 1) for text in texts]),
            "byte": np.array([max(len(text.encode()), 1) for text in texts]),
        }
        for norm in NORMS:
            right[norm][number] = float(int((logs / per[norm]).argmax()) == item.gold)
        sums.append(logs.tolist())
    even = len({len(each) for each in sums}) == 1
    probabilities = _softmax(np.array(sums)) if even else None
    return TaskScore(task.name, right, probabilities, gold)


def _softmax(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    raised = np.exp(logs - logs.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def _tokens(task: LocalTask, tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[int]]]:
    """Every pair as ids; both are encoded together, and what is beyond the context's own ids follows it."""
    texts = [each for item in task.items for each in item.pairs]
    whole = encode_many(tokenizer, [context + end for context, end in texts])
    before = encode_many(tokenizer, [context for context, _ in texts])
    start = as_prompt(tokenizer, "")
    for ids, own in zip(whole, before, strict=True):
        cut = min(len(own), len(ids) - 1)
        yield [*start, *np.asarray(ids)[:cut].tolist()], np.asarray(ids)[cut:].tolist()


def checked(said: str, answer: str) -> bool:
    """Whether a written answer is right: its last number is the answer's, or, of an answer without one, the text is.

    Example:
        >>> checked("So it is 1,200.", "#### 1200"), checked("Yes, it is", "yes"), checked("17", "18")
        (True, True, False)
    """
    wanted, found = _NUMBER.findall(answer), _NUMBER.findall(said)
    if wanted:
        return bool(found) and _value(found[-1]) == _value(wanted[-1])
    words = re.findall(r"\w+", answer.lower())
    return bool(words) and re.findall(r"\w+", said.lower())[: len(words)] == words


def _value(text: str) -> float:
    return float(text.replace(",", ""))
