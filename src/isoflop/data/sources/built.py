"""A corpus that ``isoflop data build`` made: tokens on disk, of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, NonNegativeInt

from ...core.context import Context
from ...core.contracts import SourcePart, Stateful
from ...core.errors import DataError
from ...core.reading import read_json, user_path
from ...core.registry import Card, part
from ..corpus import Corpus
from ..engine.building import BUILT, CORPUS


@part
class BuiltPart(SourcePart):
    """The tokens of ``isoflop data build``, memory-mapped: for text that does not fit into memory.

    The recipe's tokenizer must be the one that made them.

    Example:
        >>> BuiltPart(path="tokens").heldout_bytes
        65536
    """

    path: Annotated[str, Field(min_length=1)]
    """The folder that ``isoflop data build --out`` wrote."""
    heldout_bytes: NonNegativeInt = 65536
    """Held-out text that is evaluated, at most: whole documents that fit (0: all of them)."""
    provides: ClassVar[frozenset[type]] = frozenset({Stateful})
    card = Card(
        summary="Token shards that `isoflop data build` made, memory-mapped.",
        cost="checks the digest of every shard at every start",
    )

    @property
    def entropy_per_byte(self) -> float | None:
        """Bits a byte that no model can beat: of text as it is found, nobody knows."""
        return None

    def build(self, ctx: Context) -> Corpus:
        place = user_path(self.path) / CORPUS
        if not (place / BUILT).is_file():
            raise DataError("holds no built corpus", where=self.path, fix="name what `isoflop data build --out` wrote")
        made = read_json(place / BUILT, dict[str, Any])["part"]
        part: Any = getattr(ctx.tokenizer, "part", ctx.tokenizer)
        mine = part.header() | part.model_dump(mode="json")
        if made != mine:
            what = f"was built with the tokenizer {made['name']}, and the recipe's is {mine['name']}"
            what = what if made["name"] != mine["name"] else f"was built with another {made['name']} than the recipe's"
            raise DataError(what, where=self.path, fix=f"take tokenizer = {made}, or build it anew")
        return Corpus(Path(place), ctx.tokenizer, ctx, heldout_bytes=self.heldout_bytes)
