"""What was measured once, remembered in JSON files beside the runs so that it need not be measured again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ..core.errors import DataError
from ..core.files import write_json
from ..core.reading import read_json
from .environment import cpu_model
from .names import MACHINE

T = TypeVar("T")


def once(path: Path, key: str, kind: type[T], make: Callable[[], T]) -> T:
    """The value of ``key`` in the JSON object at ``path``, of type ``kind``; made and stored there the first time.

    A file that is missing or broken, or that holds something else there, is as good as none. A value that is nothing
    (0, empty) is not stored.

    Args:
        path: the JSON file.
        key: of the value.
        kind: its type; a value of another type is made anew.
        make: makes it.

    Example:
        >>> once(Path("facts.json"), "cores", int, lambda: 2), once(Path("facts.json"), "cores", int, lambda: 3)
        (2, 2)
    """
    form: TypeAdapter[T] = TypeAdapter(kind)
    with suppress(KeyError, ValueError):
        return form.validate_python(_known(path)[key])
    value = make()
    if value:
        write_json(path, {**_known(path), key: form.dump_python(value, mode="json")})
    return value


def remembered(root: Path, what: str, measure: Callable[[], float], *, threads: int, device: str = "cpu") -> float:
    """The value of ``what`` (such as "largest matmul rate fp32", FLOP/s) on this processor with so many threads.

    Measured by ``measure()`` the first time, then read from ``<root>/machine.json``; delete that file to measure anew.
    Where the measurement gives 0, nothing is known now, and the next one who asks measures again.

    Args:
        root: directory of runs.
        what: what is measured, with its unit.
        measure: measures it.
        threads: that the measurement uses.
        device: "cpu", "cuda" ...

    Example:
        >>> remembered(Path("runs"), "matmul rate, FLOP/s", lambda: 5e10, threads=1)
        50000000000.0
        >>> remembered(Path("runs"), "matmul rate, FLOP/s", lambda: 9e10, threads=1)
        50000000000.0
    """
    return once(root / MACHINE, _key(what, threads, device), float, measure)


def forget(root: Path, what: str, *, threads: int, device: str = "cpu") -> None:
    """Let what ``remembered`` keeps be measured anew the next time: something has shown it to be wrong."""
    path, key = root / MACHINE, _key(what, threads, device)
    known = _known(path)
    if key in known:
        write_json(path, {name: value for name, value in known.items() if name != key})


def _key(what: str, threads: int, device: str) -> str:
    return f"{what} | {cpu_model() if device == 'cpu' else device} | {threads} threads"


def _known(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = read_json(path, dict[str, Any])
    except DataError:
        return {}
    return known
