"""How a recipe holds a part: a field that accepts ``"name"``, ``{name = "...", ...}`` or the part itself."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, SerializeAsAny, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError

from . import protocols, registry
from .documents import NONE, meant
from .errors import UsageError
from .registry import Part
from .toml import validated, value_of

P = TypeVar("P", bound=Part)


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


def part_from(slot: str, text: str) -> Part:
    """The part that a command line names: ``sample``, or a TOML table as ``{name = "sample", top_k = 5}``.

    Raises:
        RecipeError: every problem of it.
    """
    base = next(cls for cls in Part.__subclasses__() if cls.slot == slot)
    field: Any = (Annotated[base, BeforeValidator(partial(resolve, slot))], ...)
    choice = create_model("Choice", **{slot: field})
    found: Part = getattr(validated(choice, {slot: value_of(text)}, source="command line"), slot)
    return found


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
    """The schema with each slot's field ({"type": slot}, since pydantic knows no references but its own) as a reference.

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


if TYPE_CHECKING:  # to a type checker a slot's field simply is the slot's base class
    SourceSlot = protocols.SourcePart
    TokenizerSlot = protocols.TokenizerPart
    ModelSlot = protocols.ModelPart
    MixerSlot = protocols.MixerPart
    FeedForwardSlot = protocols.FeedForwardPart
    ObjectiveSlot = protocols.ObjectivePart
    OptimizerSlot = protocols.OptimizerPart
    ScheduleSlot = protocols.SchedulePart
    AveragingSlot = protocols.AveragingPart
    DecoderSlot = protocols.DecoderPart
    MetricSlot = protocols.MetricPart
else:

    def _field(base: type[P]) -> Any:
        slot = base.slot
        return Annotated[
            SerializeAsAny[base],
            BeforeValidator(lambda value, info: resolve(slot, value, info.context)),
            WithJsonSchema({"type": slot}),
        ]

    SourceSlot = _field(protocols.SourcePart)
    TokenizerSlot = _field(protocols.TokenizerPart)
    ModelSlot = _field(protocols.ModelPart)
    MixerSlot = _field(protocols.MixerPart)
    FeedForwardSlot = _field(protocols.FeedForwardPart)
    ObjectiveSlot = _field(protocols.ObjectivePart)
    OptimizerSlot = _field(protocols.OptimizerPart)
    ScheduleSlot = _field(protocols.SchedulePart)
    AveragingSlot = _field(protocols.AveragingPart)
    DecoderSlot = _field(protocols.DecoderPart)
    MetricSlot = _field(protocols.MetricPart)
