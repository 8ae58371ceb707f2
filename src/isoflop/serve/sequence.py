"""What is asked of a model, and what comes back while it is written."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..decode.text import SampleText

EndedBy = Literal["stop", "length"]
_TAIL = 64
"""Ids of a prompt that its continuation is decoded with."""


@dataclass(frozen=True)
class Wish:
    """How a prompt is to be gone on from.

    Args:
        budget: most new tokens.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep only the k likeliest tokens.
        top_p: keep only the likeliest that together reach this probability.
        min_p: keep only tokens at least so many times as likely as the likeliest one.
        repetition_penalty: above 1 makes ids of the prompt and of the text less likely, as ``filters.penalised``.
        presence_penalty: taken from the logits of ids that the new text holds.
        frequency_penalty: taken from them as often as the new text holds them.
        bias: added to the logits of these ids.
        stops: strings that end the text and are no part of it.
        ignore_eos: go on beyond the end of the text.
        logprobs: so many of the likeliest tokens are noted at each place, beside the token itself; None: nothing is.
        scored: the prompt's own tokens are noted, too.

    Example:
        >>> Wish(budget=16, temperature=0.0).cuts
        (0.0, None, 1.0, 0.0)
    """

    budget: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    scored: bool = False

    @property
    def cuts(self) -> tuple[float, int | None, float, float]:
        """What the distribution is cut by: sequences that agree in it are drawn together."""
        return self.temperature, self.top_k, self.top_p, self.min_p

    @property
    def shapes(self) -> bool:
        """Whether logits are changed before they are cut."""
        return bool(
            self.bias or self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        )


@dataclass(frozen=True)
class TokenNote:
    """A token and how likely the model held it.

    Args:
        id: of the token.
        logprob: natural log-probability under the model itself; None: nothing came before it, or nobody asked.
        top: ids and log-probabilities of the likeliest tokens there.

    Example:
        >>> TokenNote(7, -0.5).top
        ()
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class PromptScored:
    """The next tokens of a sequence's prompt, noted.

    Args:
        sequence: number of the sequence in its job.
        notes: of the tokens in their order.

    Example:
        >>> PromptScored(0, [TokenNote(7), TokenNote(8, -0.5)]).notes[0].logprob is None
        True
    """

    sequence: int
    notes: list[TokenNote]


@dataclass(frozen=True)
class Grown:
    """A new token.

    Args:
        sequence: number of the sequence in its job.
        note: of the token.
        text: what has become certain with it.
        offset: characters of the new text that came before it, those held back included.

    Example:
        >>> Grown(0, TokenNote(7), "x", offset=3).text
        'x'
    """

    sequence: int
    note: TokenNote
    text: str
    offset: int


@dataclass(frozen=True)
class Over:
    """A sequence has ended.

    Args:
        sequence: number of the sequence in its job.
        text: what had been held back.
        ended: by the model's end or a stop string, or by its budget.
        cut: by a stop string, so that tokens beyond the text are no part of it.

    Example:
        >>> Over(0, "", "length").cut
        False
    """

    sequence: int
    text: str
    ended: EndedBy
    cut: bool = False


@dataclass(frozen=True)
class Failed:
    """The job will not be finished.

    Args:
        error: why.

    Example:
        >>> str(Failed(ValueError("no")).error)
        'no'
    """

    error: Exception


News = PromptScored | Grown | Over | Failed


class Growing:
    """A prompt and what is written behind it. The scheduler's thread alone changes it once it is submitted.

    Args:
        prompt: ids, at least one.
        wish: how to go on.
        number: in its job.
        generator: of the draws.
        text: becomes its text.

    Example, with ``growing`` one of bytes:
        >>> one = growing("hi", Wish(budget=4))
        >>> one.reserve, one.unfed
        (6, 2)
    """

    def __init__(
        self, prompt: list[int], wish: Wish, number: int, generator: np.random.Generator, text: SampleText
    ) -> None:
        self.prompt, self.wish, self.number, self.generator, self.text = prompt, wish, number, generator, text
        self.biases: Any = None
        self.ids: list[int] = []
        self.fed = self.projected = 0
        self.counts: dict[int, int] = {}

    @property
    def reserve(self) -> int:
        """Tokens that a cache may have to hold of it."""
        return len(self.prompt) + self.wish.budget

    @property
    def noted(self) -> int:
        """Log-probabilities that may have to be kept of it."""
        if self.wish.logprobs is None:
            return 0
        return (self.wish.budget + len(self.prompt) * self.wish.scored) * (self.wish.logprobs + 1)

    @property
    def unfed(self) -> int:
        """Tokens that the model has not seen yet."""
        return len(self.prompt) + len(self.ids) - self.fed

    def next_tokens(self, most: int) -> list[int]:
        """The next ones, at most so many."""
        given = self.prompt[self.fed : self.fed + most]
        return given or self.ids[self.fed - len(self.prompt) :][:most]

    def fed_with(self, tokens: int, wanted: int) -> None:
        """The model has seen so many more, and computed the logits of ``wanted`` of them."""
        self.fed, self.projected = self.fed + tokens, self.projected + wanted

    def add(self, note: TokenNote) -> Grown:
        """One more token."""
        offset = self.text.known
        self.ids.append(note.id)
        self.counts[note.id] = self.counts.get(note.id, 0) + 1
        return Grown(self.number, note, self.text.add(note.id), offset)

    def over(self, ended: EndedBy) -> Over:
        """No more tokens come."""
        rest = self.text.finish()
        cut = self.text.stopped
        return Over(self.number, rest, "stop" if cut else ended, cut)


def prompt_tail(prompt: Sequence[int]) -> Sequence[int]:
    """What of a prompt decides how the text behind it reads."""
    return prompt[-_TAIL:]


class Job:
    """The sequences of one request, which succeed or fail together.

    Args:
        sequences: what is asked.
        deliver: is told the news of each step, in the scheduler's thread.
        seconds: after which it is given up.

    Attributes:
        gone: whether nobody waits for it any more; any thread may say so.
        born: when it was made, on the monotonic clock.

    Example:
        >>> job = Job([], print, seconds=60)
        >>> job.cancel()
        >>> job.gone
        True
    """

    _numbers = itertools.count()

    def __init__(self, sequences: Sequence[Growing], deliver: Callable[[list[News]], None], seconds: float) -> None:
        self.number = next(Job._numbers)
        self.waiting, self.deliver = deque(sequences), deliver
        self.left = len(sequences)
        self.born = time.monotonic()
        self.deadline = self.born + seconds
        self.gone = self.started = False

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.gone = True
