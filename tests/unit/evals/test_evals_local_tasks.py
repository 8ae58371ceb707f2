"""Local tasks: every kind, its numbers beside lm-evaluation-harness's, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.cli.tasks import on_local_tasks
from isoflop.core.errors import DataError
from isoflop.data.tokenizers.bytes import Bytes
from isoflop.evals.calibration import paired
from isoflop.evals.local_tasks import LocalTask, OtherScores, TaskItem, TaskScore, checked, measure_task
from isoflop.evals.scoring import PairScorer


class Recurrent(torch.nn.Module):
    """The seeded model of the recorded values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(257, 64)
        self.cell = torch.nn.GRU(64, 64, batch_first=True)
        self.out = torch.nn.Linear(64, 257)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.cell(self.embedding(tokens))
        return self.out(hidden)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def scorer() -> PairScorer:
    return PairScorer(Recurrent(), length=4096, batch=8)


def test_accuracies_are_those_of_the_harness(shared: Path, scorer: PairScorer) -> None:
    """On recorded items, item by item: by the sum, and by the characters of a choice."""
    recorded: dict[str, Any] = json.loads((shared / "data" / "data" / "ref" / "lm_eval_tiny.json").read_text())
    for name in ("piqa30", "arc_easy30"):
        samples = recorded["samples"][name][:12]
        items = [TaskItem(tuple(map(tuple, each["prompts"])), int(each["target"])) for each in samples]  # type: ignore[arg-type]
        found = measure_task(LocalTask(name, "choice", tuple(items)), scorer, Bytes())
        np.testing.assert_array_equal(found.right["sum"], [each["acc"] for each in samples])
        np.testing.assert_array_equal(found.right["character"], [each["acc_norm"] for each in samples])


LINES = {
    "choice": {"query": "Q?\nA:", "choices": ["yes", "no"], "gold": 1},
    "schema": {"context_options": ["He", "She"], "continuation": "ran", "gold": 0},
    "completion": {"context": "one two", "continuation": "three"},
    "answer": {"question": "1 + 1?", "answer": "so #### 2"},
}


@pytest.mark.parametrize("kind", LINES)
def test_every_kind_is_read_and_measured(kind: str, tmp_path: Path, scorer: PairScorer) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join([json.dumps(LINES[kind])] * 3))
    task = LocalTask.read(path)
    assert (task.kind, task.name, len(task.items)) == (kind, "task", 3)
    found = measure_task(task, scorer, Bytes(), lambda questions: ["it is 2", "3", "2.0"])
    norm = next(iter(found.right))
    assert len(found.right[norm]) == 3
    if kind == "answer":
        assert found.right["exact"].tolist() == [1, 0, 1]
        with pytest.raises(DataError, match="no decoder"):
            measure_task(task, scorer, Bytes())
    if kind == "choice":
        assert found.probabilities is not None
        np.testing.assert_allclose(found.probabilities.sum(1), 1)


@pytest.mark.parametrize(
    "line",
    [
        '{"query": "torn',
        "[" * 100_000,
        "[1]",
        '{"query": "q", "choices": ["a"], "gold": 1}',
        '{"query": 1, "choices": ["a"], "gold": 0}',
        '{"a": 1}',
    ],
)
def test_what_is_no_item_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(LINES["choice"]) + "\n" + line)
    with pytest.raises(DataError) as caught:
        LocalTask.read(path)
    assert caught.value.where == f"{path}:2"


def test_answers_are_checked_by_their_last_number_or_their_words() -> None:
    assert checked("First 3, then 5.", "5")
    assert not checked("5, or 3", "5")
    assert checked("Heads, I think", "heads")
    assert not checked("no heads", "heads")
    assert not checked("", "5")


def test_a_model_is_held_against_another_item_by_item(tmp_path: Path) -> None:
    right = np.array([1.0, 1, 0, 1, 1, 0])
    score = TaskScore("sums", {"sum": right, "byte": right}, None, np.zeros(6, int))
    place = tmp_path / "other.json"
    rows = [{"task": "sums", "items": 6, "sum": {"accuracy": 0.5, "right": [0, 1, 0, 0, 1, 1]}}]
    place.write_text(json.dumps({"model": "b", "tasks": rows}))
    assert OtherScores.read(place).beside(score) == {"sum": paired(right, np.array([0, 1, 0, 0, 1, 1]))}
    assert OtherScores().beside(score) == {}
    with pytest.raises(DataError, match="--against: b: has no task 'sum'"):
        OtherScores.read(place).beside(TaskScore("sum", score.right, None, score.gold))
    with pytest.raises(DataError, match="not of the same items"):
        OtherScores.read(place).beside(TaskScore("sums", {"sum": right[:5]}, None, score.gold))
    for wrong in (
        {"model": "b"},
        {"tasks": [], "m": 1},
        {"model": "b", "tasks": [{"task": "a", "sum": {"right": "x"}}]},
    ):
        place.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match="holds no items of tasks"):
            OtherScores.read(place)
    place.write_text('{"task": "sums"}\n{"task": "sums"}\n')
    with pytest.raises(DataError, match=r"is not JSON .*; name what `isoflop eval RUN --task FILE --json` printed"):
        OtherScores.read(place)


def test_a_task_that_the_other_model_was_not_asked_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    task, other = tmp_path / "sums.jsonl", tmp_path / "other.json"
    task.write_text(json.dumps({"query": "a", "choices": ["b", "c"], "gold": 1}))
    other.write_text(json.dumps({"model": "b", "tasks": [{"task": "sum", "sum": {"right": [1]}}]}))
    with pytest.raises(DataError, match="has no task 'sums'"):
        on_local_tasks(lambda: pytest.fail("it was loaded"), "a", [task], None, False, other)
