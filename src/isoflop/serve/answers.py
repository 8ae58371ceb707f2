"""Answers in OpenAI's form: of a whole request, or piece by piece as it is written."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.contracts import Tokenizer
from .requests import ChatRequest, CompletionRequest
from .sequence import EndedBy, Grown, News, Over, PromptScored, TokenNote
from .served import Asked, Prompt, ServedModel

LEAST = -9999.0
"""What stands for a log-probability of minus infinity, which JSON cannot say."""


@dataclass
class WrittenChoice:
    """One of a request's texts as it grows.

    Args:
        index: its number.
        prompt: what it goes on from.

    Example:
        >>> choice = WrittenChoice(0, Prompt([104], lead=0, text="h"))
        >>> choice.take(Grown(0, TokenNote(105), "i", offset=0))
        >>> choice.take(Over(0, "", "length"))
        >>> choice.text, choice.ended
        ('i', 'length')
    """

    index: int
    prompt: Prompt
    text: str = field(default="", init=False)
    ended: EndedBy | None = field(default=None, init=False)
    tokens: int = field(default=0, init=False)
    scored: list[TokenNote] = field(default_factory=list, init=False)
    notes: list[tuple[TokenNote, int]] = field(default_factory=list, init=False)
    told: int = field(default=0, init=False)
    """Notes that a stream has told already."""
    said: int = field(default=0, init=False)
    """Characters of the text that it has told."""

    def take(self, news: News) -> None:
        """Something has happened to it."""
        if isinstance(news, PromptScored):
            self.scored += news.notes
        elif isinstance(news, Grown):
            self.tokens += 1
            self.text += news.text
            self.notes.append((news.note, news.offset))
        elif isinstance(news, Over):
            self.text += news.text
            self.ended = news.ended
            if news.cut:
                self.notes = [(note, offset) for note, offset in self.notes if offset < len(self.text)]

    def certain(self) -> list[tuple[TokenNote, int]]:
        """Notes that no stream has told and that nothing can take back."""
        size, first = len(self.text), self.told
        while self.told < len(self.notes) and (self.ended or self.notes[self.told][1] < size):
            self.told += 1
        return self.notes[first : self.told]


class WrittenAnswer:
    """What becomes of a request.

    Args:
        served: the model.
        asked: the request.

    Attributes:
        choices: its texts.

    Example, with ``served`` a model of bytes:
        >>> answer = WrittenAnswer(served, served.completion(CompletionRequest(model="mine", prompt="h", max_tokens=1)))
        >>> touched = answer.take([Grown(0, TokenNote(105), "i", offset=0), Over(0, "", "length")])
        >>> answer.whole()["choices"][0]["text"], answer.usage["total_tokens"]
        ('i', 3)
    """

    def __init__(self, served: ServedModel, asked: Asked) -> None:
        self.served, self.asked, self.request = served, asked, asked.request
        self.chat = isinstance(asked.request, ChatRequest)
        self.choices = [WrittenChoice(i, asked.prompt_of(i)) for i in range(len(asked.sequences))]
        self.left = len(self.choices)
        self._begun = set[int]()
        kind = "chat.completion" if self.chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }

    def take(self, news: Iterable[News]) -> set[int]:
        """Take what has happened; the numbers of the choices that it happened to."""
        touched = set[int]()
        for each in news:
            if isinstance(each, PromptScored | Grown | Over):
                self.choices[each.sequence].take(each)
                self.left -= isinstance(each, Over)
                touched.add(each.sequence)
        return touched

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and written."""
        new = sum(choice.tokens for choice in self.choices)
        prompt = self.asked.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def whole(self) -> dict[str, Any]:
        """The answer of a request that is done."""
        return {**self._head, "choices": [self._choice(choice) for choice in self.choices], "usage": self.usage}

    def chunks(self, touched: Iterable[int]) -> Iterator[dict[str, Any]]:
        """What a stream tells of choices to which something has happened."""
        kind = {"object": "chat.completion.chunk"} if self.chat else {}
        usage = {"usage": None} if self.request.usage_wanted else {}
        for i in sorted(touched):
            for piece in self._pieces(self.choices[i]):
                yield {**self._head, **kind, "choices": [piece], **usage}

    def last_chunk(self) -> dict[str, Any] | None:
        """What a stream ends with, if that was asked for."""
        if not self.request.usage_wanted:
            return None
        kind = {"object": "chat.completion.chunk"} if self.chat else {}
        return {**self._head, **kind, "choices": [], "usage": self.usage}

    # ------------------------------------------------------------ a whole choice

    def _choice(self, choice: WrittenChoice) -> dict[str, Any]:
        end = {"index": choice.index, "finish_reason": choice.ended}
        if self.chat:
            message = {"role": "assistant", "content": choice.text, "refusal": None}
            return {**end, "message": message, "logprobs": self._chat_logprobs(choice.notes)}
        echo = self._echoes
        text = choice.prompt.text * echo + choice.text
        return {**end, "text": text, "logprobs": self._logprobs(choice, choice.notes, echo)}

    @property
    def _echoes(self) -> bool:
        return isinstance(self.request, CompletionRequest) and self.request.echo

    # ------------------------------------------------------------ pieces of one

    def _pieces(self, choice: WrittenChoice) -> Iterator[dict[str, Any]]:
        if choice.index not in self._begun:
            if not choice.notes and choice.ended is None:
                return  # its prompt is still being read
            self._begun.add(choice.index)
            if self.chat:
                yield self._delta(choice.index, {"role": "assistant", "content": "", "refusal": None}, None, None)
            elif self._echoes:
                text, logprobs = choice.prompt.text, self._logprobs(choice, [], True)
                yield {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": None}
        text, notes = choice.text[choice.said :], choice.certain()
        choice.said = len(choice.text)
        if not text and not notes and choice.ended is None:
            return
        if not self.chat:
            logprobs = self._logprobs(choice, notes, False)
            yield {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": choice.ended}
            return
        if text or notes:
            yield self._delta(choice.index, {"content": text}, self._chat_logprobs(notes), None)
        if choice.ended is not None:
            yield self._delta(choice.index, {}, None, choice.ended)

    @staticmethod
    def _delta(index: int, delta: dict[str, Any], logprobs: Any, ended: EndedBy | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": ended}

    # ------------------------------------------------------------ log-probabilities

    def _logprobs(
        self, choice: WrittenChoice, notes: Sequence[tuple[TokenNote, int]], echo: bool
    ) -> dict[str, list[Any]] | None:
        """Those of a completion: of its prompt, too, where that is echoed."""
        if self.request.logprobs is None:  # type: ignore[attr-defined]
            return None
        prompt, said = choice.prompt, list[tuple[TokenNote, int]]()
        if echo:
            own = choice.scored[prompt.lead :]
            offsets = offsets_of(self.served.tokenizer, prompt.text, [note.id for note in own])
            said += zip(own, offsets, strict=True)
        said += [(note, len(prompt.text) + offset) for note, offset in notes]
        names = self.served.names
        return {
            "tokens": [names(note.id) for note, _ in said],
            "token_logprobs": [_finite(note.logprob) for note, _ in said],
            "top_logprobs": [self._top(note) for note, _ in said],
            "text_offset": [offset for _, offset in said],
        }

    def _top(self, note: TokenNote) -> dict[str, float] | None:
        """The likeliest tokens by name, and the token itself; of several with one name the likeliest counts."""
        if note.logprob is None:
            return None
        found: dict[str, float] = {}
        for i, value in (*note.top, (note.id, note.logprob)):
            name = self.served.names(i)
            found[name] = max(_finite(value) or 0.0, found[name]) if name in found else _finite(value) or 0.0
        return found

    def _chat_logprobs(self, notes: Sequence[tuple[TokenNote, int]]) -> dict[str, Any] | None:
        if not self.request.logprobs:  # type: ignore[attr-defined]
            return None
        return {"content": [self._chat_token(note) for note, _ in notes], "refusal": None}

    def _chat_token(self, note: TokenNote) -> dict[str, Any]:
        top = [self._named(i, value) for i, value in note.top]
        return {**self._named(note.id, note.logprob), "top_logprobs": top}

    def _named(self, i: int, logprob: float | None) -> dict[str, Any]:
        names = self.served.names
        return {"token": names(i), "logprob": _finite(logprob), "bytes": names.bytes_of(i)}


def _finite(logprob: float | None) -> float | None:
    return LEAST if logprob is not None and not math.isfinite(logprob) else logprob


def offsets_of(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> list[int]:
    """The character of a text at which each of its tokens begins.

    A token that begins within a character has that character's place. What a tokenizer puts before a text beyond the
    text's own bytes is not counted.

    Args:
        tokenizer: of the ids.
        text: theirs.
        ids: in order.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> offsets_of(Bytes(), "hé!", [104, 0xC3, 0xA9, 33])
        [0, 1, 1, 2]
    """
    raw = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    lengths = np.asarray(tokenizer.byte_lengths)[np.asarray(ids, np.int64)]
    ends = np.cumsum(lengths)
    more = max(0, int(ends[-1]) - len(raw)) if len(ids) else 0
    starts = np.clip(ends - lengths - more, 0, len(raw))
    begins = np.cumsum((raw & 0xC0) != 0x80)  # characters begun up to and with each byte
    places = np.where(starts < len(raw), np.append(begins, len(text) + 1)[starts] - 1, len(text))
    found: list[int] = places.tolist()
    return found
