"""Options that several verbs share, and how they find runs."""

from __future__ import annotations

import json
import os
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError
from ..core.files import jsonable
from ..core.reading import user_path

if TYPE_CHECKING:
    from ..store.run import Run

Root = Annotated[
    Path,
    typer.Option(
        "--root",
        help="Directory of runs, studies and caches.",
        envvar="ISOFLOP_ROOT",
        parser=user_path,
        metavar="DIRECTORY",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, e.g. optimizer=muon optimizer.lr=0.01")]
DEFAULT_ROOT = Path("runs")


def path_argument(help: str) -> Any:
    """An argument that is a path, in which ``~`` is a home directory."""
    return typer.Argument(help=help, parser=user_path, metavar="PATH")


def find_run(name: str, root: Path, what: str = "run") -> Run:
    """The run that ``name`` means: its directory, or its name, hash or a beginning of either, below ``root``.

    ``what`` is said to be missing where there is none.
    """
    from ..store.run import Run

    own = user_path(name)
    if os.path.lexists(own / "resolved.json"):
        return Run.read(own)
    found = [path.parent for path in sorted(root.glob("*/resolved.json"))]
    hits = [path for path in found if path.name == name] or [
        path for path in found if path.name.startswith(name) or path.name.rpartition("-")[2].startswith(name)
    ]
    if len(hits) == 1:
        return Run.read(hits[0])
    names = [path.name for path in found]
    if not hits:
        close = [f"did you mean {near}?" for near in get_close_matches(name, names, n=1)]
        fix = " ".join([*close, f"`isoflop runs --root {root}` lists all"])
        raise UsageError(f"no {what} is named {name!r}", where=str(root), fix=fix)
    raise UsageError(f"{name!r} means {len(hits)} runs", where=str(root), fix=f"({', '.join(p.name for p in hits)})")


def emit(value: Any) -> None:
    """Print one JSON object for machines: missing numbers are null, what the output's encoding lacks is escaped."""
    value = jsonable(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    typer.echo(text)
