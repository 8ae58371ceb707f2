"""Texts of any length: hidden tokens are inserted and shown, in steps of time (FlexMDM)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt

from ...core.context import Context
from ...core.contracts import Completion, DecoderPart, Ended, Filling, Listener, Model
from ...core.cost import Cost
from ...core.courses import course
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...models.insertion import expected_gaps, read, reading_cost, token_logits
from ..batching import Batched, costs_side_by_side, finite, not_finite
from ..unmask import Guide, Template, checked
from ..unmask_part import cooled, gumbel_max


@dataclass
class GrowingText:
    """One sample as it grows: pieces that are given, and gaps between and behind them in which tokens come.

    Args:
        prompt: number of the prompt.
        sample: number among the prompt's samples.
        template: ids that are given, None for each token that may come: so many are the room of a gap.
        generator: its random numbers.
        ids: what came, gap after gap, None where hidden.
        sizes: tokens that came in each gap; at first none.
        cost: of the model's calls for it.
        calls: how many those were.
        short: tokens were left out for want of room.

    Example:
        >>> row = GrowingText(0, 0, [5, None, None, 6, None], np.random.default_rng(0))
        >>> row.insert([2, 0], most=9)
        >>> row.text, row.rooms, row.slots, row.length
        ([5, None, None, 6], [2, 1], [1, 2, 3, 4], 4)
    """

    prompt: int
    sample: int
    template: Template
    generator: np.random.Generator
    ids: list[int | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    calls: int = 0
    short: bool = False

    def __post_init__(self) -> None:
        self.given, self.rooms = [[]], list[int]()
        hidden = False
        for token in self.template:
            if token is not None:
                self.given[-1].append(token)
            elif hidden:
                self.rooms[-1] += 1
            else:
                self.rooms.append(1)
                self.given.append([])
            hidden = token is None
        self.sizes = self.sizes or [0] * len(self.rooms)

    given: list[list[int]] = field(init=False)
    """What stands before the first gap, between gaps, and behind the last one."""
    rooms: list[int] = field(init=False)
    """Most tokens of each gap."""

    @property
    def length(self) -> int:
        """Tokens, the given ones included."""
        return len(self.ids) + sum(map(len, self.given))

    @property
    def starts(self) -> list[int]:
        """Where each gap begins."""
        before = np.cumsum([len(piece) for piece in self.given[:-1]]) + np.cumsum([0, *self.sizes])[:-1]
        return before.tolist()  # type: ignore[no-any-return]

    @property
    def places(self) -> list[int]:
        """Where each token stands that came."""
        return [start + i for start, size in zip(self.starts, self.sizes, strict=True) for i in range(size)]

    @property
    def slots(self) -> list[int]:
        """Before how many tokens lies each place where one may come, gap after gap."""
        return [start + i for start, size in zip(self.starts, self.sizes, strict=True) for i in range(size + 1)]

    @property
    def text(self) -> list[int | None]:
        """All tokens, None where hidden."""
        found, left = list[int | None](self.given[0]), iter(self.ids)
        for size, piece in zip(self.sizes, self.given[1:], strict=True):
            found += [*(next(left) for _ in range(size)), *piece]
        return found

    def insert(self, counts: Sequence[int], most: int) -> None:
        """Insert so many hidden tokens at each of ``slots``; none into a gap that has no room for all of its own.

        Args:
            counts: for each slot.
            most: tokens of the whole text; if there were more of them, none are inserted at all.
        """
        found, left, numbers = list[list[int | None]](), iter(self.ids), iter(counts)
        for size, room in zip(self.sizes, self.rooms, strict=True):
            own, more = [next(left) for _ in range(size)], [next(numbers) for _ in range(size + 1)]
            grown: list[int | None] = [None] * more[0]
            for token, count in zip(own, more[1:], strict=True):
                grown += [token, *[None] * count]
            fits = len(grown) <= room
            self.short |= not fits
            found.append(grown if fits else own)
        if sum(map(len, found)) - len(self.ids) + self.length > most:
            self.short = True
        else:
            self.ids, self.sizes = [token for gap in found for token in gap], [len(gap) for gap in found]

    def chosen(self, rate: float, margins: np.ndarray[Any, Any]) -> list[int]:
        """Which of ``ids`` are shown now: as many as chance says, the surest within a window.

        The window reaches over the first hidden tokens, five times as many as are shown and 32 at most.

        Args:
            rate: expected share of hidden tokens that are shown.
            margins: of each of them.
        """
        hidden = [place for place, token in enumerate(self.ids) if token is None]
        count = min(int(self.generator.poisson(len(hidden) * rate)), len(hidden))
        window = hidden[: max(count, min(5 * count, 32))]
        return sorted(window, key=lambda place: -margins[place])[:count]


class Insertion(Batched):
    """Writes with a model that inserts, from a prompt or from nothing; see ``core.contracts.Decoder``.

    Args:
        how: the part.
        filling: the model's conventions.

    Attributes:
        guide: changes logits before anything is chosen or drawn; None: nothing does.

    Example:
        >>> Insertion(InsertionPart(steps=16), None).how.steps
        16
    """

    def __init__(self, how: InsertionPart, filling: Filling | None) -> None:
        super().__init__(how.samples, how.batch)
        self.how, self.filling = how, filling
        self.guide: Guide | None = None

    def complete(
        self,
        model: Any,
        prompts: Iterable[Sequence[int]],
        budget: int,
        rng: Rng,
        *,
        first: int = 0,
        listen: Listener | None = None,
    ) -> Iterator[Completion]:
        """At most ``budget`` tokens behind each prompt; how many is the model's to say.

        Args:
            model: with the head that says how many tokens are missing.
            prompts: ids.
            budget: most new tokens of a sample.
            rng: of the draws: sample s of prompt i has those of ``rng.at(s, i)``.
            first: number of the first prompt.
            listen: is told the tokens when a sample is done, and cuts it by returning True.

        Raises:
            UsageError: the model does not insert, or a prompt holds an id that stands for no text.
        """
        templates = ([*prompt, *[None] * budget] for prompt in prompts)
        yield from self._run(model, templates, rng, first, listen, infilling=False)

    def infill(
        self,
        model: Any,
        templates: Iterable[Template],
        rng: Rng,
        *,
        first: int = 0,
        listen: Listener | None = None,
    ) -> Iterator[Completion]:
        """What came in each template's gaps, from left to right, and how much of it in each (``Completion.gaps``).

        Args:
            model: with the head that says how many tokens are missing.
            templates: ids, and as many None in a gap as tokens may come there.
            rng: of the draws.
            first: number of the first template.
            listen: is told the tokens when a sample is done, and cuts it by returning True.

        Raises:
            UsageError: the model does not insert, or a template has no gap or an id that stands for no text.
        """
        return self._run(model, templates, rng, first, listen, infilling=True)

    def _run(
        self,
        model: Any,
        templates: Iterable[Template],
        rng: Rng,
        first: int,
        listen: Listener | None,
        *,
        infilling: bool,
    ) -> Iterator[Completion]:
        filling = self.filling
        if filling is None or not filling.times:
            raise UsageError("the model does not insert tokens", where="decoder", fix="train it with objective=flexmdm")
        given = (checked(template, number, filling, infilling) for number, template in enumerate(templates, first))
        for rows in self.batches(given, first, rng, GrowingText):
            if any(row.rooms for row in rows):
                self._grow(model, filling, rows)
            yield from (self._told(row, listen, infilling) for row in rows)

    def _told(self, row: GrowingText, listen: Listener | None, infilling: bool) -> Completion:
        ids: list[int] = []
        ended: Ended = "budget" if row.short or not row.rooms else "stop"
        for token in row.ids:
            assert token is not None, "the last step shows everything"
            if token == self.how.stop and not infilling:
                ended = "stop"
                break
            ids.append(token)
            if listen is not None and listen(row.prompt, row.sample, token):
                ended = "told"
                break
        ends = np.minimum(np.cumsum(row.sizes), len(ids))
        gaps = np.diff(ends, prepend=0).tolist() if infilling else []
        return Completion(row.prompt, row.sample, ids, [], ended, row.cost, row.calls, gaps=gaps)

    @torch.no_grad()
    def _grow(self, model: Any, filling: Filling, rows: list[GrowingText]) -> None:
        there, shown = course(filling.inserted), course(filling.unmasked)
        # One place of those that a model has learned is the time's.
        longest = getattr(model, "longest", None)
        most = max(row.length + sum(row.rooms) for row in rows) if longest is None else longest - 1
        # Cached: texts take the same lengths again from step to step, and pricing takes half as long as a call.
        price = cache(partial(reading_cost, model, filling)) if isinstance(model, Model) else lambda _: Cost()
        for step in range(self.how.steps):
            t, last = step / self.how.steps, step == self.how.steps - 1
            logits, gaps = self._read(model, filling, rows, t, float(there.at(t)))
            lengths = [row.length for row in rows]
            for row, cost in zip(rows, costs_side_by_side(price, lengths, max(lengths)), strict=True):
                row.cost, row.calls = row.cost + cost, row.calls + 1
            rate = float(there.rate(t)) / self.how.steps
            top = torch.softmax(logits, -1).topk(min(2, logits.shape[-1]), -1).values
            margins = (top[..., 0] - top[..., 1:].sum(-1)).numpy()
            for i, row in enumerate(rows):
                standing = row.places
                places = [place for place, token in enumerate(row.ids) if token is None]
                if not last:
                    places = row.chosen(float(shown.rate(t)) / self.how.steps, margins[i, standing])
                picked = logits[i, [standing[place] for place in places]]
                for place, token in zip(places, self._drawn(picked, row), strict=True):
                    row.ids[place] = token
                if not last:
                    wanted = np.maximum(gaps[i, row.slots], 0) * rate
                    row.insert(row.generator.poisson(wanted).tolist(), most)

    def _drawn(self, picked: torch.Tensor, row: GrowingText) -> list[int]:
        if self.how.temperature == 0 or not len(picked):
            return picked.argmax(-1).tolist()
        uniform = torch.from_numpy(row.generator.random(tuple(picked.shape)))
        return gumbel_max(cooled(picked, self.how.temperature), uniform).tolist()

    def _read(
        self, model: Any, filling: Filling, rows: list[GrowingText], t: float, ahead: float
    ) -> tuple[torch.Tensor, np.ndarray[Any, Any]]:
        """Logits (rows, length, ids) of each token, and the expected number of each gap."""
        device, lengths = model.head.device, [row.length for row in rows]
        tokens = torch.full((len(rows), max(lengths)), filling.mask)
        for i, row in enumerate(rows):
            tokens[i, : lengths[i]] = torch.tensor(
                [filling.mask if token is None else token for token in row.text], dtype=torch.int64
            )
        tokens, times = tokens.to(device), torch.full((len(rows),), t, dtype=torch.float64, device=device)
        vectors = read(model, filling, tokens, torch.tensor(lengths, device=device), times)
        logits = token_logits(model, filling, vectors)
        if self.guide is not None:
            logits = self.guide(logits, tokens)
        gaps = expected_gaps(model, vectors, vectors.new_full((len(rows),), ahead).float())
        logits = finite(logits[..., : self.how.ids].double().cpu())
        if not gaps.isfinite().all():
            raise not_finite()
        return logits, gaps.cpu().numpy()


@part
class InsertionPart(DecoderPart):
    """Insert hidden tokens and show them, in equal steps of time; the length is the model's to say.

    For models trained by ``flexmdm``. At each step chance says how many hidden tokens are shown and how many come in
    each gap, by the model's expectations; at the last one everything that is hidden is shown.

    Example:
        >>> InsertionPart(steps=16).misfit(None)
        'inserts tokens, and the model does not; use sample'
    """

    steps: PositiveInt = 64
    """Calls of the model for each text."""
    temperature: NonNegativeFloat = 0.0
    """Divides the logits of tokens that are drawn; 0 takes the likeliest."""
    samples: PositiveInt = 1
    """Samples of each prompt."""
    batch: PositiveInt = 32
    """Samples that are decoded together at most."""
    card = Card(
        summary="Hidden tokens inserted and shown in steps of time; texts of any length",
        paper="Kim et al. 2025 (FlexMDM), arXiv 2509.01025, section 4 and appendix: adaptive window",
        equation="shown ~ Poisson(hidden b'/(1 - b) dt); inserted into gap j ~ Poisson(g_j a'/(1 - a) dt)",
        differs="nothing is inserted into the prompt; a row whose insertions would not fit gets none in that step",
        cost="one pass over the text so far a step",
    )

    def misfit(self, filling: Filling | None) -> str:
        if filling is None:
            return "inserts tokens, and the model does not; use sample"
        return "" if filling.times else "inserts tokens, and the model does not; use margin"

    def build(self, ctx: Context | None = None) -> Insertion:
        return Insertion(self, None if ctx is None else ctx.filling)
