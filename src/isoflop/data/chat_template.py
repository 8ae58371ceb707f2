"""Chat templates: how a model's conversations are written as text, in Jinja as published models carry them.

A template is somebody else's program. It runs in Jinja's immutable sandbox, which lets it touch nothing but the
conversation; its loops and calls are counted and timed, and what it may build is bounded.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ..core.errors import DataError

STEPS = 200_000
"""Turns of loops and calls of macros that one rendering may take."""
SECONDS = 10.0
"""How long one rendering may take."""
CHARACTERS = 1 << 24
"""Characters of what one rendering, or one operation in it, may build."""
ASSISTANT = "assistant"
_OPEN, _CLOSE = (
    "\ufdd0",
    "\ufdd1",
)  # noncharacters of Unicode, which no text holds: they mark what {% generation %} does
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception"})
"""Names that no option of a template may have."""
MARKS = (_OPEN, _CLOSE, "\ufdd2")
"""Characters that no conversation may hold; the third is the caller's own."""


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja.
        special_tokens: what it knows by names such as ``bos_token``.
        where: the file it came from, for messages.

    Raises:
        DataError: it is no Jinja template.

    Example:
        >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        >>> ChatTemplate(source, {}, "here").render([{"role": "user", "content": "Hello"}])
        '<user>Hello'
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], where: str) -> None:
        self._where, self._tokens = where, dict(special_tokens)
        self._environment = _Environment()
        try:
            self._template = self._environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise self._refused(error) from error
        self.marks_generation = self._environment.generates

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        now: datetime | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: JSON objects with "role" and "content".
            tools: JSON schemas of functions that the assistant may call.
            add_generation_prompt: end with what an answer of the assistant begins with.
            now: the date that the template sees; None: today's.
            options: what else the template asks for by name, e.g. ``enable_thinking``.

        Raises:
            DataError: the template refuses the conversation, fails, or does what it may not.
        """
        text = self._rendered(messages, tools, add_generation_prompt, now, options)
        return text.replace(_OPEN, "").replace(_CLOSE, "")

    def answers(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        now: datetime | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and where in it the assistant's answers lie (start, stop).

        They are what the template puts into ``{% generation %}`` blocks. Where it has none, an answer is what its
        message adds to the messages before it and the prompt for an answer, as the whole conversation writes it: some
        templates leave out what an earlier answer had thought.

        Raises:
            DataError: as ``render``, or nothing tells where an answer begins and ends.
        """
        if self.marks_generation:
            return _unmarked(self._rendered(messages, tools, False, now, options))

        def write(messages: Sequence[Mapping[str, Any]], *, prompt: bool = False) -> str:
            return self._rendered(messages, tools, prompt, now, options)

        whole, spans = write(messages), list[tuple[int, int]]()
        for number, message in enumerate(messages):
            if message.get("role") != ASSISTANT:
                continue
            span = _answer(write, messages, number, whole)
            if span is None:
                raise DataError(
                    f"writes message {number + 1} of {len(messages)} so that nothing tells where the assistant's "
                    "answer begins and ends",
                    where=self._where,
                    fix="put {% generation %} ... {% endgeneration %} around answers in the template, or give "
                    "conversations of one answer each",
                )
            spans.append(span)
        return whole, spans

    def _rendered(self, messages: Any, tools: Any, add_generation_prompt: bool, now: datetime | None, more: Any) -> str:
        if taken := sorted({*(more or ())} & RESERVED):
            fix = f"leave out {', '.join(taken)}"
            raise DataError("gives the template as an option what it has anyway", where=self._where, fix=fix)
        known = {**self._tokens, **(more or {}), "messages": messages, "tools": tools or None, "documents": None}
        date = now or datetime.now()
        pieces, size = list[str](), 0
        try:
            self._environment.begin()
            # As one table: an option may have any name, "self" among them.
            stream = self._template.generate(
                {**known, "add_generation_prompt": add_generation_prompt, "strftime_now": date.strftime}
            )
            for piece in stream:
                pieces.append(piece)
                size += len(piece)
                _bounded(size)
            return "".join(pieces)
        except (MemoryError, RecursionError) as error:
            raise DataError("is nested too deeply or grows too large", where=self._where) from error
        except Exception as error:  # whatever the template made of the conversation: an unknown filter, a wrong type
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> DataError:
        kind = "does what a template may not" if isinstance(error, SecurityError) else "cannot be used"
        line = getattr(error, "lineno", None)
        place = f"chat template, line {line}" if line else "chat template"
        return DataError(f"{kind}: {error}", where=f"{self._where}: {place}", fix="mend or replace the chat template")


def _unmarked(marked: str) -> tuple[str, list[tuple[int, int]]]:
    pieces, spans, size = list[str](), list[tuple[int, int]](), 0
    for piece in marked.replace(_CLOSE, _OPEN).split(_OPEN):
        pieces.append(piece)
        if len(pieces) % 2 == 0 and piece:
            spans.append((size, size + len(piece)))
        size += len(piece)
    return "".join(pieces), spans


def _answer(
    write: Callable[..., str], messages: Sequence[Mapping[str, Any]], number: int, whole: str
) -> tuple[int, int] | None:
    """Where the answer of a message lies in the whole conversation (start, stop); None where nothing tells.

    It begins where the text behind the message before stops being the prompt for an answer, and ends behind its content
    and what ends it as a last message, if the whole has that.
    """
    until, after = messages[:number], messages[: number + 1]
    before, end = write(until, prompt=True), write(after)
    if whole.startswith(end) and end.startswith(before):
        return len(before), len(end)
    here, here_alone = _around(write, messages, number), _around(write, after, number)
    if here is None or here_alone is None:
        return None
    start, stop = _shared(whole, here[0]), _place(whole, here[1], _ending(here[1], here_alone[1]))
    if number:
        previous, asked = _around(write, messages, number - 1), _around(write, until, number - 1, prompt=True)
        if previous is None or asked is None:
            return None
        begin = _place(whole, previous[1], _shared(previous[1], asked[1]))
        start = -1 if begin is None else min(start, begin)
    return (start, stop) if stop is not None and 0 <= start <= stop else None


def _around(
    write: Callable[..., str], messages: Sequence[Mapping[str, Any]], number: int, *, prompt: bool = False
) -> tuple[str, str] | None:
    """What stands before a message's content and behind it; None where its content stands nowhere, or twice."""
    marked, in_parts = [*messages], isinstance(messages[number].get("content"), list)
    marked[number] = {**messages[number], "content": [{"type": "text", "text": _OPEN}] if in_parts else _OPEN}
    before, *after = write(marked, prompt=prompt).split(_OPEN)
    return (before, after[0]) if len(after) == 1 else None


def _place(whole: str, text: str, length: int) -> int | None:
    """Where in the whole, which ends as ``text`` does, so many characters of that text are over."""
    rest = text[length:]
    return len(whole) - len(rest) if whole.endswith(rest) else None


def _ending(text: str, alone: str) -> int:
    """How much of what stands behind an answer ends it, which would end with ``alone`` as the last message.

    Where that differs, e.g. by an end of the whole text, both may begin alike by chance: no mark is cut in two.
    """
    shared = _shared(text, alone)
    return shared if shared == len(alone) else max(text.rfind(each, 0, shared) for each in ">]\n") + 1


def _shared(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    least = min(len(one), len(other))
    return next((place for place in range(least) if one[place] != other[place]), least)


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``: its text stands between two marks."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        self.environment.generates = True  # type: ignore[attr-defined]
        opening, closing = (nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (_OPEN, _CLOSE))
        return [opening, *body, closing]


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the names that transformers gives to templates, and with bounds."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.generates = False
        self.filters = {name: _careful(call) for name, call in self.filters.items()}
        self.filters |= {"tojson": as_json, _COUNTED: self._counted, _JOINED: _joined}
        self.globals |= {"raise_exception": _raise, "namespace": _OwnNamespace, "dict": dict}
        self.begin()

    def begin(self) -> None:
        """Count and time anew."""
        self._steps, self._end = 0, time.monotonic() + SECONDS

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for block in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            count = nodes.Filter(nodes.Const(""), _COUNTED, [], [], None, None, lineno=block.lineno)
            block.body.insert(0, nodes.Output([count], lineno=block.lineno))  # type: ignore[attr-defined]
        for node in list(tree.find_all(nodes.Concat)):
            node.nodes = [nodes.Filter(nodes.List(node.nodes), _JOINED, [], [], None, None, lineno=node.lineno)]
        tree.set_environment(self)
        return tree

    @pass_context  # so that it is called each time, not once when the template is compiled
    def _counted(self, context: Context, text: str) -> str:
        self._steps += 1
        if self._steps > STEPS:
            raise SecurityError(f"it takes more than {STEPS:,} turns of loops")
        if time.monotonic() > self._end:
            raise SecurityError(f"it runs for more than {SECONDS:g} seconds")
        return text

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _bounded(left.bit_length() * abs(right))
        elif operator == "*":
            for a, b in ((left, right), (right, left)):
                if isinstance(a, str | list | tuple) and isinstance(b, int):
                    _bounded(len(a) * b)
        elif isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _bounded(len(left) + len(right))
        if operator == "%" and isinstance(left, str):
            _check_widths(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _check_arguments(getattr(__obj, "__name__", ""), (getattr(__obj, "__self__", None), *args), kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        if isinstance(template := getattr(value, "__self__", None), str):
            _check_widths(template)
        return super().wrap_str_format(value)


_COUNTED, _JOINED = "_counted", "_joined"


class _OwnNamespace(Namespace):
    """Names that begin with an underscore are Python's own."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace takes no name like {name!r}")
        super().__setitem__(name, value)


def _careful(call: Any) -> Any:
    """A filter that builds nothing out of bounds."""

    @functools.wraps(call)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(getattr(call, "__name__", ""), args, kwargs)
        return call(*args, **kwargs)

    return bounded


def _check_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int):
            _bounded(abs(value), "an argument of")
    texts = [value for value in (*args, *kwargs.values()) if isinstance(value, str)]
    if name.endswith("replace") and len(texts) == 3:
        _bounded((len(texts[0]) // max(1, len(texts[1])) + 1) * max(1, len(texts[2])))
    if name.endswith("join"):
        parts = [value for value in args if isinstance(value, list | tuple)]
        _bounded(sum(len(str(item)) + sum(map(len, texts)) for part in parts for item in part))
    if "format" in name and texts:
        _check_widths(texts[0])


def _check_widths(template: str) -> None:
    digits = "".join(character if character.isdigit() else " " for character in template).split()
    for number in digits:
        _bounded(int(number[:12]), "a width of")


def _bounded(size: int, what: str = "text of") -> None:
    if size > CHARACTERS:
        raise SecurityError(f"it builds {what} {size:,}, more than {CHARACTERS:,}")


def _joined(parts: Iterable[Any]) -> str:
    texts = [str(part) for part in parts]
    _bounded(sum(map(len, texts)))
    return "".join(texts)


def as_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is, keys in their order: Jinja's own filter escapes what HTML does."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    _bounded(len(text))
    return text


def _raise(message: str) -> None:
    raise TemplateError(message)
