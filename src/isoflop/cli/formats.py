"""The two files that users write, told key by key: shipped ones, a new one with comments, a table for the guide."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from ..core.documents import Section, kinds_of
from ..core.errors import UsageError, nearest
from ..core.reading import user_path
from .app import app

if TYPE_CHECKING:
    from ..core.toml import TomlDocument

FORMATS = ("recipe", "study")
_TEMPLATES = {"recipe": "small", "study": "demo"}
_WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "none"}


@dataclass(frozen=True)
class Key:
    """A key of a file: where it stands, what it takes, what it is without being given ("": it must be), its meaning."""

    path: str
    kind: str
    default: str
    meaning: str


def document(kind: str) -> type[TomlDocument]:
    """The class of "recipe" or "study"; UsageError for another word."""
    if kind not in FORMATS:
        raise UsageError(f"{kind!r} is no kind of file", fix=nearest(kind, FORMATS))
    if kind == "recipe":
        from ..core.recipe import Recipe

        return Recipe
    from ..lab.study import Study

    return Study


def shipped(kind: str) -> dict[str, str]:
    """The texts of the shipped files of a kind, by name."""
    from ..core import toml

    document(kind)
    texts = {name: file.read_text(encoding="utf-8") for name, file in toml.shipped().items()}
    return {name: text for name, text in texts.items() if ("ladder" in toml.parse(text, name)) == (kind == "study")}


def keys(table: type[Section], above: str = "") -> Iterator[Key]:
    """Every key of a table and of the tables within it, but not the parts' own (``isoflop show SLOT`` lists those)."""
    from ..core.registry import Part
    from ..core.slots import purpose

    for name, field in table.model_fields.items():
        path = f"{above}{name}"
        inner = next((cls for cls in _classes(field.annotation) if issubclass(cls, Section)), None)
        default = "" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        if inner is not None and issubclass(inner, Part):
            what = f"{inner.slot}, as name or table"
            kind = f"list, each {what}" if get_origin(field.annotation) is tuple else what
            yield Key(path, kind, default, field.description or purpose(inner.slot))
        elif inner is not None:
            named = get_origin(field.annotation) is dict
            meaning = field.description or inspect.cleandoc(inner.__doc__ or "").partition("\n\n")[0]
            reference = "references" in inner.__module__  # its keys are written by isoflop itself
            kind = "text" if reference else "table"
            yield Key(path, f"table, each a {kind}" if named else kind, "" if field.is_required() else "-", meaning)
            if not reference:
                yield from keys(inner, f"{path}.NAME." if named else f"{path}.")
        else:
            yield Key(path, _kind(field.annotation), default, field.description or "")


def markdown(kind: str) -> str:
    """The guide's table of a file's keys."""
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key in keys(document(kind)):
        meaning = _plain(key).replace("|", "\\|")
        default = f"`{key.default}`" if key.default not in ("", "-") else key.default or "must be given"
        rows.append(f"| `{key.path}` | {key.kind} | {default} | {meaning} |")
    return "\n".join(rows)


def commented(kind: str) -> str:
    """A file of a kind that loads as it stands, with every other key in comments behind it."""
    text = shipped(kind)[_TEMPLATES[kind]]
    lines = [
        text.rstrip(),
        "",
        f"# Every key of a {kind}; a dotted one stands below the [header] of what is before its dot.",
    ]
    for key in keys(document(kind)):
        given = f" = {key.default}" if key.default not in ("", "-") else ""
        lines.append(f"#   {key.path}{given}  ({key.kind})  {_plain(key)}".rstrip())
    return "\n".join(lines) + "\n"


def _plain(key: Key) -> str:
    """A key's meaning on one line, without the double backticks of a docstring."""
    return " ".join(key.meaning.split()).replace("``", "`")


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="recipe or study.")],
    file: Annotated[
        Path | None, typer.Argument(help="Where to; none: print it.", parser=user_path, metavar="FILE")
    ] = None,
) -> None:
    """Write a recipe or a study to begin with: it runs as it stands, and its comments name every key."""
    text = commented(kind) if document(kind) else ""
    if file is None:
        typer.echo(text, nl=False)
        return
    if file.exists():
        raise UsageError("exists already", where=str(file), fix="name another file")
    from ..core.files import write_atomic

    write_atomic(file, text)
    verb = "train" if kind == "recipe" else "compare"
    typer.echo(f"{file}: edit it, then `isoflop {verb} {file} --dry-run`")


def show_format(kind: str, name: str | None) -> str:
    """A shipped file's text, or the names and first lines of all of a kind."""
    texts = shipped(kind)
    if name is None:
        return "\n".join(f"{each}: {text.splitlines()[0].lstrip('# ')}" for each, text in texts.items())
    if name not in texts:
        raise UsageError(f"no {kind} is named {name!r}", fix=nearest(name, texts))
    return texts[name].rstrip()


def _classes(annotation: Any) -> list[type]:
    inner = [cls for argument in get_args(annotation) for cls in _classes(argument)]
    return ([annotation] if isinstance(annotation, type) and not get_args(annotation) else []) + inner


def _kind(annotation: Any) -> str:
    kinds = kinds_of(annotation)
    if Literal in kinds:
        found = next(kind for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal)
        return " or ".join(f"`{choice}`" for choice in get_args(found))
    words = []
    for kind in sorted(kinds, key=str):
        if get_origin(kind) is tuple:
            words.append(f"list, each {_kind(get_args(kind)[0])}")
        elif get_origin(kind) is dict:
            words.append("table" if get_args(kind)[1] is Any else f"table, each a {_kind(get_args(kind)[1])}")
        else:
            words.append(_WORDS.get(kind, "value"))
    return " or ".join(sorted(words, key="none".__eq__))


def _shown(value: Any) -> str:
    import json

    from ..core.registry import Part

    if value is None:
        return '"none"'
    if isinstance(value, Section) and not isinstance(value, Part):
        return "-"
    if isinstance(value, Part):
        return json.dumps(value.name)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return json.dumps(value)
