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

    A file that is missing or broken, or that holds something else there, is as good as none.
    """
    form: TypeAdapter[T] = TypeAdapter(kind)
    with suppress(KeyError, ValueError):
        return form.validate_python(_known(path)[key])
    value = make()
    write_json(path, {**_known(path), key: form.dump_python(value, mode="json")})
    return value


def remembered(root: Path, what: str, measure: Callable[[], float], *, threads: int, device: str = "cpu") -> float:
    """The value of ``what`` (such as "largest matmul rate fp32", FLOP/s) on this processor with so many threads.

    Measured by ``measure()`` the first time, then read from ``<root>/machine.json``; delete that file to measure anew.
    """
    key = f"{what} | {cpu_model() if device == 'cpu' else device} | {threads} threads"
    return once(root / MACHINE, key, float, measure)


def _known(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = read_json(path, dict[str, Any])
    except DataError:
        return {}
    return known
