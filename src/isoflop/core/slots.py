"""How a recipe holds a part: a field that accepts ``"name"``, ``{name = "...", ...}`` or the part itself."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, GetCoreSchemaHandler, TypeAdapter, create_model
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from . import contracts, registry
from .documents import NONE, meant
from .errors import UsageError
from .registry import Part
from .tokenizer import TokenizerPart
from .toml import override, validated, value_of

STORED = {"stored": True}
"""Validation context of a recipe that was stored: its parts may be older versions of themselves."""


def resolve(slot: str, value: Any, context: Any = None) -> Part:
    """The part that ``value`` describes; problems are pydantic errors ("slot_..."), so they join the one report.

    Args:
        slot: the slot that it fills.
        value: a part, a part's name, or a table with the key ``name``; a key ``version`` says which version of the part
            is meant, in a stored recipe version 1 where it is absent.
        context: ``STORED`` where older versions are taken; otherwise only today's version is.
    """
    if isinstance(value, Part):
        if value.slot != slot:
            raise PydanticCustomError("slot_other", f"{value.name} is a part of slot {value.slot}, not {slot}")
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict):
        raise PydanticCustomError("slot_form", f"should be the name of a {slot} or a table with a key 'name'")
    if not isinstance(value.get("name"), str):
        raise PydanticCustomError("slot_name", f"lacks its key 'name' (legal: {', '.join(registry.names(slot))})")
    try:
        cls = registry.get(slot, value["name"])
    except UsageError as error:  # braces are pydantic's templates
        raise PydanticCustomError("slot_unknown", str(error).replace("{", "(").replace("}", ")")) from None
    fields = {key: content for key, content in value.items() if key not in ("name", "version")}
    part = cls.model_validate_json(json.dumps(meant(cls, fields)), context=context)  # its errors keep their places
    version = value.get("version", 1 if context == STORED else part.current_version())
    if not isinstance(version, int) or not 1 <= version <= max(cls.version, part.current_version()):
        raise PydanticCustomError("slot_version", f"{cls.name} has no version {version!r}; leave the key out")
    version = min(version, part.current_version())  # what came later changed nothing with these hyper-parameters
    if version != part.current_version() and context != STORED:
        now = part.current_version()
        what = f"version {version} of {cls.name} computed other numbers than today's, which is {now}"
        raise PydanticCustomError("slot_version", f"{what}; leave the key out to take today's")
    return part.stored(version)


def part_from(slot: str, text: str, *changes: str) -> Part:
    """The part that a command line names: ``sample``, or a TOML table as ``{name = "sample", top_k = 5}``.

    Args:
        slot: the slot that it fills.
        text: its name or table.
        changes: ``field=value``, after that.

    Raises:
        RecipeError: every problem of it.
    """
    field: Any = (Annotated[base_of(slot), _Slot()], ...)
    choice = create_model("Choice", **{slot: field})
    tree = {slot: value_of(text)}
    for change in changes:
        override(tree, f"{slot}.{change}", choice)
    found: Part = getattr(validated(choice, tree, source="command line"), slot)
    return found


def base_of(slot: str) -> type[Part]:
    """The class that every part of a slot derives from. Imports a part where it lies outside ``core``."""
    known = next((cls for cls in _bases(Part) if cls.slot == slot), None)
    return known or next(cls for cls in registry.get(slot, registry.names(slot)[0]).__mro__[::-1] if _fills(cls, slot))


def _fills(cls: type, slot: str) -> bool:
    return issubclass(cls, Part) and cls.slot == slot


def purpose(slot: str) -> str:
    """What a slot's parts are for, in one sentence: the first one of their base class."""
    return re.split(r"(?<=[.])\s", opening(inspect.getdoc(base_of(slot))))[0]


def opening(doc: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((doc or "").split("\n\n")[0].split())


def _bases(cls: type[Part]) -> Iterator[type[Part]]:
    """Every class derived from ``cls`` that is imported, the general ones first."""
    for derived in cls.__subclasses__():
        yield derived
        yield from _bases(derived)


def schema_of(slot: str) -> dict[str, Any]:
    """JSON schema of a slot: its names, or one of its parts' tables. Imports every part of the slot."""
    tables = []
    for name in registry.names(slot):
        table = registry.get(slot, name).model_json_schema()
        table["properties"] = {"name": {"const": name}, "version": {"type": "integer"}, **table.get("properties", {})}
        table["required"] = ["name", *table.get("required", [])]
        tables.append(table)
    return {"anyOf": [{"enum": registry.names(slot)}, *tables]}


def schema_document(model: type[BaseModel]) -> dict[str, Any]:
    """The whole JSON schema of a model whose fields are slots: every slot with every part. Imports all parts."""
    schema = model.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    for slot in registry.SLOTS:
        table = schema_of(slot)
        for option in table["anyOf"]:
            definitions.update(option.pop("$defs", {}))
        definitions[f"slot_{slot}"] = table
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_linked(schema)}


def _linked(schema: Any) -> Any:
    """The schema with a reference wherever a slot's field says {"type": slot}; pydantic knows no others than its own.

    Null becomes "none", as a document says it.
    """
    if isinstance(schema, list):
        return [_linked(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema == {"type": "null"}:
        return {"const": NONE}
    if isinstance(schema.get("type"), str) and schema["type"] in registry.SLOTS:
        rest = {key: value for key, value in schema.items() if key != "type"}
        return {"$ref": f"#/$defs/slot_{schema['type']}", **rest}
    return {key: _linked(value) for key, value in schema.items()}


class _Slot:
    """Marks a field that holds a part: ``Annotated[SourcePart, _Slot()]`` takes a name, a table or a part."""

    def __get_pydantic_core_schema__(self, base: type[Part], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            lambda value, info: resolve(base.slot, value, info.context),
            serialization=core_schema.simple_ser_schema("any"),
            metadata={"pydantic_js_functions": [lambda schema, handler: {"type": base.slot}]},
        )


class _Tiled:
    """Marks a field that holds a part, or a list of them that repeats over a model's layers, as a tuple.

    A list of one part is that part: one meaning, one hash.
    """

    def __get_pydantic_core_schema__(self, kinds: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        base: type[Part] = next(kind for kind in get_args(kinds) if isinstance(kind, type) and issubclass(kind, Part))
        listed: TypeAdapter[Any] = TypeAdapter(Annotated[tuple[Annotated[base, _Slot()], ...], Field(min_length=1)])  # type: ignore[valid-type,arg-type]

        def read(value: Any, context: Any) -> Any:
            if not isinstance(value, list | tuple):
                return resolve(base.slot, value, context)
            found = listed.validate_python(value, context=context)  # its errors keep their places
            return found[0] if len(found) == 1 else found

        one = {"type": base.slot}
        schema = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
        return core_schema.with_info_plain_validator_function(
            lambda value, info: read(value, info.context),
            serialization=core_schema.simple_ser_schema("any"),
            metadata={"pydantic_js_functions": [lambda _, __: schema]},
        )


class _Ordered(_Slot):
    """Marks a field that holds a part, or a list of them in order, which is the part ``composed``; of one, that one."""

    def __get_pydantic_core_schema__(self, base: type[Part], handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any, context: Any) -> Any:
            if isinstance(value, list | tuple) and len(value) != 1:
                value = {"name": "composed", "parts": list(value)}
            return resolve(base.slot, value[0] if isinstance(value, list | tuple) else value, context)

        one = {"type": base.slot}
        schema = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
        return core_schema.with_info_plain_validator_function(
            lambda value, info: read(value, info.context),
            serialization=core_schema.simple_ser_schema("any"),
            metadata={"pydantic_js_functions": [lambda _, __: schema]},
        )


SourceSlot = Annotated[contracts.SourcePart, _Slot()]
TaskSlot = Annotated[contracts.TaskPart, _Slot()]
TokenizerSlot = Annotated[TokenizerPart, _Slot()]
ModelSlot = Annotated[contracts.ModelPart, _Slot()]
MixerSlot = Annotated[contracts.MixerPart, _Slot()]
MixersSlot = Annotated[contracts.MixerPart | tuple[contracts.MixerPart, ...], _Tiled()]
NormSlot = Annotated[contracts.NormPart, _Slot()]
ArrangementSlot = Annotated[contracts.ArrangementPart, _Slot()]
PositionSlot = Annotated[contracts.PositionPart, _Slot()]
PatternSlot = Annotated[contracts.Pattern, _Slot()]
FeedForwardSlot = Annotated[contracts.FeedForwardPart, _Slot()]
FeedForwardsSlot = Annotated[contracts.FeedForwardPart | tuple[contracts.FeedForwardPart, ...], _Tiled()]
ObjectiveSlot = Annotated[contracts.ObjectivePart, _Slot()]
OptimizerSlot = Annotated[contracts.OptimizerPart, _Slot()]
ScheduleSlot = Annotated[contracts.SchedulePart, _Slot()]
ParametrizationSlot = Annotated[contracts.ParametrizationPart, _Slot()]
ParametrizationsSlot = Annotated[contracts.ParametrizationPart, _Ordered()]
AveragingSlot = Annotated[contracts.AveragingPart, _Slot()]
MetricSlot = Annotated[contracts.MetricPart, _Slot()]
TransformSlot = Annotated[contracts.TransformPart, _Slot()]
DecoderSlot = Annotated[contracts.DecoderPart, _Slot()]
