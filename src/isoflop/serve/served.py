"""A model behind the server: its name, its tokenizer, its scheduler, and how requests become sequences."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from ..core.contracts import Preparable, Tokenizer
from ..core.errors import DataError
from ..core.rng import Rng
from ..data.tokenizing import WritesChats, as_prompt, beginning
from ..decode.text import SampleText
from .engine import Engine, GrowingBatch
from .problems import invalid, unfit
from .requests import ChatRequest, CompletionRequest, GenerationRequest
from .room import Room, flops_of
from .separate import Separate
from .sequence import Growing, Wish, prompt_tail
from .token_names import TokenNames

DEFAULT_TOKENS = 16
"""New tokens of a completion that says no number, as OpenAI's."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    Args:
        ids: all of them.
        lead: so many of the first were not the client's: what begins every text.
        text: its text.

    Example:
        >>> Prompt([256, 104, 105], lead=1, text="hi").ids[1:]
        [104, 105]
    """

    ids: list[int]
    lead: int
    text: str


@dataclass
class Asked:
    """A request that was understood: what to grow, and what to answer with.

    Args:
        request: what was asked.
        prompts: in order; sequence number ``p * n + s`` is sample s of prompt p.
        sequences: one for each choice.

    Example, with ``served`` a model of bytes:
        >>> asked = served.completion(CompletionRequest(model="mine", prompt=["a", "b"], n=2))
        >>> len(asked.sequences), asked.prompt_of(3).text
        (4, 'b')
    """

    request: GenerationRequest
    prompts: list[Prompt]
    sequences: list[Growing]

    def prompt_of(self, sequence: int) -> Prompt:
        """The prompt of a choice."""
        return self.prompts[sequence // self.request.n]

    @cached_property
    def noted(self) -> int:
        """Log-probabilities that may have to be kept until it is answered."""
        return sum(sequence.noted for sequence in self.sequences)

    @cached_property
    def prompt_tokens(self) -> int:
        """Of all prompts, each once."""
        return sum(len(prompt.ids) for prompt in self.prompts)


@dataclass
class ServedModel:
    """A model and all that serving it needs.

    Args:
        name: what clients call it.
        tokenizer: of its ids.
        engine: lets sequences grow.
        created: seconds since 1970.
        fingerprint: of the weights.
        choices: sequences of one request at most.

    Example, with ``served`` a model of bytes:
        >>> served.completion(CompletionRequest(model="mine", prompt="hi")).prompts[0].ids
        [256, 104, 105]
    """

    name: str
    tokenizer: Tokenizer
    engine: Engine
    created: int = 0
    fingerprint: str = ""
    choices: int = 128
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def names(self) -> TokenNames:
        """Of its tokens."""
        return TokenNames(self.tokenizer)

    @cached_property
    def _longest(self) -> int:
        """Bytes of the longest token."""
        return max(1, int(max(self.tokenizer.byte_lengths)))

    def completion(self, request: CompletionRequest) -> Asked:
        """The sequences of a completion.

        Raises:
            Refusal: they cannot be had.
        """
        given = request.prompts()
        self._count(len(given), request.n)
        prompts = [self._of_text(each) if isinstance(each, str) else self._of_ids(each) for each in given]
        budgets = [self._budget(prompt, request.max_tokens, DEFAULT_TOKENS) for prompt in prompts]
        return self._asked(request, prompts, budgets, request.logprobs, request.echo and request.logprobs is not None)

    def chat(self, request: ChatRequest) -> Asked:
        """The sequences of an answer in a conversation.

        Raises:
            Refusal: they cannot be had.
        """
        self._count(1, request.n)
        conversation = request.conversation()
        self._bounded(sum(len(message["content"].encode("utf-8", "replace")) for message in conversation))
        with self._lock:  # a template counts its steps, one rendering at a time
            prompt = self._conversation(conversation, request.chat_template_kwargs)
        room = self.engine.room.context
        budget = self._budget(prompt, request.budget, room)
        top = (request.top_logprobs or 0) if request.logprobs else None
        return self._asked(request, [prompt], [budget], top, False)

    def _conversation(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> Prompt:
        if not isinstance(self.tokenizer, WritesChats):
            raise self._no_template("its tokenizer has none")
        try:
            encoder = self._encoder
        except DataError as error:
            raise self._no_template(error.what) from error
        try:
            ids = encoder.prompt(messages, now=datetime.now(), options=options)
        except DataError as error:
            raise invalid(f"The chat template: {error.what}", "messages") from error
        if not ids:
            raise invalid("The chat template writes nothing for these messages", "messages")
        return Prompt(ids, 0, "")

    @cached_property
    def _encoder(self) -> Any:
        assert isinstance(self.tokenizer, WritesChats)
        return self.tokenizer.chat_encoder()

    def _no_template(self, why: str) -> Exception:
        what = f"The model {self.name!r} has no chat template ({why}); use /v1/completions"
        return invalid(what, "messages", "no_chat_template")

    def _count(self, prompts: int, n: int) -> None:
        if prompts * n > self.choices:
            what = f"{prompts * n} choices are asked for; at most {self.choices} are given in one request"
            raise invalid(what, "n" if n > 1 else "prompt")

    def _bounded(self, size: int) -> None:
        """Refuse a text that is too long whatever its tokens are, before they are made."""
        if size > (self.engine.room.context + 1) * self._longest:
            raise unfit(size // self._longest, self.engine.room.context)

    def _of_text(self, text: str) -> Prompt:
        self._bounded(len(text))
        try:
            ids = as_prompt(self.tokenizer, text)
        except DataError as error:
            raise invalid(f"prompt: {error.what}", "prompt") from error
        return Prompt(ids, len(beginning(self.tokenizer)) or 1, text)

    def _of_ids(self, ids: list[int]) -> Prompt:
        vocabulary = self.tokenizer.vocab_size
        if len(ids) > self.engine.room.context:
            raise unfit(len(ids), self.engine.room.context)
        if wrong := [i for i in ids if not 0 <= i < vocabulary]:
            raise invalid(f"prompt: {str(wrong[0])[:40]} is no token id below {vocabulary}", "prompt")
        return Prompt(list(ids), 0, self.tokenizer.decode(ids))

    def _budget(self, prompt: Prompt, asked: int | None, default: int) -> int:
        """New tokens of a prompt; what is asked for and does not fit is refused, what is not asked for is cut."""
        room = self.engine.room.context - len(prompt.ids)
        if room < (0 if asked == 0 else 1) or (asked or 0) > room:
            raise unfit(len(prompt.ids) + max(asked or 0, 0 if asked == 0 else 1), self.engine.room.context)
        return min(default, room) if asked is None else asked

    def _asked(
        self,
        request: GenerationRequest,
        prompts: Sequence[Prompt],
        budgets: Sequence[int],
        logprobs: int | None,
        scored: bool,
    ) -> Asked:
        bias = request.bias(self.engine.ids)
        seed = secrets.randbits(63) if request.seed is None else request.seed % (1 << 63)
        rng, sequences = Rng(seed), list[Growing]()
        for p, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True)):
            wish = Wish(
                budget=budget,
                temperature=request.temperature,
                top_k=request.top_k if request.top_k and request.top_k > 0 else None,
                top_p=request.top_p,
                min_p=request.min_p,
                repetition_penalty=request.repetition_penalty,
                presence_penalty=request.presence_penalty,
                frequency_penalty=request.frequency_penalty,
                bias=bias,
                stops=request.stops,
                ignore_eos=request.ignore_eos,
                logprobs=logprobs,
                scored=scored,
            )
            for s in range(request.n):
                text = SampleText(self.tokenizer, prompt_tail(prompt.ids), request.stops)
                generator = rng.at(step=s, sample=p)
                sequences.append(Growing(prompt.ids, wish, len(sequences), generator, text))
        return Asked(request, list(prompts), sequences)


def serve_model(
    name: str,
    model: Any,
    tokenizer: Tokenizer,
    room: Room,
    *,
    weights: Any = None,
    created: int = 0,
    fingerprint: str = "",
    choices: int = 128,
) -> ServedModel:
    """A model with an engine that has not begun to work.

    Args:
        name: what clients call it.
        model: Cacheable; one that can continue several sequences in one step does.
        tokenizer: of its ids.
        room: how much may be going on at once.
        weights: "int8", for a model that is Preparable.
        created: seconds since 1970.
        fingerprint: of the weights.
        choices: sequences of one request at most.
    """
    ready: Any = model.prepared(room.rows, weights) if isinstance(model, Preparable) else model
    together = all(hasattr(block.mixer, "make_slots") for block in getattr(model, "blocks", None) or [None])
    make: Callable[[], GrowingBatch] = ready.make_slots if together else lambda: Separate(ready)
    engine = Engine(make, room, tokenizer.vocab_size, tokenizer.eot, flops_of(model))
    return ServedModel(name, tokenizer, engine, created, fingerprint, choices)
