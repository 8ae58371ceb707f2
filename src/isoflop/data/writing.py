"""Documents as tokens: what comes before and after each, what of it is predicted, whether its text comes back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..core.contracts import Tokenizer
from ..core.errors import DataError
from .chat_template import ASSISTANT
from .corpus import Amount
from .document import Document
from .streams import COUNTS, TEXTS, StreamWriter, Written
from .tokenizing import Ids, MayAlter, WritesChats, alters, beginning, begun, encode_many

_CHUNK = 4_000_000  # characters tokenised at once
_NO_IDS: Ids = np.empty(0, np.int64)


def write_documents(
    path: Path, documents: Sequence[Document], tokenizer: Tokenizer, *, own_starts: bool
) -> dict[str, Amount]:
    """Write the shard of ``documents`` (see ``streams``); how much it holds, by domain."""
    amounts = {domain: _zero() for domain in sorted({document.domain for document in documents})}

    def counted() -> Iterator[Written]:
        for document, written, altered in _written(tokenizer, documents):
            amount = amounts[document.domain]
            amount["documents"] += 1
            amount["text_bytes"] += len(written.text.encode())
            tokens = written.predicted - (0 if written.runs[0] else len(beginning(tokenizer)))
            amount["tokens"] += tokens
            amount["prompt_bytes"] += len(written.prompt.encode())
            amount["prompt_tokens"] += len(written.ids) - tokens
            amount["altered"] += altered
            yield written

    files = [COUNTS] if any(document.prompt or document.chat for document in documents) else []
    files += [TEXTS] if isinstance(tokenizer, MayAlter) else []
    StreamWriter(path, tokenizer, own_starts=own_starts, files=files).write(counted())
    return {domain: Amount(**amount) for domain, amount in amounts.items()}


def _zero() -> dict[str, int]:
    return dict.fromkeys(Amount.model_fields, 0)


def _written(tokenizer: Tokenizer, documents: Sequence[Document]) -> Iterator[tuple[Document, Written, bool]]:
    """Each document as tokens, and whether they give back another text.

    Prompt and completion are encoded apart, so that no token lies across the border: whoever generates encodes a prompt
    alone, too.
    """
    for chunk in _chunks(documents):
        if chunk[0].chat:  # then all are: a source gives conversations or none
            yield from ((each, *_chat(tokenizer, each)) for each in chunk)
            continue
        prompts = iter(encode_many(tokenizer, [each.prompt for each in chunk if each.prompt]))
        for each, ids in zip(chunk, _completions(tokenizer, chunk), strict=True):
            prompt = next(prompts) if each.prompt else _NO_IDS
            apart, altered = _given_back(tokenizer, each, prompt, ids)
            whole = begun(tokenizer, np.concatenate([prompt, ids]))
            masked = len(whole) - len(ids) if each.prompt else 0
            if not len(ids) or ids[-1] != tokenizer.eot:  # else it is written in the text
                whole = np.append(whole, tokenizer.eot)
            yield each, Written(whole, (masked, len(whole) - masked), each.prompt, each.completion, apart), altered


def _chat(tokenizer: Tokenizer, document: Document) -> tuple[Written, bool]:
    """A conversation as tokens. What its template does not end is ended as any text is."""
    if not isinstance(tokenizer, WritesChats):
        fix = 'take one that has: tokenizer={name="pretrained", path=DIR}'
        raise DataError("the tokenizer has no chat template", where=document.origin, fix=fix)
    chat = json.loads(document.text)
    try:
        found = tokenizer.chat_encoder().encode(chat["messages"], chat.get("tools"), chat.get("options"))
    except DataError as error:
        raise DataError(f"cannot be written as a conversation: {error}", where=document.origin) from error
    if not found.answered.any():
        fix = "give the assistant's messages content"
        raise DataError("the template writes nothing of what the assistant says", where=document.origin, fix=fix)
    ids, answered = found.ids, found.answered
    if int(ids.max()) >= tokenizer.vocab_size:
        what = f"is written with id {int(ids.max()):,}, and the model knows {tokenizer.vocab_size:,} ids"
        raise DataError(what, where=document.origin, fix="take a model that knows it, or another chat template")
    if not _ended(tokenizer, ids):
        ids, answered = np.append(ids, tokenizer.eot), np.append(answered, chat["messages"][-1]["role"] == ASSISTANT)
    borders = np.flatnonzero(np.diff(answered, prepend=False, append=not answered[-1]))
    runs = tuple(np.diff(borders, prepend=0).tolist())
    altered = any(alters(tokenizer, answer) for answer in found.answers)
    return Written(ids, runs, found.prompt, "".join(found.answers), apart=False), altered


def _ended(tokenizer: Tokenizer, ids: Ids) -> bool:
    """Whether an end of text is the last of the ids but for white space."""
    ends = np.flatnonzero(ids == tokenizer.eot)
    return len(ends) > 0 and not tokenizer.decode(ids[ends[-1] + 1 :].tolist()).strip()


def _completions(tokenizer: Tokenizer, chunk: Sequence[Document]) -> list[Ids]:
    texts = [each.completion for each in chunk]
    if not isinstance(tokenizer, MayAlter):
        return encode_many(tokenizer, texts)
    found = iter(encode_many(tokenizer, [each.text for each in chunk if not each.prompt]))
    after = iter(tokenizer.encode_after([each.completion for each in chunk if each.prompt]))
    return [next(after if each.prompt else found) for each in chunk]


def _given_back(tokenizer: Tokenizer, document: Document, prompt: Ids, ids: Ids) -> tuple[bool, bool]:
    """Whether the ids of its prompt and of what follows give back each, and whether together they give other text."""
    if not isinstance(tokenizer, MayAlter):
        return True, False
    apart = tokenizer.decode(ids.tolist()) == document.completion
    if apart and not document.prompt:
        return True, False
    apart = apart and tokenizer.decode(prompt.tolist()) == document.prompt
    return apart, not tokenizer.gives_back([*prompt.tolist(), *ids.tolist()], document.text)


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk, size = list[Document](), 0
    for document in documents:
        chunk.append(document)
        size += len(document.text)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
