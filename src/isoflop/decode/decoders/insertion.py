"""Texts of any length: hidden tokens are inserted and shown, in steps of time (FlexMDM)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
from ...models.insertion import expected_gaps, read, token_logits
from ..batching import Batched
from ..unmask_part import gumbel_max


@dataclass
class GrowingText:
    """One sample as it grows.

    Args:
        prompt: number of the prompt.
        sample: number among the prompt's samples.
        given: ids of the prompt, into which nothing is inserted.
        generator: its random numbers.
        ids: what follows the prompt, None where hidden.
        cost: of the model's calls for it.

    Example:
        >>> GrowingText(0, 0, [5], np.random.default_rng(0), ids=[7, None]).length
        3
    """

    prompt: int
    sample: int
    given: Sequence[int]
    generator: np.random.Generator
    ids: list[int | None] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    @property
    def length(self) -> int:
        """Tokens, the prompt's included."""
        return len(self.given) + len(self.ids)

    def insert(self, counts: Sequence[int], most: int) -> None:
        """Insert so many hidden tokens into each gap behind the prompt; none at all if there were too many.

        Args:
            counts: for each gap, from the one right behind the prompt on.
            most: tokens behind the prompt.
        """
        if len(self.ids) + sum(counts) > most:
            return
        found: list[int | None] = [None] * counts[0]
        for token, count in zip(self.ids, counts[1:], strict=True):
            found += [token, *[None] * count]
        self.ids = found

    def chosen(self, rate: float, margins: np.ndarray[Any, Any]) -> list[int]:
        """Places behind the prompt that are shown now: as many as chance says, the surest within a window.

        The window reaches over the first hidden tokens, five times as many as are shown and 32 at most.

        Args:
            rate: expected share of hidden tokens that are shown.
            margins: of each token behind the prompt.
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

    Example:
        >>> Insertion(InsertionPart(steps=16), None).how.steps
        16
    """

    def __init__(self, how: InsertionPart, filling: Filling | None) -> None:
        super().__init__(how.samples, how.batch)
        self.how, self.filling = how, filling

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
            UsageError: the model does not insert.
        """
        for rows in self.batches(prompts, first, rng, GrowingText):
            if budget:
                self._grow(model, rows, budget)
            yield from (self._told(row, listen) for row in rows)

    def _told(self, row: GrowingText, listen: Listener | None) -> Completion:
        ids: list[int] = []
        ended: Ended = "budget"
        for token in row.ids:
            assert token is not None, "the last step shows everything"
            if token == self.how.stop:
                ended = "stop"
                break
            ids.append(token)
            if listen is not None and listen(row.prompt, row.sample, token):
                ended = "told"
                break
        return Completion(row.prompt, row.sample, ids, [], ended, row.cost, self.how.steps)

    @torch.no_grad()
    def _grow(self, model: Any, rows: list[GrowingText], budget: int) -> None:
        filling = self.filling
        if filling is None or not filling.times:
            raise UsageError("the model does not insert tokens", where="decoder", fix="train it with objective=flexmdm")
        there, shown = course(filling.inserted), course(filling.unmasked)
        for step in range(self.how.steps):
            t, last = step / self.how.steps, step == self.how.steps - 1
            vectors = self._read(model, filling, rows, t)
            logits = token_logits(model, filling, vectors).double().cpu()
            if self.how.ids is not None:
                logits = logits[..., : self.how.ids]
            ahead = float(there.at(t))
            gaps = expected_gaps(model, vectors, vectors.new_full((len(rows),), ahead).float()).cpu().numpy()
            rate = float(there.rate(t)) / self.how.steps
            top = torch.softmax(logits, -1).topk(min(2, logits.shape[-1]), -1).values
            margins = (top[..., 0] - top[..., 1:].sum(-1)).numpy()
            for i, row in enumerate(rows):
                behind = len(row.given)
                places = [place for place, token in enumerate(row.ids) if token is None]
                if not last:
                    places = row.chosen(float(shown.rate(t)) / self.how.steps, margins[i, behind:])
                for place, token in zip(places, self._drawn(logits[i], places, behind, row), strict=True):
                    row.ids[place] = token
                if not last:
                    wanted = np.maximum(gaps[i, behind : row.length + 1], 0) * rate
                    row.insert(row.generator.poisson(wanted).tolist(), budget)

    def _drawn(self, logits: torch.Tensor, places: list[int], behind: int, row: GrowingText) -> list[int]:
        picked = logits[[behind + place for place in places]]
        if self.how.temperature == 0 or not places:
            return picked.argmax(-1).tolist() if places else []
        uniform = torch.from_numpy(row.generator.random(tuple(picked.shape)))
        return gumbel_max(picked / self.how.temperature, uniform).tolist()

    def _read(self, model: Any, filling: Filling, rows: list[GrowingText], t: float) -> torch.Tensor:
        """The model's vectors of all rows, charged to them."""
        device, lengths = model.head.device, [row.length for row in rows]
        tokens = torch.full((len(rows), max(lengths)), filling.mask)
        for i, row in enumerate(rows):
            tokens[i, : row.length] = torch.tensor(
                [*row.given, *(filling.mask if token is None else token for token in row.ids)], dtype=torch.int64
            )
            if isinstance(model, Model):
                own = model.flops(1, row.length + 1, filling.pattern).forward
                row.cost += Cost(own.flops, model.flops(1, max(lengths) + 1, filling.pattern).forward.executed)
        times = torch.full((len(rows),), t, dtype=torch.float64)
        return read(model, filling, tokens.to(device), torch.tensor(lengths, device=device), times.to(device))


@part
class InsertionPart(DecoderPart):
    """Insert hidden tokens and show them, in equal steps of time; the length is the model's to say.

    For models trained by ``flexmdm``. At each step chance says how many hidden tokens are shown and how many come in
    each gap, by the model's expectations; at the last one everything that is hidden is shown.

    Example:
        >>> InsertionPart(steps=16).misfit(None)
        'inserts tokens, and the model does not; use sample or margin'
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
        inserts = filling is not None and filling.times
        return "" if inserts else "inserts tokens, and the model does not; use sample or margin"

    def build(self, ctx: Context | None = None) -> Insertion:
        return Insertion(self, None if ctx is None else ctx.filling)
