"""Conversations as tokens: written by a chat template, whose special tokens are special, and nobody else's are."""

from __future__ import annotations

import functools
import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers as hf

from ..core.errors import DataError
from .chat_template import MARKS, ChatTemplate
from .foreign import description_of, following, steps
from .tokenizing import Ids

WRITTEN = datetime(2024, 7, 26)
"""The date that templates see while a corpus is made: with today's, it would be another one every day."""
_ESCAPE = MARKS[2]
Messages = Sequence[Mapping[str, Any]]


class Encoded(NamedTuple):
    """A conversation as tokens: its ids, which of them are the assistant's, and its text.

    Example:
        >>> Encoded(np.asarray([7, 8]), np.asarray([False, True]), prompt="a", answers=("b",)).answers
        ('b',)
    """

    ids: Ids
    answered: npt.NDArray[np.bool_]
    prompt: str
    """All that is not the assistant's."""
    answers: tuple[str, ...]
    """What the assistant says, without special tokens."""


class ChatEncoder:
    """Encodes conversations as a model expects them.

    Args:
        template: writes them.
        tokenizer: the library's object.

    Example:
        >>> words = hf.Tokenizer(hf.models.WordLevel({"a": 0, "b": 1}, "a"))
        >>> words.pre_tokenizer = hf.pre_tokenizers.Whitespace()
        >>> template = ChatTemplate("{% for m in messages %}{{ m.content }} {% endfor %}", {}, "here")
        >>> chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        >>> ChatEncoder(template, words).encode(chat).ids.tolist()
        [0, 1]
    """

    def __init__(self, template: ChatTemplate, tokenizer: hf.Tokenizer) -> None:
        self.template = template
        self._whole = hf.Tokenizer.from_str(tokenizer.to_str())
        self._whole.post_processor = None  # it would move the places of tokens
        tokens = tokenizer.get_added_tokens_decoder()
        self._special = {token.content: (i, token) for i, token in tokens.items() if token.special}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @functools.cached_property
    def _text(self) -> hf.Tokenizer:
        """Encodes what a text begins with; special tokens in it are text."""
        other = hf.Tokenizer.from_str(self._whole.to_str())
        other.encode_special_tokens = True
        return other

    @functools.cached_property
    def _later(self) -> hf.Tokenizer:
        """Encodes what follows a special token: a blank that is put before the first word only is not before it."""
        first_only = any(
            step.get("prepend_scheme") == "first" for step in steps(description_of(self._whole)["pre_tokenizer"])
        )
        return following(self._text) if first_only else self._text

    def encode(
        self, messages: Messages, tools: Messages | None = None, options: Mapping[str, Any] | None = None
    ) -> Encoded:
        """The tokens of a conversation, written on the day ``WRITTEN``; ``options`` are those of ``render``.

        Raises:
            DataError: as ``ChatTemplate.answers``, or a message holds one of ``MARKS``.
        """
        messages, tools, options = self._escaped([messages, tools or None, options])
        marked, spans = self.template.answers(messages, tools, now=WRITTEN, options=options)
        text, literal, spans = _unescaped(marked, spans)
        ids, places = self._ids(text, literal)
        answered = np.zeros(len(ids), np.bool_)
        for start, stop in spans:
            answered |= (places[:, 0] < stop) & (places[:, 1] > start)
        answers = tuple(self._said(text, literal, start, stop) for start, stop in spans)
        borders = [0, *(place for span in spans for place in span), len(text)]
        prompt = "".join(text[start:stop] for start, stop in zip(borders[::2], borders[1::2], strict=True))
        return Encoded(ids, answered, prompt, answers)

    def prompt(
        self,
        messages: Messages,
        tools: Messages | None = None,
        *,
        now: datetime | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The ids after which the assistant's next answer comes; arguments are those of ``ChatTemplate.render``."""
        messages, tools, options = self._escaped([messages, tools or None, options])
        text = self.template.render(messages, tools, add_generation_prompt=True, now=now, options=options)
        text, literal, _ = _unescaped(text, [])
        return [int(i) for i in self._ids(text, literal)[0]]

    def _escaped(self, value: Any) -> Any:
        """JSON in whose texts a mark parts whatever would be a special token."""
        try:
            return self._parted(value)
        except RecursionError:
            raise DataError("is nested too deeply", fix="flatten what a message, a tool or an option holds") from None

    def _parted(self, value: Any) -> Any:
        if isinstance(value, str):
            if any(mark in value for mark in MARKS):
                raise DataError("holds one of Unicode's noncharacters, which stand for no text", fix="remove it")
            return self._pattern.sub(lambda found: found[0][:1] + _ESCAPE + found[0][1:], value)
        if isinstance(value, Mapping):
            return {key: self._parted(item) for key, item in value.items()}
        return [self._parted(item) for item in value] if isinstance(value, list | tuple) else value

    def _ids(self, text: str, literal: frozenset[int]) -> tuple[Ids, Ids]:
        """Ids of a text and where each lies in it (tokens, 2); special tokens that begin at ``literal`` are text."""
        ids, places = list[int](), list[tuple[int, int]]()
        if not literal:
            whole = self._whole.encode(text, add_special_tokens=False)
            ids, places = whole.ids, whole.offsets
        for start, stop, special in self._parts(text, literal) if literal else ():
            if special is not None:
                ids.append(special)
                places.append((start, stop))
                continue
            piece = (self._later if start else self._text).encode(text[start:stop], add_special_tokens=False)
            ids += piece.ids
            places += [(start + a, start + b) for a, b in piece.offsets]
        return np.array(ids, np.int64), np.array(places, np.int64).reshape(-1, 2)

    def _parts(self, text: str, literal: frozenset[int]) -> Iterator[tuple[int, int, int | None]]:
        """Where the parts of a text lie, and the id of each that is a special token."""
        done = 0
        for found in self._pattern.finditer(text):
            if found.start() in literal:
                continue
            i, token = self._special[found[0]]
            start = len(text[: found.start()].rstrip()) if token.lstrip else found.start()
            after = text[found.end() :]
            stop = found.end() + (len(after) - len(after.lstrip()) if token.rstrip else 0)
            if done < start:
                yield done, start, None
            yield max(done, start), stop, i
            done = stop
        if done < len(text):
            yield done, len(text), None

    def _said(self, text: str, literal: frozenset[int], start: int, stop: int) -> str:
        parts = ((a, b) for a, b, special in self._parts(text, literal) if special is None)
        return "".join(text[max(a, start) : min(b, stop)] for a, b in parts if a < stop and b > start)


def _unescaped(text: str, spans: list[tuple[int, int]]) -> tuple[str, frozenset[int], list[tuple[int, int]]]:
    """The text without ``_ESCAPE``, the places of the character before each, and the spans of the text that is left."""
    text = text.replace(json.dumps(_ESCAPE)[1:-1], _ESCAPE)  # as a template's own JSON may write it
    places = [found.start() for found in re.finditer(_ESCAPE, text)]
    literal = frozenset(place - number - 1 for number, place in enumerate(places))
    moved = [(start - bisect_left(places, start), stop - bisect_left(places, stop)) for start, stop in spans]
    return text.replace(_ESCAPE, ""), literal, moved
