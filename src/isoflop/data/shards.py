"""Token shards: flat files of uint16 or uint32 ids, memory-mapped, sealed by a manifest of SHA-256 digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..core.digests import digest_file
from ..core.documents import Frozen
from ..core.errors import DataError
from ..core.files import write_json
from ..core.reading import contained, read_json

Tokens = npt.NDArray[Any]
MANIFEST = "manifest.json"
REBUILD = "delete that folder: it is made again from the text"


class Manifest(Frozen):
    """What a sealed directory holds: SHA-256 of every other file by name.

    Example:
        >>> _ = Path("shard.bin").write_bytes(bytes(8))
        >>> seal(Path(), Manifest)
        >>> list(unseal(Path(), Manifest).files)
        ['shard.bin']
    """

    files: dict[str, str]


M = TypeVar("M", bound=Manifest)


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The narrowest little-endian type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def open_tokens(path: Path, dtype: np.dtype[Any]) -> Tokens:
    """The ids of a shard (n,), read-only and memory-mapped."""
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def seal(directory: Path, manifest: type[M], **facts: Any) -> None:
    """Write the manifest of all files in ``directory``, with more ``facts`` as its class wants.

    Args:
        directory: whose files are to be told from damaged ones later.
        manifest: its class.
        facts: fields of that class beside ``files``.

    Example:
        >>> _ = Path("shard.bin").write_bytes(bytes(8))
        >>> seal(Path(), Manifest)
        >>> list(unseal(Path(), Manifest).files)
        ['shard.bin']
    """
    files = {path.name: digest_file(path) for path in sorted(directory.iterdir())}
    write_json(directory / MANIFEST, manifest(files=files, **facts).model_dump(mode="json"))


def unseal(directory: Path, manifest: type[M]) -> M:
    """The manifest of ``directory``, after every file was found to be as it says.

    Raises:
        DataError: names the manifest or shard that is missing, cut or changed.
    """
    path = directory / MANIFEST
    try:
        known = cast(M, read_json(path, manifest))
    except DataError as error:
        raise DataError(f"is damaged: it {error.what}", where=str(path), fix=REBUILD) from error
    for name, sha256 in known.files.items():
        file = contained(directory, name)
        if not file.is_file():
            raise DataError("is missing", where=str(file), fix=REBUILD)
        if digest_file(file) != sha256:
            raise DataError("does not match the SHA-256 in its manifest", where=str(file), fix=REBUILD)
    return known
