"""Canonical JSON and digests: the identity of recipes, files and documents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .reading import opened


def canonical_json(value: Any) -> str:
    """The one JSON text of ``value``: sorted keys, no blanks, UTF-8, NaN and infinity refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_bytes(data: bytes) -> str:
    """SHA-256 (64 hex digits) of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 (64 hex digits) of a regular file's bytes; DataError if it cannot be read, or is none."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def document_hash(text: str) -> bytes:
    """BLAKE2b (16 bytes) of a document's text: decides its split and enters the corpus fingerprint."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
