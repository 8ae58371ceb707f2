"""Verbs that say what there is: show, schema."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core import registry
from ..core.reading import user_path
from ..core.slots import purpose
from .app import app
from .common import Json, emit
from .formats import FORMATS, show_format

if TYPE_CHECKING:
    from ..core.registry import Part


@app.command()
def show(
    slot: Annotated[
        str | None, typer.Argument(help="A slot, e.g. optimizer; recipe or study: what is shipped; none: all slots.")
    ] = None,
    part: Annotated[str | None, typer.Argument(help="A part of it; none: all.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write every card to this file.", parser=user_path, metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Show the slots, the parts in them, and what a part says of itself."""
    if markdown is not None:
        from ..core.files import write_atomic

        write_atomic(markdown, _all_cards())
        typer.echo(str(markdown))
        return
    if slot is None:
        if json:
            emit({name: registry.names(name) for name in registry.SLOTS})
            return
        width = max(map(len, registry.SLOTS))
        for name in registry.SLOTS:
            typer.echo(f"{name:<{width}}  {purpose(name)}\n{'':<{width}}  {', '.join(registry.names(name))}")
        return
    if slot in FORMATS:
        said = show_format(slot, part)
        emit({slot: said}) if json else typer.echo(said)
        return
    chosen = [part] if part is not None else registry.names(slot)
    facts = [_facts(registry.get(slot, name)) for name in chosen]
    if json:
        emit(facts[0] if part is not None else facts)
        return
    typer.echo(f"{slot}: {purpose(slot)}\n")
    for fact in facts:
        _print(fact)


@app.command()
def schema(
    study: Annotated[bool, typer.Option("--study", help="The schema of a study instead of a recipe.")] = False,
) -> None:
    """Print the JSON schema of recipes, for editors that check TOML while you type."""
    if study:
        from ..lab.study import json_schema
    else:
        from ..core.recipe import json_schema
    typer.echo(dumps(json_schema(), indent=1))


def _facts(part: type[Part]) -> dict[str, Any]:
    properties = part.model_json_schema()["properties"] if part.model_fields else {}
    fields = {
        name: {
            "type": _type(properties[name]),
            **({"default": _plain(field.default)} if not field.is_required() else {}),
            "meaning": field.description or "",
        }
        for name, field in part.model_fields.items()
    }
    return {
        "slot": part.slot,
        "name": part.name,
        **part.card.model_dump(),
        "fields": fields,
        "search": {name: list(grid) for name, grid in part.search.items()},
        "provides": _provided(part),
        "needs": {slot: _named(wanted) for slot, wanted in part.needs.items()},
    }


def _provided(part: type[Part]) -> list[str] | None:
    """Capabilities of the part with its defaults; None where they depend on keys that have none."""
    if not any(field.is_required() for field in part.model_fields.values()):
        return _named(part().abilities)
    return _named(part.provides) if part.abilities is registry.Part.abilities else None


def _named(capabilities: Iterable[type]) -> list[str]:
    return sorted(kind.__name__ for kind in capabilities)


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    return str(schema.get("type", schema.get("$ref", "any").rpartition("/")[2].removeprefix("slot_")))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


_LINES = ("paper", "equation", "defaults", "differs", "cost")


def _print(fact: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text.assemble((f"{fact['slot']} {fact['name']}", "bold"), f"  {fact['summary']}"))
    for line in _LINES:
        if fact[line]:
            console.print(Text.assemble((f"  {line:<9}", "dim"), f" {fact[line]}"))
    for name, field in fact["fields"].items():
        default = f" = {field['default']}" if "default" in field else ""
        grid = fact["search"].get(name)
        tried = f"  tuned over {', '.join(f'{v:g}' for v in grid)}" if grid else ""
        console.print(Text.assemble(f"  {name}: {field['type']}{default}  {field['meaning']}", (tried, "dim")))
    console.print()


def _all_cards() -> str:
    """Every part's card as Markdown; generated, never edited by hand."""
    pages = ["# Method cards\n\nWritten by `make docs` from the parts themselves.\n"]
    for slot in registry.SLOTS:
        pages.append(f"## {slot}\n\n{purpose(slot)}\n")
        for name in registry.names(slot):
            fact = _facts(registry.get(slot, name))
            lines = [f"### {name}\n", f"{fact['summary']}\n"]
            lines += [f"- {line}: {fact[line]}" for line in _LINES if fact[line]]
            for field, about in fact["fields"].items():
                default = f" = `{about['default']}`" if "default" in about else ""
                lines.append(f"- `{field}`: {about['type']}{default}. {about['meaning']}")
            pages.append("\n".join(lines) + "\n")
    return "\n".join(pages)
