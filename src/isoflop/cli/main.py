"""``isoflop VERB``: the verbs, and what happens to errors."""

from __future__ import annotations

import os
import sys
from contextvars import copy_context
from json import dumps
from typing import Any

import typer

from ..core.errors import DataError, IsoflopError, Stopped, UsageError, trace
from .app import app
from .streams import secure_streams

# isort: off
from . import studies, watch, training, generate, serve, doors, pipelines, claims, runs, laws, multiplier  # noqa: F401
from . import plan, sizes, merge, compress, reference, formats, data, data_choosing, data_rephrasing  # noqa: F401  (each adds its verbs, in the order of the help)
# isort: on

_ClickException: Any = typer.BadParameter.__mro__[2]  # click's, wherever typer keeps it


def run(arguments: list[str] | None = None) -> None:
    """Entry point: errors of ours become one clear message and their exit code; no traceback without --debug."""
    secure_streams()
    sys.exit(invoke(arguments))


def invoke(arguments: list[str] | None = None) -> int:
    """Run the command line on ``arguments`` (default: sys.argv) and return its exit code."""
    try:
        # In a context of its own: what a verb sets (the root) must not outlive it where it is called from Python.
        result = copy_context().run(app, args=arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except IsoflopError as error:
        if not isinstance(error, Stopped):
            trace()
        _say(error, json="--json" in (sys.argv if arguments is None else arguments))
        return error.exit_code
    except _ClickException as error:
        error.show()
        return 2
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("stopped by ctrl-C", err=True)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `isoflop runs | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # what no part of the code could name better
        trace()
        where = str(error.filename or "")
        _say(DataError(f"the system refuses ({error.strerror or error})", where=where), json=False)
        return DataError.exit_code
    except MemoryError:
        trace()
        _say(UsageError("needs more memory than there is", fix="lower batch, length or the model's size"), json=False)
        return UsageError.exit_code
    except Exception as error:
        trace()
        typer.echo(f"error: unexpected {type(error).__name__}: {error}; run `isoflop --debug ...` for where", err=True)
        return 1


def _say(error: IsoflopError, *, json: bool) -> None:
    if json:
        typer.echo(dumps({"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}))
    if isinstance(error, Stopped):  # what the user asked for is no error
        typer.echo(str(error), err=True)
        return
    for line in str(error).splitlines():
        typer.secho(f"error: {line}", err=True, fg=typer.colors.RED)
