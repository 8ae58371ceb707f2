"""Progressive unmasking: rows of a batch that are shown more and more of, in the order in which the model is sure.

Each row stays in the batch for some steps. At first nearly all of it is hidden; after each step the places of which the
model was surest are shown their true tokens, until almost nothing is hidden and another row takes its place. So a model
trains on the masks that it meets when it decodes, at no cost: one pass gives the loss and the next mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..core.contracts import Batches, Loss, TokenBatch
from ..core.errors import DataError
from ..core.rng import Rng
from .loader import refuse_changed

if TYPE_CHECKING:
    from torch import Tensor

Hidden = npt.NDArray[np.bool_]
BARREN = 1000
"""Rows of which nothing is predicted in a row, after which a source is taken to have no others."""


@dataclass(frozen=True)
class Stages:
    """How fast rows are shown.

    Args:
        phases: steps that a row stays, at the beginning of the run.
        more: phases that are added each ``every`` steps, up to ``most``.
        every: steps.
        most: phases.
        sure: probability from which on a place is shown at once; None: none is.
        block: positions of a block: blocks are shown one after another; None: all of a row is one.

    Example:
        >>> stages = Stages(phases=12, more=3, every=30_000, most=42)
        >>> stages.at(0), stages.at(29_999), stages.at(30_000), stages.at(10**6)
        (12, 12, 15, 42)
    """

    phases: int = 8
    more: int = 0
    every: int = 1000
    most: int = 64
    sure: float | None = None
    block: int | None = None

    def at(self, step: int) -> int:
        """The phases of a step."""
        return max(self.phases, min(self.most, self.phases + self.more * (step // self.every)))


def surest(hidden: Hidden, confidence: npt.NDArray[Any], count: int, block: int | None = None) -> npt.NDArray[np.int64]:
    """The ``count`` hidden places of a row of which the model is surest; of equally sure ones the first.

    Args:
        hidden: bool (length,).
        confidence: (length,), larger is surer.
        count: places.
        block: positions of a block: those of earlier blocks come first; None: all of the row is one.

    Example:
        >>> surest(np.array([True, False, True, True]), np.array([-3.0, 0.0, -1.0, -2.0]), 2).tolist()
        [2, 3]
    """
    places = np.flatnonzero(hidden)
    blocks = places // block if block else np.zeros_like(places)
    return places[np.lexsort((-confidence[places], blocks))][:count]


@dataclass(frozen=True)
class ShownRow:
    """A row under way.

    Args:
        at: where its source stood before it.
        batch: the row alone.
        may: bool (length,), what may be hidden.
        hidden: bool (length,), what is.
        phase: from 0.
        phases: of which that is one.

    Example:
        >>> import torch
        >>> batch, may = TokenBatch(torch.zeros(1, 4), torch.zeros(1, 4), text_bytes=4), np.ones(4, bool)
        >>> ShownRow({}, batch, may, may, phase=0, phases=8).reaching(0.5, np.array([2, 0, 1, 3])).hidden.tolist()
        [False, True, False, True]
    """

    at: Mapping[str, Any]
    batch: TokenBatch
    may: Hidden
    hidden: Hidden
    phase: int
    phases: int

    @property
    def shown(self) -> float:
        """Share of what may be hidden that is shown."""
        return 1 - float(self.hidden.sum() / self.may.sum())

    def at_phases(self, phases: int) -> ShownRow:
        """The row where it stands among another number of phases."""
        return self if phases == self.phases else replace(self, phase=int(self.shown * phases), phases=phases)

    def reaching(self, share: float, order: npt.NDArray[np.int64]) -> ShownRow:
        """The row with a share of it shown, but for one place at most, in the order of hidden places."""
        size = int(self.may.sum())
        count = max(0, min(round(share * size), size - 1) - (size - int(self.hidden.sum())))
        return self.showing(order[:count])

    def showing(self, places: npt.NDArray[np.int64]) -> ShownRow:
        """The row with some more places shown."""
        hidden = self.hidden.copy()
        hidden[places] = False
        return replace(self, hidden=hidden)


class ProgressiveBatches:
    """An endless stream of batches whose rows are shown more with each step that is heard of (``Listens``).

    The column ``hidden`` says what is hidden. Until it hears the loss of a batch, the stream gives the same one again.

    Args:
        rows: the stream of rows, each a batch of one.
        stages: how fast rows are shown.
        batch: rows of a batch.
        accumulate: batches of a step.
        rng: what is shown by chance.
        fingerprint: of the rows' source.

    Example, with ``ctx`` a context of two rows of 16:
        >>> from isoflop.core.registry import get
        >>> source = get("source", "pcfg")(text_bytes=5000).build(ctx)
        >>> rows = source.batches(ctx.having(batch=1))
        >>> stream = ProgressiveBatches(rows, Stages(), batch=2, accumulate=1, rng=Rng(0), fingerprint="")
        >>> next(stream).columns["hidden"].shape
        torch.Size([2, 16])
    """

    def __init__(
        self, rows: Batches, stages: Stages, *, batch: int, accumulate: int, rng: Rng, fingerprint: str
    ) -> None:
        self._source, self._stages, self._rng = rows, stages, rng
        self._batch, self._accumulate, self._fingerprint = batch, accumulate, fingerprint
        self._rows: list[ShownRow] = []
        self._served = self._heard = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenBatch:
        if not self._rows:
            self._rows = self._first()
        group = self._served % self._accumulate
        self._served += 1
        return _joined(self._rows[group * self._batch : (group + 1) * self._batch])

    def learn(self, batch: TokenBatch, loss: Loss, /) -> None:
        """Show more of each row of a batch, or put another in its place."""
        confidence: Tensor = loss.kept["confidence"]
        sure, phases = confidence.cpu().double().numpy(), self._stages.at(self._heard // self._accumulate)
        first = self._heard % self._accumulate * self._batch
        for number in range(self._batch):
            draw = self._rng.at(self._heard, number)
            row = self._later(self._rows[first + number], sure[number], phases, draw)
            self._rows[first + number] = row or self._fresh(0, phases, draw)
        self._heard += 1

    def _later(
        self, row: ShownRow, confidence: npt.NDArray[Any], phases: int, draw: np.random.Generator
    ) -> ShownRow | None:
        """A row one phase later; None: it is done."""
        stages, row = self._stages, row.at_phases(phases)
        if row.phase + 1 >= phases:
            return None
        row = replace(row, phase=row.phase + 1)
        order = surest(row.hidden, confidence, len(row.hidden), stages.block)
        row = row.reaching(draw.uniform(row.phase, row.phase + 1) / phases, order)
        if stages.sure is None:
            return row
        row = row.showing(np.flatnonzero(row.hidden & (confidence > np.log(stages.sure))))
        return replace(row, phase=int(row.shown * phases)) if row.hidden.any() else None

    def _first(self) -> list[ShownRow]:
        """The rows of the first step, spread evenly over the phases."""
        count, phases = self._batch * self._accumulate, self._stages.at(0)
        spread = self._rng("first").at().permutation(np.arange(count) % phases)
        return [self._fresh(int(phase), phases, self._rng("first").at(1, i)) for i, phase in enumerate(spread)]

    def _fresh(self, phase: int, phases: int, draw: np.random.Generator) -> ShownRow:
        """Another row, shown by chance as much as its phase says; DataError if nothing is predicted any more."""
        for _ in range(BARREN):
            at = self._source.state_dict()
            row = _row(at, next(self._source), phase, phases)  # type: ignore[arg-type]
            if row.may.any():
                order = draw.permutation(np.flatnonzero(row.may))
                return row.reaching(draw.uniform(phase, phase + 1) / phases, order)
        what = f"nothing is predicted in {BARREN} rows in a row, so that nothing can be hidden"
        raise DataError(what, where="source", fix="use a longer train.length, or shorter prompts")

    def state_dict(self) -> dict[str, Any]:
        rows = [
            {"at": row.at, "hidden": np.packbits(row.hidden).tobytes().hex(), "phase": row.phase, "phases": row.phases}
            for row in self._rows
        ]
        return {**self._place(), "source": self._source.state_dict(), "served": self._served, "rows": rows} | {
            "heard": self._heard
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take up a stored state; another corpus or another number of rows is a DataError."""
        refuse_changed(state, self._place(), "the rows were")
        self._rows = [self._again(kept) for kept in state["rows"]]
        self._source.load_state_dict(state["source"])
        self._served, self._heard = state["served"], state["heard"]

    def _again(self, kept: Mapping[str, Any]) -> ShownRow:
        """A stored row."""
        self._source.load_state_dict(dict(kept["at"]))
        row = _row(kept["at"], next(self._source), kept["phase"], kept["phases"])  # type: ignore[arg-type]
        bits = np.frombuffer(bytes.fromhex(kept["hidden"]), np.uint8)
        return replace(row, hidden=np.unpackbits(bits, count=len(row.may)).astype(np.bool_))

    def _place(self) -> dict[str, Any]:
        return {"corpus": self._fingerprint, "batch": self._batch, "accumulate": self._accumulate}


def _row(at: Mapping[str, Any], batch: TokenBatch, phase: int, phases: int) -> ShownRow:
    """A row of which everything is hidden."""
    shape = batch.targets.shape[1]
    may = np.ones(shape, np.bool_) if batch.mask is None else batch.mask[0].cpu().numpy()
    return ShownRow(at, batch, may, may.copy(), phase, phases)


def _joined(rows: list[ShownRow]) -> TokenBatch:
    """The batch of some rows."""
    import torch

    batches, device = [row.batch for row in rows], rows[0].batch.targets.device

    def columns(arrays: list[Hidden]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(device)

    masks = [row.may for row in rows]
    named = {name: torch.cat([batch.columns[name] for batch in batches]) for name in batches[0].columns}
    return TokenBatch(
        inputs=torch.cat([batch.inputs for batch in batches]),
        targets=torch.cat([batch.targets for batch in batches]),
        text_bytes=sum(batch.text_bytes for batch in batches),
        mask=None if all(mask.all() for mask in masks) else columns(masks),
        columns={**named, "hidden": columns([row.hidden for row in rows])},
    )
