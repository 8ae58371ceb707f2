"""Which documents are held out: decided by each group's own content, so that adding files moves no other one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..core.errors import DataError
from .document import Document

_STEPS = 2**16  # the first two bytes of a hash


def point(group: str) -> float:
    """Where a group lies in [0, 1): the first two bytes of the BLAKE2b hash of its digest.

    Args:
        group: a document's group, a digest.

    Example:
        >>> 0 <= point("ab") < 1, point("ab") == point("ab")
        (True, True)
    """
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=16).digest()[:2], "big") / _STEPS


def held_out_groups(documents: Sequence[Document], share: float, remark: str = "") -> frozenset[str]:
    """The groups whose ``point`` lies below ``share``.

    A domain of at least two groups of which none lies there gives up the group with the smallest point, so that small
    corpora have held-out text too. A domain that is one single group is left as it is. ``remark`` says what was left
    out before, for the error.

    A group's side depends on its content alone, so that text added later moves nothing from one side to the other.

    Raises:
        DataError: nothing would be left to train on, or nothing would be held out.

    Example:
        >>> documents = [Document(f"text {i}", "text", str(i), f"{i:032x}") for i in range(200)]
        >>> len(held_out_groups(documents, share=0.05))
        11
    """
    domains: dict[str, set[str]] = {}
    for document in documents:
        domains.setdefault(document.domain, set()).add(document.group)
    groups = set().union(*domains.values()) if domains else set()
    held = {group for group in groups if point(group) < share}
    for domain in sorted(domains):
        if len(domains[domain]) > 1 and not held & domains[domain]:
            held.add(min(domains[domain], key=lambda group: (point(group), group)))
    if not held or held == groups:
        advice = "add text, or cut a long file into documents (source text: chunk_bytes = 4096)"
        side = "to train on" if held else "held out"
        raise DataError(
            f"leaves nothing {side} (documents: {len(documents):,}, files or records: {len(groups):,})",
            where="source",
            fix="; or ".join(filter(None, [remark, advice])),
        )
    return frozenset(held)
