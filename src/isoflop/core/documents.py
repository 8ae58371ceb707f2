"""The classes behind what users write and what is stored: immutable, strict, with one way to say "nothing".

``Frozen`` is the base of everything that is read from TOML or JSON. ``Section`` is a table of a document that users
write (a recipe, a study, a part's hyper-parameters); what it adds is how values are written back, and ``meant`` is how
they are read:

* ``"none"`` is the value ``None`` of every key that can have none, since TOML has no word for it;
* a whole float (``1e6``) is a whole number where only whole numbers are taken;
* a field marked ``Later`` stays out of the written document at its default, so that documents written before the field
  existed keep their hash.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import CoreSchema, core_schema

INTEGERS = 2**63
"""Whole numbers of a document are smaller (TOML's are 64 bits wide); larger ones are floats."""
NONE = "none"
"""How a document says that a key has no value."""


class Later:
    """Marks a field that was added after runs had been stored: ``isolate: Annotated[bool, Later()] = False``.

    Its default must mean "as before the field existed", and must never change: at its default the field is not written,
    so the hash of every older recipe stays what it was. Changed numbers are a new ``version`` of their part instead.
    """


@dataclass(frozen=True)
class Describes:
    """Marks a field that holds the tree of another kind of document: ``Annotated[dict[str, Any], Describes(Recipe)]``.

    Overrides and errors then know its keys; what is wrong in it is still found by whoever builds that document.

    Example:
        >>> Describes(Section).document.__name__
        'Section'
    """

    document: type[Section]


@dataclass(frozen=True)
class Worded:
    """Marks text that must match a pattern as a whole: ``Annotated[str, Worded("[a-z]+", "should be letters")]``.

    What does not match is told in words, never by the pattern.

    Example:
        >>> letters = Worded("[a-z]+", "should be letters")
        >>> letters.what
        'should be letters'
    """

    pattern: str
    what: str

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(kind))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _check(self, text: str) -> str:
        if re.fullmatch(self.pattern, text) is None:
            raise ValueError(self.what)
        return text


class Frozen(BaseModel):
    """Base of everything that is written in a recipe or stored as JSON: immutable, strict, no unknown keys, no NaN."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )


class Section(Frozen):
    """A table of a document that users write. See the module's docstring for what it adds to ``Frozen``."""

    example: ClassVar[str] = ""
    """Such a table as TOML, for errors about what is none."""

    def header(self) -> dict[str, Any]:
        """Keys that are written before the fields; a part writes its name."""
        return {}

    @classmethod
    def completed(cls, tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The document's tree with what follows from it, and problems of that by key path; done before validating."""
        return tree, {}

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree = handler(self)
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if any(isinstance(mark, Later) for mark in field.metadata) and _stands_for(value, field.default):
                tree.pop(name, None)
            elif value is None and field.default is not None:
                tree[name] = NONE
        return {**self.header(), **tree}


def _stands_for(value: Any, default: Any) -> bool:
    """Whether a field's value is its default; a part's default is its name and stands for all of its defaults."""
    if isinstance(value, Section) and isinstance(default, str):
        return value.header() == {"name": default} and value == type(value)()
    return bool(value == default)


def meant(annotation: Any, value: Any) -> Any:
    """What ``value``, as TOML or JSON gives it, means to a field of type ``annotation``; to be done before validating.

    It goes down into tables and lists, but not into parts, whose class only their name tells (``slots.resolve``).
    """
    kinds = kinds_of(annotation)
    if value == NONE and type(None) in kinds:
        return None
    if (
        isinstance(value, float)
        and value.is_integer()
        and abs(value) < INTEGERS
        and int in kinds
        and float not in kinds
    ):
        return int(value)
    if isinstance(value, list):
        items = [get_args(kind)[0] for kind in kinds if get_origin(kind) in (tuple, list)]
        return [meant(items[0], item) for item in value] if items else value
    if isinstance(value, dict):
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                fields = kind.model_fields
                return {key: meant(fields[key].annotation, v) if key in fields else v for key, v in value.items()}
            if get_origin(kind) is dict:
                return {key: meant(get_args(kind)[1], v) for key, v in value.items()}
    return value


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths and values of all that is no table."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, tree


def takes_text(annotation: Any, value: Any) -> bool:
    """Whether a field of type ``annotation`` takes free text but not a value like ``value`` (a number, a boolean)."""
    kinds = kinds_of(annotation)
    return str in kinds and type(value) not in kinds and not (isinstance(value, int) and float in kinds)


def kinds_of(annotation: Any) -> set[Any]:
    """The alternatives of a type, its annotations taken off: ``PositiveInt | None`` gives ``{int, NoneType}``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kinds_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*(kinds_of(choice) for choice in get_args(annotation)))
    return {Literal} if origin is Literal else {annotation}
