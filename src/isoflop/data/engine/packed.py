"""Reading and writing of packed files: gzip, zstd, Parquet and Arrow. The libraries of the extra `data` come here."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import DataError, UsageError, nearest
from ...core.files import publish_file
from ...core.reading import LARGEST, opened

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
"""Kinds of files that documents are written to."""
_EXTRA = "pip install 'isoflop[data]'"
_GROUP = 1 << 26  # bytes of text of a row group


def parquet_module(path: Path | str) -> Any:
    """``pyarrow.parquet``; UsageError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UsageError("needs pyarrow", where=str(path), fix=_EXTRA) from None
    return pyarrow.parquet


def zstd_module(path: Path | str) -> Any:
    """``zstandard``; UsageError if it is not installed."""
    try:
        import zstandard
    except ImportError:
        raise UsageError("needs zstandard", where=str(path), fix=_EXTRA) from None
    return zstandard


def packed_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Line number and bytes of every line of a gzip or zstd file; None for one that is too long.

    Raises:
        DataError: the file is damaged; says after which line.
    """
    number = 0
    broken: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    if path.name.endswith(("zst", "zstd")):
        broken = (*broken, zstd_module(path).ZstdError)
    with opened(path) as file:
        try:
            with _unpacking(file, path) as lines:
                while line := lines.readline(LARGEST + 1):
                    number += 1
                    if len(line) > LARGEST:
                        while line and not line.endswith(b"\n"):
                            line = lines.readline(LARGEST)
                        yield number, None
                    else:
                        yield number, line
        except broken as error:
            raise DataError(f"is damaged ({error}) after line {number}", where=str(path), fix="get it again") from error


def _unpacking(file: Any, path: Path) -> Any:
    if path.name.endswith(("zst", "zstd")):
        return io.BufferedReader(_Frames(file, zstd_module(path)), 1 << 20)
    return gzip.open(file, "rb")


class _Frames(io.RawIOBase):
    """What zstd frames hold, one after the other; the library's own stream ends silently where a file is cut off."""

    def __init__(self, file: Any, zstd: Any) -> None:
        self._file, self._new, self._ready = file, zstd.ZstdDecompressor().decompressobj, b""
        self._frame: Any = None  # the one that is not at its end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(1 << 17)
            if not data and self._frame is not None:
                raise EOFError("it ends within a frame")
            if not data:
                return 0
            pieces = []
            while data:
                self._frame = self._frame or self._new()
                pieces.append(self._frame.decompress(data))
                data = b""
                if self._frame.eof:
                    data, self._frame = self._frame.unused_data, None
            self._ready = b"".join(pieces)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


@contextlib.contextmanager
def table_errors(path: Path) -> Iterator[Any]:
    """Yield ``pyarrow``; what it finds damaged is a DataError."""
    parquet_module(path)
    import pyarrow as pa

    try:
        yield pa
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise DataError(f"is damaged ({str(error).splitlines()[0]})", where=str(path), fix="get it again") from error


def row_groups(path: Path) -> list[int]:
    """Bytes of each row group of a Parquet file, unpacked."""
    with table_errors(path):
        known = parquet_module(path).ParquetFile(path).metadata
        return [known.row_group(number).total_byte_size for number in range(known.num_row_groups)]


def unpacked(
    path: Path, kind: str, start: int, stop: int, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number from 1 and record of a Parquet file's row groups, or of an Arrow file.

    Args:
        path: the file.
        kind: "parquet" or "arrow".
        start: first row group.
        stop: the one after the last; -1: all.
        columns: those that are read, if the first of them is there; None: all.
    """
    with table_errors(path) as pa:
        number = 0
        if kind == "parquet":
            file = parquet_module(path).ParquetFile(path)
            number = sum(file.metadata.row_group(group).num_rows for group in range(start))
            groups = list(range(start, file.metadata.num_row_groups if stop < 0 else stop))
            names = file.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(f"has two columns {twice[0]!r}", where=str(path), fix="name each column once")
            known = _projected(columns, names)
            batches = file.iter_batches(batch_size=1024, row_groups=groups, columns=known)
        else:
            batches = _arrow(pa, path, columns)
        for batch in batches:
            for record in batch.to_pylist():
                number += 1
                yield number, record


def _projected(columns: Sequence[str] | None, known: Sequence[str]) -> list[str] | None:
    """The columns to read; None for all, also where the wanted text is missing, so that an error can list them."""
    if columns is None or columns[0] not in known:
        return None
    return [name for name in dict.fromkeys(columns) if name in known]


def _arrow(pa: Any, path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    for batch in _record_batches(pa, path):
        wanted = _projected(columns, batch.schema.names)
        yield batch if wanted is None else batch.select(wanted)


def _record_batches(pa: Any, path: Path) -> Iterator[Any]:
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            source.seek(0)
            file = pa.ipc.open_file(source)
            for number in range(file.num_record_batches):
                yield file.get_batch(number)
            return
        for batch in reader:
            for place in range(0, batch.num_rows, 1024):
                yield batch.slice(place, 1024)


def checked_format(name: str) -> str:
    """A known format whose library is there; UsageError for another one."""
    if name not in FORMATS:
        raise UsageError(f"no format is named {name!r}", where="--format", fix=nearest(name, FORMATS))
    if name == "parquet":
        parquet_module("--format parquet")
    if name == "jsonl.zst":
        zstd_module("--format jsonl.zst")
    return name


@contextlib.contextmanager
def line_writer(path: Path, kind: str) -> Iterator[Any]:
    """Yield ``write(line)`` for lines of JSON without their ends; the file is there, whole, on leaving.

    The same lines give the same bytes.
    """
    with publish_file(path) as partial:
        if kind == "parquet":
            with _Table(partial, path) as table:
                yield table.write
            return
        with partial.open("wb") as raw, contextlib.ExitStack() as stack:
            file: Any = raw
            if kind == "jsonl.gz":
                file = stack.enter_context(gzip.GzipFile("", "wb", 3, raw, mtime=0))
            elif kind == "jsonl.zst":
                file = stack.enter_context(zstd_module(path).ZstdCompressor(3).stream_writer(raw, closefd=False))
            yield lambda line: file.write(line + b"\n")


class _Table:
    """A Parquet file, a row group at a time. Its columns are those of the first group; what is new later is JSON text.

    Values that the columns' types do not take are an error of pyarrow's.
    """

    def __init__(self, path: Path, name: Path) -> None:
        self._path, self._name, self._records, self._held = path, name, list[dict[str, Any]](), 0
        self._writer: Any = None

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def write(self, line: bytes) -> None:
        self._records.append(json.loads(line))
        self._held += len(line)
        if self._held >= _GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        parquet = parquet_module(self._path)
        if not self._records and self._writer is not None:
            return
        schema = None if self._writer is None else self._writer.schema
        try:
            table: Any = pa.Table.from_pylist(self._records, schema=schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            what = f"its documents do not make a table ({str(error).splitlines()[0]})"
            raise DataError(what, where=str(self._name), fix="write --format jsonl.gz") from error
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)
        self._records, self._held = [], 0
