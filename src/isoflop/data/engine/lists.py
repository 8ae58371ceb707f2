"""Block lists in files: hosts, addresses and words, one a line, as hashes, so that millions of them stay small."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from ...core.errors import DataError
from ...core.reading import opened, user_path
from ..hashing import Hashes

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BETWEEN = re.compile(r"[\W_]+")


def ascii_host(host: str) -> str:
    """A host as the network names it: lower case, punycode, no dot at its end.

    Example:
        >>> ascii_host("B\u00fccher.Example.")
        'xn--bcher-kva.example'
    """
    host = host.strip().strip(".").lower()
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host


def host_of(url: str) -> str:
    """The host of an address, with or without a scheme; "" where there is none.

    Example:
        >>> host_of("https://user@News.Example.org:80/a?b"), host_of("example.org/a"), host_of("http://[::1")
        ('news.example.org', 'example.org', '')
    """
    return _parts(url)[0]


def plain_url(url: str) -> str:
    """An address without scheme, user, port, "www.", fragment and a slash at its end.

    Example:
        >>> plain_url("HTTP://www.Example.org:80/A/#top"), plain_url("example.org/A?b=1")
        ('example.org/A', 'example.org/A?b=1')
    """
    host, rest = _parts(url)
    return (host.removeprefix("www.") + rest).rstrip("/")


def _parts(url: str) -> tuple[str, str]:
    url = url.strip()
    try:
        found = urlsplit(url if _SCHEME.match(url) else f"//{url.removeprefix('//')}")
        host = ascii_host(found.hostname or "")
    except ValueError:
        return "", ""
    return host, found.path + (f"?{found.query}" if found.query else "")


def words_of_url(url: str) -> list[str]:
    """What lies between an address' marks, decoded and in lower case.

    Example:
        >>> words_of_url("https://a-b.example/Caf%C3%A9_1")
        ['https', 'a', 'b', 'example', 'caf\u00e9', '1']
    """
    return [word for word in _BETWEEN.split(unquote(url).lower()) if word]


def suffixes(host: str) -> list[str]:
    """A host and the domains that it lies in.

    Example:
        >>> suffixes("a.b.example")
        ['a.b.example', 'b.example', 'example']
    """
    pieces = host.split(".")
    return [".".join(pieces[place:]) for place in range(len(pieces))]


class HashedLines:
    """A set of strings as sorted hashes of 64 bits.

    Args:
        lines: what is in it.

    Example:
        >>> found = HashedLines(["a.example", "b.example"])
        >>> found.holds(["x", "b.example"]), found.holds([])
        (True, False)
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.hashes = np.unique(_hashes(lines))

    def holds(self, texts: Sequence[str]) -> bool:
        """Whether any of some strings is in it."""
        if not len(self.hashes) or not texts:
            return False
        wanted = _hashes(texts)
        place = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return bool((self.hashes[place] == wanted).any())


def _hashes(texts: Iterable[str]) -> Hashes:
    digests = bytearray()
    for text in texts:
        digests += hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.frombuffer(bytes(digests), "<u8").astype(np.uint64)


def lines_of(files: Iterable[str]) -> Iterable[str]:
    """The lines of lists, without comments (``#``) and blanks; of a line ``0.0.0.0 host`` the host.

    Raises:
        DataError: a file does not exist or is no UTF-8.
    """
    for name in files:
        with opened(user_path(name)) as file:
            for number, line in enumerate(file, 1):
                try:
                    pieces = line.decode("utf-8-sig").split("#", 1)[0].split()
                except UnicodeDecodeError:
                    raise DataError("is no UTF-8", where=f"{name}:{number}", fix="write the list as UTF-8") from None
                if pieces:
                    yield pieces[-1] if pieces[0] in ("0.0.0.0", "127.0.0.1") else " ".join(pieces)


def listed(files: tuple[str, ...], form: Callable[[str], str]) -> HashedLines:
    """The lines of lists, each in a form; read once a process, and again when a file changed."""
    return _listed(files, _stamps(files), form)


@functools.lru_cache(maxsize=16)
def _listed(files: tuple[str, ...], stamps: tuple[int, ...], form: Callable[[str], str]) -> HashedLines:
    return HashedLines(found for line in lines_of(files) if (found := form(line)))


def any_of(files: tuple[str, ...]) -> re.Pattern[str] | None:
    """A pattern of the words of lists, their marks left out, anywhere in a text; None where there are none."""
    return _any_of(files, _stamps(files))


@functools.lru_cache(maxsize=16)
def _any_of(files: tuple[str, ...], stamps: tuple[int, ...]) -> re.Pattern[str] | None:
    words = sorted({found for line in lines_of(files) if (found := _BETWEEN.sub("", line.lower()))})
    return re.compile("|".join(map(re.escape, words))) if words else None


def _stamps(files: Iterable[str]) -> tuple[int, ...]:
    paths = [Path(user_path(name)) for name in files]
    for path in paths:
        if not path.is_file():
            raise DataError("does not exist, or is no file", where=str(path), fix="name a list, one entry a line")
    return tuple(os.stat(path).st_mtime_ns for path in paths)
