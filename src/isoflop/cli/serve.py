"""The verb that lets others talk to models: serve."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import Stopped, UsageError, nearest
from ..core.reading import user_path
from .app import app
from .common import DEFAULT_ROOT, Root
from .training import Device, Threads, usable, use_threads, warn

if TYPE_CHECKING:
    from ..serve.room import Room
    from ..serve.served import ServedModel
    from ..train.restore import Trained

KEY = "ISOFLOP_API_KEY"


class _Limits(BaseModel):
    """What ``--limit name=value`` sets."""

    model_config = ConfigDict(extra="forbid")

    tokens: Annotated[int, Field(ge=2)] | None = None
    queue: Annotated[int, Field(ge=0)] = 256
    connections: Annotated[int, Field(ge=1)] = 64
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0
    idle: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    body: Annotated[int, Field(ge=1024)] = 2 << 20

    @classmethod
    def of(cls, given: list[str]) -> _Limits:
        """The limits with some of them changed."""
        known = cls.model_fields
        changes = {}
        for each in given:
            name, equals, value = each.partition("=")
            if name not in known or not equals:
                raise UsageError(f"no limit is set by {each!r}", where="--limit", fix=nearest(name, known))
            changes[name] = value
        try:
            return cls.model_validate(changes)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{first['loc'][0]}: {first['msg']}", where="--limit") from error


@app.command()
def serve(
    models: Annotated[list[str], typer.Argument(help="Runs or Hugging Face directories; NAME=RUN names one.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar=KEY, show_default=False, help="Clients must give it; best set by variable."),
    ] = None,
    slots: Annotated[int, typer.Option("--slots", min=1, max=1024, help="Sequences that grow together.")] = 16,
    context: Annotated[
        int | None, typer.Option("--context", min=2, help="Tokens of a sequence, prompt included; default: as trained.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="NAME=VALUE",
            help="tokens of all sequences in the cache, queue of sequences that wait, connections, seconds of a "
            "request, idle seconds of a connection, bytes of a body; repeatable.",
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="int8 computes with weights of 8 bits, on a CPU.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Serve models in OpenAI's protocol, on this machine alone unless --host says otherwise."""
    if weights not in (None, "int8"):
        raise UsageError(f"no weights are named {weights!r}", where="--weights", fix="use int8, or leave it out")
    try:
        from ..serve.app import Front, Limits
        from ..serve.server import Door, HttpServer
    except ModuleNotFoundError as error:
        fix = "pip install 'isoflop[serve]'"
        raise UsageError(f"the package {error.name} is missing", where="isoflop serve", fix=fix) from error
    limits = _Limits.of(limit or [])
    door = Door(host, port, limits.connections, limits.idle)
    use_threads(threads)
    with door.open() as opened:
        if not door.local and not api_key:
            warn(f"anybody who reaches {host} can use the models: set {KEY}")
        served = [
            _served(name, usable(place, root, device), weights, lambda found: _room(found, slots, context, limits))
            for name, place in _named(models).items()
        ]
        hosts = ("127.0.0.1", "localhost", "[::1]") if door.local else ()
        front = Front(served, Limits(body=limits.body, seconds=limits.seconds, hosts=hosts), api_key or None)
        server = HttpServer(front, door)
        for each in served:
            room = each.engine.room
            what = f"{room.rows} sequences of at most {room.context:,} tokens, {room.tokens:,} altogether"
            typer.echo(f"{each.name}: {what}")
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{opened.getsockname()[1]}/v1"
        server.run(opened, lambda: typer.echo(f"serving at {address}; ctrl-C ends it"))
    if server.signal is not None:
        raise Stopped(server.signal, where="after " + _done(served))


def _done(served: list[ServedModel]) -> str:
    new, read, flops = (
        sum(getattr(each.engine.tally, name) for each in served) for name in ("new_tokens", "prompt_tokens", "flops")
    )
    return f"writing {new:,} tokens and reading {read:,}, {flops:.3e} FLOPs"


def _named(models: list[str]) -> dict[str, str]:
    """The models by the names that clients use."""
    found: dict[str, str] = {}
    for each in models:
        name, equals, place = each.partition("=")
        name, place = (name, place) if equals and name and "/" not in name else ("", each)
        name = name or user_path(place).resolve().name
        if name in found:
            raise UsageError(f"two models are called {name!r}", where=each, fix="name one of them: NAME=RUN")
        found[name] = place
    return found


def _served(name: str, found: Trained, weights: str | None, room: Callable[[Trained], Room]) -> ServedModel:
    from ..core.registry import get
    from ..serve.served import serve_model

    if unmet := found.recipe.unmet(get("decoder", "sample")()):
        raise UsageError("; ".join(unmet), where=name, fix="serve another model")
    if found.ctx.filling is not None:
        what = "fills in what is hidden, and only what writes from left to right is served"
        raise UsageError(what, where=name, fix="isoflop generate writes with it")
    assert found.tokenizer is not None
    known = room(found)
    return serve_model(
        name,
        found.model,
        found.tokenizer,
        known,
        weights=weights,
        created=int(time.time()),
        fingerprint=f"fp_{found.recipe.hash[:12]}_{found.step}",
        choices=max(known.waiting, known.rows),
    )


def _room(found: Trained, slots: int, context: int | None, limits: _Limits) -> Room:
    from ..serve.room import Room

    length = context or found.reach
    if (known := getattr(found.recipe.model, "positions", None)) is not None and length > known:
        raise UsageError(f"the model has learned {known} positions", where="--context", fix=f"use at most {known}")
    if context is not None and context > found.reach:
        warn(f"{context:,} tokens are more than the {found.reach:,} that the model was trained on: expect worse text")
    tokens = limits.tokens or min(slots * length, _affordable(found))
    if tokens < length:
        warn(f"the cache has room for {tokens:,} tokens: no sequence may have more")
    return Room(rows=slots, context=min(length, tokens), tokens=tokens, waiting=limits.queue)


def _affordable(found: Trained) -> int:
    """Tokens whose keys and values take a quarter of the machine's memory."""
    from ..core.device import physical_memory

    mixers = [block.mixer for block in getattr(found.model, "blocks", [])]
    numbers: int = sum(2 * mixer.kv_heads * mixer.head_dim for mixer in mixers if hasattr(mixer, "kv_heads"))
    return max(1024, physical_memory() // 4 // (4 * max(1, numbers)))
