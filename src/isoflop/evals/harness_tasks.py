"""Tasks of lm-evaluation-harness from local files: read, checked and made whole before the harness sees them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..core.digests import digest
from ..core.errors import DataError, UsageError, nearest
from ..core.reading import LARGEST, parse_json, read_bytes, read_text, user_path

FORMS = ("loglikelihood", "loglikelihood_rolling", "generate_until", "multiple_choice")
"""What a task's ``output_type`` may be."""
_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")
_SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
_YAML = 1 << 20
_RENDERED = (*_TEMPLATES, "doc_to_image", "doc_to_audio", "doc_to_decontamination_query", "gen_prefix", "description")
_UNDEFINED = re.compile(r"'(\w+)' is undefined")
_TAG = re.compile(r"tag '(![^']*)'")

Row = dict[str, Any]


@dataclass(frozen=True)
class HarnessTask:
    """A task as the harness is given it.

    Args:
        name: of the task.
        config: the YAML file's keys, those that name data left out.
        splits: rows of each split that the task uses, by the split's name.
        digest: of keys and rows: what the results of a task are results of.

    Example:
        >>> task = HarnessTask("yes_or_no", {"output_type": "multiple_choice"}, {"test": [{"query": "Is it?"}]}, "ab")
        >>> task.splits["test"]
        [{'query': 'Is it?'}]
    """

    name: str
    config: Mapping[str, Any]
    splits: Mapping[str, Sequence[Row]]
    digest: str


def read_task(path: str | Path) -> HarnessTask:
    """Read a task's YAML file and the JSON lines (``.jsonl``, ``.jsonl.gz``) that it names, nothing else.

    Files are looked for beside the YAML file. The harness' own form is read (``dataset_path: json`` with
    ``dataset_kwargs: {data_files: ...}``), but for tags that run code of files.

    Raises:
        UsageError: no such task can be made: no YAML, an unknown form, a key that is missing.
        DataError: a file cannot be read, or its rows lack a field that the templates use.
    """
    path = user_path(path)
    config = _config(path)
    name = config.get("task")
    if not isinstance(name, str) or not name:
        raise UsageError("names no task", where=str(path), fix="add a line such as `task: my_task`")
    form = config.get("output_type", "generate_until")
    if form not in FORMS:
        raise UsageError(f"output_type: no task has the form {form!r}", where=str(path), fix=nearest(str(form), FORMS))
    files = _files(config, path)
    wanted = {key: config[key] for key in _SPLITS if config.get(key)}
    if not {"test_split", "validation_split"} & wanted.keys():
        raise UsageError("names no test_split", where=str(path), fix=f"add `test_split: {next(iter(files))}`")
    for key, split in wanted.items():
        if split not in files:
            raise UsageError(f"{key}: no data_files are named {split!r}", where=str(path), fix=nearest(split, files))
    splits = {split: _rows(files[split]) for split in dict.fromkeys(wanted.values())}
    _check_rows(config, form, {split: (files[split], rows) for split, rows in splits.items()}, path)
    kept = {
        key: value for key, value in config.items() if key not in ("dataset_path", "dataset_name", "dataset_kwargs")
    }
    kept.setdefault("doc_to_text", "")  # which the harness wants even where a whole text is scored
    return HarnessTask(name, kept, splits, digest([kept, splits]))


def _config(path: Path, depth: int = 0) -> dict[str, Any]:
    """The keys of a YAML file, on top of those of the file that it includes."""
    try:
        found = yaml.safe_load(read_text(path, _YAML))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if (tag := _TAG.search(str(error))) is not None:
            fix = "say it with a template in Jinja"
            raise UsageError(f"the tag {tag[1]} would run code from a file", where=str(path), fix=fix) from None
        raise UsageError(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UsageError("is no table of a task's keys", where=str(path), fix="see docs/guide/evaluate.md")
    if (parent := found.pop("include", None)) is None:
        return found
    if depth > 8:
        raise UsageError("include: files include each other", where=str(path), fix="take one of the lines out")
    return {**_config(path.parent / str(parent), depth + 1), **found}


def _files(config: Mapping[str, Any], path: Path) -> dict[str, list[Path]]:
    """The files of each split."""
    kwargs = config.get("dataset_kwargs")
    named = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    if config.get("dataset_path") != "json" or not named:
        what = "reads its data from elsewhere than local JSON lines"
        fix = "write `dataset_path: json` and `dataset_kwargs: {data_files: {test: FILE.jsonl}}`"
        raise UsageError(what, where=str(path), fix=fix)
    splits = named if isinstance(named, dict) else {"train": named}
    listed = {str(split): files if isinstance(files, list) else [files] for split, files in splits.items()}
    return {split: [path.parent / user_path(str(file)) for file in files] for split, files in listed.items()}


def _rows(files: Sequence[Path]) -> list[Row]:
    rows: list[Row] = []
    for file in files:
        for number, line in enumerate(_lines(file), 1):
            if line.strip():
                row = parse_json(line, f"{file}: line {number}")
                if not isinstance(row, dict):
                    raise DataError("is no object", where=f"{file}: line {number}", fix='write {"query": ..., ...}')
                rows.append(row)
    if not rows:
        raise DataError("holds no row", where=", ".join(map(str, files)))
    return rows


def _lines(file: Path) -> list[bytes]:
    data = read_bytes(file)
    if file.suffix == ".gz":
        try:
            with gzip.open(file) as opened:
                data = opened.read(LARGEST + 1)
        except (OSError, EOFError) as error:
            raise DataError(f"cannot be unpacked ({error})", where=str(file)) from error
        if len(data) > LARGEST:
            raise DataError(f"is larger than {LARGEST:,} bytes once unpacked, the most that is read", where=str(file))
    return data.splitlines()


def _check_rows(
    config: Mapping[str, Any], form: str, splits: Mapping[str, tuple[Sequence[Path], Sequence[Row]]], path: Path
) -> None:
    """Fill every template in for every row, in Jinja's sandbox: the harness does it outside of one.

    Raises:
        UsageError: a template is missing, is none, or does what only a program may.
        DataError: a row lacks a field that a template uses.
    """
    needed = {"loglikelihood_rolling": ("doc_to_target",), "multiple_choice": _TEMPLATES}.get(form, _TEMPLATES[:2])
    if missing := [key for key in needed if config.get(key) is None]:
        raise UsageError(f"{missing[0]}: is missing, a task of {form} needs it", where=str(path))
    for files, rows in splits.values():
        fields = set.union(*(set(row) for row in rows))
        templates = [(key, text, _compiled(text, f"{path}: {key}")) for key, text in _texts(config)]
        for number, row in enumerate(rows, 1):
            for key, text, template in templates:
                if text in fields:  # a field's name, not a template
                    lacking = "" if text in row else text
                else:
                    lacking = _lacking(template, row, f"{path}: {key}")
                if lacking:
                    what = f"row {number} has no field {lacking!r}, which {key} uses"
                    raise DataError(what, where=", ".join(map(str, files)), fix=nearest(lacking, row))


def _texts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text of a task that the harness fills in, with its key."""
    for key in _RENDERED:
        told = config.get(key)
        for each in told if isinstance(told, list) else told.values() if isinstance(told, dict) else [told]:
            if isinstance(each, str):
                yield key, each
    if isinstance(shots := config.get("fewshot_config"), dict):
        yield from ((f"fewshot_config.{key}", text) for key, text in _texts(shots))


def _compiled(text: str, where: str) -> jinja2.Template:
    try:
        return _SANDBOX.from_string(text)
    except jinja2.TemplateError as error:
        raise UsageError(f"is no template ({error})", where=where) from None


def _lacking(template: jinja2.Template, row: Row, where: str) -> str:
    """The field that a template wants of a row and does not find; "" if it has all."""
    try:
        template.render(**row)
    except jinja2.UndefinedError as error:
        found = _UNDEFINED.search(str(error))
        return found[1] if found else str(error)
    except SecurityError as error:
        raise UsageError(f"would run code ({error})", where=where, fix="use fields and filters alone") from None
    except Exception as error:  # whatever a template's arithmetic comes to
        what = f"cannot be filled in ({type(error).__name__}: {error})"
        raise UsageError(what, where=where) from None
    return ""


def _regex_replace(text: str, pattern: str, repl: str, count: int = 0) -> str:
    """The one filter that the harness adds to Jinja's."""
    return re.sub(pattern, repl, text, count=count)


_SANDBOX = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_SANDBOX.filters["regex_replace"] = _regex_replace
