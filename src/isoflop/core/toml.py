"""From TOML text and overrides to a validated object, with every problem in one report.

``TomlDocument`` is the base of what users write as a whole file: it reads, writes and changes itself. The rest finds,
for an error that pydantic reports by its place among the fields, the words of the file's author: the key path, the
nearest legal key, the override or the line. The price is half of this file. It goes through pydantic's fields a second
time (``_table_at``), to know which class stands at a path, and through the text with two patterns (``_place``), since
tomllib keeps no line numbers: a key that such a pattern cannot see is reported by its path alone."""

from __future__ import annotations

import datetime
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from . import registry
from .complaints import TELLING, TOLD_BY, form_of, words
from .documents import INTEGERS, Describes, Section, kinds_of, meant, takes_text
from .errors import DataError, RecipeError, UsageError, nearest
from .placing import placed
from .reading import read_text, user_path
from .registry import Part

M = TypeVar("M", bound=BaseModel)
_MAX_BYTES = 1 << 20
_PLAIN = {bool, int, float, str, type(None), Literal}
_TIMES = (datetime.date, datetime.time)  # a datetime is a date


class TomlDocument(Section):
    """A file that users write, read from TOML with ``key.path=value`` overrides and written back equal.

    Class attributes:
        kind: what errors call such a document where it has no file ("recipe").
        context: pydantic's validation context (``slots.STORED``).
    """

    kind: ClassVar[str]
    context: ClassVar[dict[str, bool] | None] = None

    @classmethod
    def load(cls, path: str | Path, *overrides: str) -> Self:
        """Read a TOML file (or a shipped document by its name), apply ``key.path=value`` overrides, validate.

        Raises:
            RecipeError: every problem of the file and the overrides, with file, line and key path.
        """
        file = locate(path)
        _, text = read(file)
        return cls.from_toml(text, *overrides, source=str(path), folder=file.parent)

    @classmethod
    def from_toml(cls, text: str, *overrides: str, source: str = "", folder: Path | None = None) -> Self:
        """Validate TOML text, which errors call ``source``; RecipeError as in ``load``.

        Paths in it are relative to ``folder``, that of the file, where they lead to something there.
        """
        tree = cls.placed(parse(text, source or cls.kind), folder or Path())
        for keys, (kind, verb) in TOLD_BY.items():
            if all(key in tree and key not in cls.model_fields for key in keys):
                what = f"is a {kind}, not {'an' if cls.kind[0] in 'aeiou' else 'a'} {cls.kind}"
                raise RecipeError(
                    [f"{what}: `isoflop {verb.format(source or 'FILE')}` runs it"], source=source or cls.kind
                )
        return validated(cls, tree, overrides, source=source or cls.kind, text=text)

    @classmethod
    def placed(cls, tree: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The tree of a file in ``folder`` with what it names by relative paths found (see ``core.placing``)."""
        found: dict[str, Any] = placed(tree, folder)
        return found

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], *overrides: str, source: str = "") -> Self:
        """Validate a tree of JSON values; RecipeError as in ``load``."""
        return validated(cls, dict(tree), overrides, source=source or cls.kind, context=cls.context)

    def to_json(self) -> dict[str, Any]:
        """Every field, defaults included, as JSON values.

        Left out are keys without a value whose default is to have none, and keys marked ``Later`` at their default.
        """
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """Every field as TOML; ``from_toml`` of it gives an equal document."""
        return tomli_w.dumps(self.to_json())

    def with_(self, *overrides: str) -> Self:
        """A copy with ``key.path=value`` overrides applied and everything validated again."""
        return self.from_json(self.to_json(), *overrides, source=getattr(self, "name", self.kind))


def shipped() -> dict[str, Path]:
    """The recipes and studies that come with isoflop, by name."""
    return {file.stem: file for file in sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))}


def locate(name: str | Path) -> Path:
    """The file that ``name`` means: a path, or the name of a recipe or study shipped with isoflop."""
    known = shipped()
    own = user_path(name)
    path = own if os.path.isfile(own) else known.get(str(name), own)
    if not os.path.exists(path):
        fix = nearest(str(name), known)
        raise UsageError("no such file, nor a shipped recipe of that name", where=str(name), fix=fix)
    return path


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Tree and text of a TOML file; a file that cannot be read or parsed is a RecipeError with line and column."""
    try:
        text = read_text(path, _MAX_BYTES, pipe=True)
    except DataError as error:
        raise RecipeError([error.what], source=error.where) from error
    return parse(text, str(path)), text


def parse(text: str, source: str) -> dict[str, Any]:
    """TOML text to a tree; a syntax error is a RecipeError."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a bare ValueError: an integer of more than 4,300 digits
        raise RecipeError([f"is not TOML: {error}"], source=source) from error


def value_of(text: str) -> Any:
    """The TOML value that ``text`` is; what is not TOML, and a date or time, is taken as a string."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text.strip()
    return text.strip() if len(tree) > 1 or isinstance(tree["value"], _TIMES) else tree["value"]


def override(tree: dict[str, Any], assignment: str, model: type[BaseModel] | None = None) -> None:
    """Apply one ``key.path=value`` in place. The value is TOML; what is not TOML is taken as a string.

    With ``model``, a key that takes text takes it as typed: ``name=2024`` and ``name=true`` are texts.
    A table that names another part (``optimizer=muon``) replaces the old one as a whole. With ``model``, a part that
    the tree leaves out is the default one, so that ``optimizer.lr=1e-3`` needs no name.
    """
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError([f"override {assignment!r} is not of the form key.path=value"], source="command line")
    if any("\ud800" <= character <= "\udfff" for character in assignment):
        problem = (
            f"override {assignment}: holds bytes that are no UTF-8, as a recipe is; name files by a pattern (*, ?)"
        )
        raise RecipeError([problem], source="command line")
    node: Any = tree
    above: list[str | int] = []
    for key in keys[:-1]:
        place = _key_in(node, key, above, assignment)
        child = node[place] if isinstance(place, int) else node.get(place)
        field = _field_at(model, tree, above, place)
        if child is None:
            child = _default_of(field)
        if isinstance(child, str) and (key in registry.SLOTS or _slot_of(field)):  # `optimizer = "muon"` written short
            child = {"name": child}
        if child is not None and field is not None and not kinds_of(field.annotation) - _PLAIN:
            what = f"override {assignment}: {'.'.join([*map(str, above), key])} takes one value, neither table nor list"
            raise RecipeError([what], source="command line")
        node[place] = child if isinstance(child, dict | list) else {}
        node = node[place]
        above.append(place)
    place = _key_in(node, keys[-1], above, assignment)
    value = value_of(text)
    field = _field_at(model, tree, above, place) if isinstance(place, str) else None
    if field is not None and isinstance(value, bool | int | float) and takes_text(field.annotation, value):
        value = text.strip()
    node[place] = value


def _key_in(node: Any, key: str, above: Sequence[str | int], assignment: str) -> str | int:
    """A table's key, or the place in a list that ``key`` counts from 0."""
    if not isinstance(node, list):
        return key
    if not (key.isascii() and key.isdigit() and len(key) < 20 and int(key) < len(node)):
        where = ".".join(map(str, above))
        last = f"its entries are 0 to {len(node) - 1}" if node else "it is empty"
        fix = f"give the whole list, as {where}=[...], to make it longer"
        raise RecipeError([f"override {assignment}: {where} is a list; {last}; {fix}"], source="command line")
    return int(key)


def _field_at(model: type[BaseModel] | None, tree: dict[str, Any], above: Sequence[str | int], key: str | int) -> Any:
    """The field at a key path; an entry of a list is of the list's field."""
    path = [*above, key]
    while path and isinstance(path[-1], int):
        path.pop()
    if model is None or not path:
        return None
    return _field_of(_table_at(model, tree, path[:-1]), str(path[-1]))


def validated(
    model: type[M],
    tree: dict[str, Any],
    overrides: Iterable[str] = (),
    *,
    source: str,
    text: str = "",
    context: dict[str, bool] | None = None,
) -> M:
    """Validate a tree of TOML values strictly.

    Args:
        model: the class of the document.
        tree: its values; dates and times become text.
        overrides: ``key.path=value`` assignments, applied in order.
        source: what the errors call the document.
        text: the TOML text, so that errors can name lines.
        context: pydantic's validation context (``slots.STORED``).

    Raises:
        RecipeError: every problem.
    """
    tree = json.loads(_as_json(tree, source))
    given = list(overrides)
    for assignment in given:
        override(tree, assignment, model)
    tree = meant(model, tree)
    if issubclass(model, Section):
        tree, found = model.completed(tree)
        if found:
            raise RecipeError(
                [f"{_place(key, given, text)}{key}: {what}" for key, what in found.items()], source=source
            )
    try:
        return model.model_validate_json(_as_json(tree, source), context=context)
    except ValidationError as error:
        raise RecipeError(problems_of(error, model, tree, given, text), source=source) from None


def problems_of(
    error: ValidationError, model: type[BaseModel], tree: Any, overrides: Sequence[str] = (), text: str = ""
) -> list[str]:
    """Every problem that pydantic found in a document, each "where: key path: what is wrong; what to do".

    Args:
        error: what pydantic raised.
        model: the class of the document.
        tree: its values, as TOML or JSON gives them.
        overrides: the ``key.path=value`` assignments that were applied, so that a problem can name its own.
        text: the TOML text, so that a problem can name its line.
    """
    found = []
    for item in error.errors(include_url=False):
        path, what = _problem(model, tree, item)
        told = [f"{path}: {what}"] if path else what.splitlines()  # of the whole document: each names its own path
        found += [f"{_place(_path_in(problem), overrides, text)}{problem}" for problem in told]
    return found


def _as_json(tree: Any, source: str) -> str:
    def as_text(value: Any) -> str:
        if isinstance(value, _TIMES):  # `name = 2024-11-05` without quotes
            return value.isoformat()
        raise RecipeError([f"holds a {type(value).__name__} ({value}), which no key takes"], source=source)

    try:
        return json.dumps(_bounded(tree), default=as_text)
    except RecursionError:
        raise RecipeError(["is nested too deeply to be a recipe"], source=source) from None
    except OverflowError:
        raise RecipeError(["holds an integer that is larger than any number a key takes"], source=source) from None


def _bounded(value: Any) -> Any:
    """A tree whose integers beyond 64 bits are floats, as keys that take them want them: no later sum is too large.

    OverflowError: one is no float either.
    """
    if isinstance(value, dict):
        return {key: _bounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_bounded(item) for item in value]
    return float(value) if isinstance(value, int) and abs(value) >= INTEGERS else value


def _path_in(problem: str) -> str:
    """The key path that a problem begins with; of a study's recipe ``recipe: train.batch: ...`` both together."""
    found = re.match(r"([A-Za-z0-9_.-]+: )+", problem)
    return ".".join(found[0].split(": ")[:-1]) if found else problem.partition(":")[0]


def _problem(model: type[BaseModel], tree: Any, error: Any) -> tuple[str, str]:
    """Key path and words of one error; "" and one line a problem where it is the whole document's."""
    loc = [piece for piece in error["loc"] if not (isinstance(piece, str) and piece.startswith(("function-", "[key]")))]
    path, kind, given = ".".join(str(piece) for piece in loc), error["type"], error.get("input")
    if kind == "extra_forbidden":
        return path, f"no such key; {_remedy(model, tree, loc)}"
    message = words(error)
    if kind in TELLING or kind.startswith(("slot_", "json_")) or (kind == "value_error" and not isinstance(given, str)):
        return path, message
    if kind.startswith("int_") and isinstance(given, float) and abs(given) >= INTEGERS:
        message = f"should be below {INTEGERS}"
    message += f", got {form_of(given)}"
    if kind == "string_type":
        message += "; put it in quotes" if not isinstance(given, dict | list) else ""
    if kind == "model_type" and (example := getattr(_table_at(model, tree, loc), "example", "")):
        message += f"; e.g. {path.rpartition('.')[2]} = {example}"
    return path, message


def _remedy(model: type[BaseModel], tree: Any, loc: Sequence[Any]) -> str:
    """What to write instead of an unknown key: where the key is legal, or the nearest legal one."""
    key, above = str(loc[-1]), ".".join(map(str, loc[:-1]))
    if key.isdigit() and above:
        return f"{above} is a table, not a list: leave .{key} out"
    legal = _keys_at(model, tree, loc[:-1])
    deeper = [] if key in registry.SLOTS else list(_paths_to(key, model, tree, list(loc[:-1])))
    if deeper:
        listed = f"legal {f'in {above}' if above else 'here'}: {', '.join(sorted(legal))}"
        return f"did you mean {' or '.join(deeper)}? ({listed})"
    return nearest(key, legal)


def _paths_to(key: str, model: type[BaseModel], tree: Any, above: list[Any], depth: int = 3) -> Iterator[str]:
    """Paths at which the document's tables below ``above`` take ``key``, also by its initials (``wd``)."""
    table = _table_at(model, tree, above)
    for name, field in (table.model_fields if table is not None and depth else {}).items():
        inner = _table_at(model, tree, [*above, name])
        if inner is None or (get_origin(field.annotation) in (dict, tuple) and not _described(field)):
            continue
        for own in inner.model_fields:
            if own == key or "".join(piece[0] for piece in own.split("_") if "_" in own) == key:
                yield ".".join(map(str, [*above, name, own]))
        yield from _paths_to(key, model, tree, [*above, name], depth - 1)


def _keys_at(model: type[BaseModel], tree: Any, loc: Sequence[Any]) -> list[str]:
    """Legal keys of the table at ``loc``."""
    table = _table_at(model, tree, loc)
    if table is None:
        return []
    return (["name"] if issubclass(table, Part) else []) + list(table.model_fields)


def _table_at(model: type[BaseModel], tree: Any, loc: Sequence[Any]) -> type[BaseModel] | None:
    """The class of the table at ``loc``, following slots to the part that the tree names there, or the default one."""
    table: type[BaseModel] | None = model
    inner: type[BaseModel] | None = None
    slot = ""
    for piece in loc:
        default = None
        if isinstance(piece, str):  # an index belongs to the field before it
            field = _field_of(table, piece)
            slot, inner, default = _slot_of(field), _model_of(field), _default_part(field)
        try:
            tree = tree[piece]
        except (LookupError, TypeError):
            tree = default
        if not isinstance(tree, list):
            table = _named_part(slot, tree) if slot else inner
    return table


def _named_part(slot: str, value: Any) -> type[Part] | None:
    name = value.get("name") if isinstance(value, dict) else value
    try:
        return registry.get(slot, name) if isinstance(name, str) else None
    except UsageError:
        return None


def _field_of(table: type[BaseModel] | None, key: str) -> Any:
    return table.model_fields.get(key) if table is not None else None


def _default_of(field: Any) -> Any:
    """What a key that is left out stands for, so that a change below it has something to change: a part, a list."""
    default = getattr(field, "default", None)
    return _default_part(field) or (list(default) if isinstance(default, tuple) else None)


def _default_part(field: Any) -> dict[str, str] | list[str] | None:
    """The default of a slot as its shortest table, of a list of parts as their names."""
    default = getattr(field, "default", None)
    if _slot_of(field) and isinstance(default, tuple):
        return [part.name if isinstance(part, Part) else part for part in default]
    name = default.name if isinstance(default, Part) else default
    return {"name": name} if _slot_of(field) and isinstance(name, str) else None


def _classes(annotation: Any) -> list[type]:
    inner = [cls for argument in getattr(annotation, "__args__", ()) for cls in _classes(argument)]
    return ([annotation] if isinstance(annotation, type) else []) + inner


def _described(field: Any) -> type[BaseModel] | None:
    return next((mark.document for mark in getattr(field, "metadata", ()) if isinstance(mark, Describes)), None)


def _model_of(field: Any) -> type[BaseModel] | None:
    if described := _described(field):
        return described
    return next((cls for cls in _classes(getattr(field, "annotation", None)) if issubclass(cls, BaseModel)), None)


def _slot_of(field: Any) -> str:
    cls = _model_of(field)
    return cls.slot if cls is not None and issubclass(cls, Part) else ""


def _place(path: str, overrides: Sequence[str], text: str) -> str:
    """Where a key stands: "override ...: " or "line N: ", as far as it can be found.

    A line is looked for by two patterns, of a table's header and of a key. Those within inline tables, and arrays of
    tables, are not seen: then it is the line of the nearest key or table around.
    """
    targets = [(assignment.partition("=")[0].strip(), assignment) for assignment in reversed(overrides)]
    around = [assignment for target, assignment in targets if f"{path}.".startswith(f"{target}.")]
    within = [assignment for target, assignment in targets if target.startswith(f"{path}.")]
    for assignment in around or within:  # the last one that set it: those before it were replaced
        return f"override {assignment if assignment.isprintable() else ascii(assignment)}: "
    table: list[str] = []
    best = ""
    listed: dict[str, int] = {}  # how many entries of each list of tables have begun
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[(\[)?([^\[\]]+)\]", line):
            table = [piece.strip(" \"'") for piece in header[2].split(".")]
            if header[1]:
                listed[header[2]] = listed.get(header[2], -1) + 1
                table.append(str(listed[header[2]]))
            here = ".".join(table)
        elif key := re.match(r"\s*([A-Za-z0-9_\-.\"']+)\s*=", line):
            here = ".".join([*table, key[1].strip("\"'")])
        else:
            continue
        if here == path:
            return f"line {number}: "
        if path.startswith(f"{here}."):
            best = f"line {number}: "
    return best
