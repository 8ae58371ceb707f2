"""Tasks of lm-evaluation-harness are read whole, or one clear error says why not, before any model is loaded."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from isoflop.errors import DataError, UsageError
from isoflop.evals.harness_tasks import read_task

ROWS = [{"query": "2+2=", "choices": ["4", "5"], "gold": 0}, {"query": "1+1=", "choices": ["3", "2"], "gold": 1}]
TASK: dict[str, Any] = {
    "task": "sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_target": "gold",
    "doc_to_choice": "{{choices}}",
    "metadata": {"version": 1},
}


def write(folder: Path, rows: list[Any] | None = None, **changes: Any) -> Path:
    """A task's files; a key that is None is left out."""
    tree = {key: value for key, value in {**TASK, **changes}.items() if value is not None}
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS if rows is None else rows)))
    (folder / "task.yaml").write_text(yaml.safe_dump(tree))
    return folder / "task.yaml"


def test_a_task_is_read_with_its_rows(tmp_path: Path) -> None:
    task = read_task(write(tmp_path))
    assert (task.name, task.splits) == ("sums", {"test": ROWS})
    assert task.config == {key: value for key, value in TASK.items() if not key.startswith("dataset_")}
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    packed = read_task(write(tmp_path, dataset_kwargs={"data_files": {"test": ["rows.jsonl.gz"]}}))
    assert (packed.splits, packed.digest) == (task.splits, task.digest), "the same task, however its rows are kept"
    assert read_task(write(tmp_path, rows=ROWS[:1])).digest != task.digest


def test_a_file_may_include_another(tmp_path: Path) -> None:
    write(tmp_path).rename(tmp_path / "base.yaml")
    (tmp_path / "more.yaml").write_text("include: base.yaml\ntask: more\nnum_fewshot: 1\n")
    task = read_task(tmp_path / "more.yaml")
    assert (task.name, task.config["num_fewshot"], task.config["doc_to_text"]) == ("more", 1, "{{query}}")
    (tmp_path / "base.yaml").write_text("include: more.yaml\n")
    with pytest.raises(UsageError, match="files include each other"):
        read_task(tmp_path / "more.yaml")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"output_type": "multi_choice"}, "no task has the form 'multi_choice'; did you mean multiple_choice"),
        ({"task": None}, "names no task"),
        ({"dataset_path": "allenai/ai2_arc"}, "reads its data from elsewhere than local JSON lines"),
        ({"dataset_kwargs": None}, "reads its data from elsewhere"),
        ({"test_split": None}, "names no test_split; add `test_split: test`"),
        ({"test_split": "tests"}, "no data_files are named 'tests'; did you mean test"),
        ({"doc_to_choice": None}, "doc_to_choice: is missing, a task of multiple_choice needs it"),
        ({"doc_to_text": "{{query"}, "doc_to_text: is no template"),
        ({"doc_to_text": "{{query.__class__.__mro__}}"}, "doc_to_text: would run code"),
        ({"description": "{{''.__class__.__base__.__subclasses__()}}"}, "description: would run code"),
        (
            {"fewshot_config": {"doc_to_text": "{{query.__init__.__globals__}}"}},
            "fewshot_config.doc_to_text: would run",
        ),
        ({"doc_to_text": "{{query + 1}}"}, "doc_to_text: cannot be filled in (TypeError"),
        ({"doc_to_text": "{% for i in range(10000000) %}x{% endfor %}"}, "doc_to_text: cannot be filled in (Overflow"),
    ],
)
def test_a_task_that_cannot_be_made_is_said(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_task(write(tmp_path, **changes))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([*ROWS, {"query": "3+3=", "choices": ["6"]}], "row 3 has no field 'gold', which doc_to_target uses"),
        ([{**ROWS[0], "question": "", "query": ""}, {"question": "?"}], "row 2 has no field"),
        ([], "holds no row"),
        (["text"], "line 1: is no object"),
    ],
)
def test_rows_that_do_not_serve_are_named(tmp_path: Path, rows: list[Any], complaint: str) -> None:
    with pytest.raises(DataError) as caught:
        read_task(write(tmp_path, rows=rows))
    assert complaint in str(caught.value)
    assert "rows.jsonl" in str(caught.value)


def test_a_field_under_another_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1 has no field 'querry', which doc_to_text uses; did you mean query"):
        read_task(write(tmp_path, doc_to_text="Q: {{querry}}"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("task: x\nprocess_docs: !function utils.steal", "the tag !function would run code from a file"),
        ("task: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("task: [", "is not YAML"),
        ("- task", "is no table of a task's keys"),
    ],
)
def test_no_file_runs_code(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_task(tmp_path / "task.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        read_task(path)
    with pytest.raises(DataError, match=r"none\.yaml"):
        read_task(tmp_path / "none.yaml")


def test_templates_may_ask_whether_a_field_is_there(tmp_path: Path) -> None:
    asks = "{% if hint is defined %}{{hint}}{% endif %}{% for i in range(2) %}{{i}}{% endfor %}"
    asks += "{{query|regex_replace('=', '')}}"
    assert read_task(write(tmp_path, doc_to_text=asks)).splits["test"] == ROWS
