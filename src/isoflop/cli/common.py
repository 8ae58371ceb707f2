"""Options that several verbs share, and how they find runs."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from ..core.files import jsonable
from ..core.reading import user_path

if TYPE_CHECKING:
    from ..store.run import Run

T = TypeVar("T")


def _below(root: Path) -> Path:
    """Let recipes look their references up below the same root."""
    from ..core.references import ROOT

    ROOT.set(root)
    return root


Root = Annotated[
    Path,
    typer.Option(
        "--root",
        help="Directory of runs, studies and caches.",
        envvar="ISOFLOP_ROOT",
        parser=user_path,
        metavar="DIRECTORY",
        callback=_below,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        help="Show it in tensorboard, wandb (offline) or trackio as well; may come again. Changes nothing of a run.",
        metavar="TRACKER",
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, e.g. optimizer=muon optimizer.lr=0.01")]
DEFAULT_ROOT = Path("runs")


def default_verb(name: str, *, bare: bool = False) -> type[TyperGroup]:
    """A group whose verb ``name`` need not be said: arguments that begin with none of its verbs are that one's.

    Args:
        name: of the verb.
        bare: whether no arguments at all are that verb's, too, rather than a mistake.
    """

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            said = args[0] in (*self.commands, "--help") if args else not bare
            return list(super().parse_args(ctx, args if said else [name, *args]))

    return Group


def path_argument(help: str) -> Any:
    """An argument that is a path, in which ``~`` is a home directory."""
    return typer.Argument(help=help, parser=user_path, metavar="PATH")


def find_run(name: str, root: Path, what: str = "run") -> Run:
    """The run that ``name`` means: its directory, or its name, hash or a beginning of either, below ``root``."""
    from ..store.references import find_run as find

    return find(name, root, what)


def find_result(name: str, root: Path) -> Path | None:
    """The directory of the study, pipeline or fit that ``name`` means: itself, or below ``root``; None if of none."""
    from ..store.fits import FIT
    from ..store.measured import TARGETS
    from ..store.pipelines import PIPELINE
    from ..store.results import STUDY

    return find_holding(name, root, FIT, STUDY, PIPELINE, TARGETS)


def find_holding(name: str, root: Path, *files: str) -> Path | None:
    """The directory that ``name`` means, itself or below ``root``, if it holds one of the files; else None."""
    places = (user_path(name), root / name)
    return next((place for place in places if any(os.path.lexists(place / file) for file in files)), None)


@contextmanager
def patience(doing: str, after: float = 2.0, every: float = 10.0) -> Iterator[None]:
    """While entered, say on standard error that work goes on, once it takes longer than ``after`` seconds.

    Args:
        doing: what is done, e.g. "fitting 261 rows".
        after: seconds of silence before the first line.
        every: seconds between lines.
    """
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        wait = after
        while not done.wait(wait):
            with suppress(OSError, ValueError):  # nobody listens any more
                typer.echo(f"{doing}: {time.monotonic() - began:.0f} s so far", err=True)
            wait = every

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


@contextmanager
def patience_until(doing: str, say: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """``patience`` that ends with the first call of what it gives: ``say``, which has news from then on."""
    with ExitStack() as silence:
        silence.enter_context(patience(doing))

        def news(told: T) -> None:
            silence.close()
            say(told)

        yield news


def say(text: str) -> None:
    """Print text; a line that is longer than the terminal goes on below, further in than it began."""
    from textwrap import TextWrapper

    from ..report.terminal import output

    width = output().width
    for line in text.splitlines():
        inner = " " * (len(line) - len(line.lstrip()) + 4)
        wrap = TextWrapper(width, subsequent_indent=inner, break_on_hyphens=False, break_long_words=False)
        typer.echo(wrap.fill(line) if len(line) > width else line)


def emit(value: Any) -> None:
    """Print one JSON object for machines: missing numbers are null, what the output's encoding lacks is escaped."""
    value = jsonable(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    typer.echo(text)
