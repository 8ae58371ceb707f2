"""A document: the unit that is deduplicated, held out and closed by an end-of-text token."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..core.errors import DataError


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its descent.

    The unit of everything in ``data``: what is deduplicated, held out, counted and, with ``isolate_documents``,
    attended within. Sources make them; ``prepare`` makes a corpus of them.

    Attributes:
        text: valid Unicode (no lone surrogates), not empty; the prompt, if it has one, and what follows it.
        domain: what its held-out text is evaluated under.
        origin: where it comes from, for messages ("path" or "path:line"); not part of the corpus' identity.
        group: digest of the whole source file it was taken from. Documents of one group lie on the same side of the
            split, so that a file's docstrings follow the file.
        prompt: the beginning of the text that is seen and not predicted.
        chat: the text is a conversation as JSON (``messages``, ``tools``), which the tokenizer's chat template writes
            out; of that, what the assistant says is predicted.

    Example:
        >>> sum_of_two = Document("2 + 2 = 4", domain="sums", origin="a.jsonl:1", group=group_of("a"), prompt="2 + 2 =")
        >>> sum_of_two.completion
        ' 4'
    """

    text: str
    domain: str
    origin: str
    group: str
    prompt: str = ""
    chat: bool = False

    @property
    def completion(self) -> str:
        """What is predicted: all that follows the prompt."""
        return self.text[len(self.prompt) :]


def group_of(content: bytes | str) -> str:
    """The group of everything that comes from one file: the BLAKE2b digest (32 hex digits) of its content.

    Args:
        content: of the file, or the text that stands for it.

    Example:
        >>> group_of("a file") == group_of(b"a file"), len(group_of("a file"))
        (True, 32)
    """
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def utf8(text: str, origin: str = "text") -> bytes:
    """The UTF-8 bytes of ``text``; a lone surrogate, which no bytes can stand for, is a DataError."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        lone = f"U+{ord(text[error.start]):04X}"
        raise DataError(
            f"holds the lone surrogate {lone} at character {error.start}, which UTF-8 cannot express",
            where=origin,
            fix="repair or drop that text",
        ) from None
