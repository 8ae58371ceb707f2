"""Bodies of requests in OpenAI's form, read strictly: what is unknown, unsupported or out of range is refused."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import nearest
from .problems import Refusal, invalid

TOP_LOGPROBS = 20
"""Alternatives beside a token at most."""
STOPS = 16
"""Strings that end a text at most."""
LONGEST_STOP = 256
"""Characters of one at most."""
_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
"""Parameters that say nothing of the text."""
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": ("none",),
}
"""Parameters of OpenAI that are not supported, and the values of each that ask for nothing."""

Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]


class StreamOptions(BaseModel):
    """What a stream tells besides.

    Example:
        >>> StreamOptions(include_usage=True).include_usage
        True
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationRequest(BaseModel):
    """What both kinds of request say of the text that is wanted.

    Example:
        >>> GenerationRequest(model="mine", stop="x").stops
        ('x',)
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] = {}
    n: Annotated[int, Field(ge=1)] = 1
    stop: str | list[str] = []
    seed: Seed | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the text."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with what was used."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self) -> None:
        """Refuse what no single field tells."""
        if len(self.stops) > STOPS or any(not each or len(each) > LONGEST_STOP for each in self.stops):
            raise invalid(f"stop must be 1 to {STOPS} strings of 1 to {LONGEST_STOP} characters", "stop")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options is only allowed where stream is true", "stream_options")

    def bias(self, vocabulary: int) -> dict[int, float]:
        """What is added to the logits of which ids."""
        found = {}
        for name, value in self.logit_bias.items():
            if not (name.isascii() and name.isdigit() and len(name) < 20 and int(name) < vocabulary):
                raise invalid(f"logit_bias: {name[:40]!r} is no token id below {vocabulary}", "logit_bias")
            found[int(name)] = value
        return found


class CompletionRequest(GenerationRequest):
    """The body of ``/v1/completions``.

    Example:
        >>> CompletionRequest(model="mine", prompt=[[1, 2], [3]]).prompts()
        [[1, 2], [3]]
    """

    prompt: Any = ""
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    def check(self) -> None:
        super().check()
        if self.best_of not in (None, self.n):
            raise invalid("best_of is not supported but where it is n", "best_of", "unsupported_parameter")

    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as ids."""
        given = self.prompt
        if isinstance(given, str) or (given and _is_ids(given)):
            return [given]
        if isinstance(given, list) and given and all(isinstance(each, str) or _is_ids(each) for each in given):
            return given
        raise invalid("prompt must be a string, token ids, or a list of either, and none may be empty", "prompt")


class ChatRequest(GenerationRequest):
    """The body of ``/v1/chat/completions``.

    Example:
        >>> ChatRequest(model="mine", messages=[{"role": "user", "content": "Hello"}]).conversation()
        [{'role': 'user', 'content': 'Hello'}]
    """

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS)] | None = None
    chat_template_kwargs: dict[str, Any] = {}

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs is only allowed where logprobs is true", "top_logprobs")

    @property
    def budget(self) -> int | None:
        """Most new tokens, by either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as a chat template takes them: contents that come in parts of text are joined."""
        return [_message(i, message) for i, message in enumerate(self.messages)]


def _message(i: int, message: dict[str, Any]) -> dict[str, Any]:
    where, content = f"messages[{i}]", message.get("content")
    if not isinstance(message.get("role"), str):
        raise invalid(f"{where}.role must be a string", where)
    if isinstance(content, list):
        if not all(isinstance(each, dict) and isinstance(each.get("text"), str) for each in content):
            raise invalid(f"{where}.content: only parts of text are supported", where, "unsupported_content")
        content = "".join(each["text"] for each in content)
    if content is None and "tool_calls" in message:
        content = ""
    if not isinstance(content, str):
        raise invalid(f"{where}.content must be a string or parts of text", where)
    return {**message, "content": content}


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int for i in value)


R = TypeVar("R", bound=GenerationRequest)


def read(body: bytes, kind: type[R]) -> R:
    """The request of a body.

    Args:
        body: JSON.
        kind: which request.

    Raises:
        Refusal: it is no such request, with the first thing that is wrong.
    """
    try:
        tree = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is no valid JSON: {error}") from error
    if not isinstance(tree, dict):
        raise invalid("The body must be a JSON object")
    given = {name: value for name, value in tree.items() if value is not None and name not in _IGNORED}
    for name, harmless in _HARMLESS.items():
        if name in given and given.pop(name) not in harmless:
            raise invalid(f"{name} is not supported by this server", name, "unsupported_parameter")
    for name in given:
        if name not in kind.model_fields:
            near = nearest(name, kind.model_fields, listing=False)
            what = f"Unrecognized request argument supplied: {name[:100]}" + (f"; {near}" if near else "")
            raise invalid(what, name[:100], "unknown_parameter")
    try:
        request = kind.model_validate(given)
    except ValidationError as error:
        raise _refused(error) from error
    request.check()
    return request


def _refused(error: ValidationError) -> Refusal:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(each) for each in first["loc"])[:100]
    return invalid(f"{place}: {first['msg']}", place)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
