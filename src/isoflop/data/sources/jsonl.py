"""JSON Lines, plain or gzipped: one document a record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from ...core.documents import Later
from ...core.registry import Card, part
from ..chat_template import ASSISTANT, as_json
from ..document import Document, group_of
from ..reading import Paths, digest_of, files_of, read_chats, read_pairs, read_records
from ..text_source import TextSourcePart
from ..tokenizing import WritesChats

Key = Annotated[str, Field(min_length=1)]


@part
class JsonlPart(TextSourcePart):
    """Records of .jsonl and .jsonl.gz files; each is a document and is held out or not by itself.

    With ``prompt_key`` a record is a prompt and a completion: the prompt is seen, and only the completion and the end
    of the document are predicted, in training and where held-out text is measured. Records of one prompt lie on the
    same side of the split. Prompts that share much text may make records near duplicates: see ``deduplicate``.

    With ``messages_key`` a record is a conversation, which the tokenizer's chat template writes out ("tools" of the
    record go to the template, too). What the assistant says in it is predicted, every turn, and nothing else.
    Conversations that begin alike, up to the first answer, lie on the same side of the split.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("sums.jsonl").write_text('{"prompt": "2 + 2 = ", "completion": "4"}')
        >>> source = JsonlPart(paths=("sums.jsonl",), prompt_key="prompt")
        >>> [(document.prompt, document.completion) for document in source.documents()]
        [('2 + 2 = ', '4')]
    """

    paths: Paths
    """Files or glob patterns, e.g. "shards/*.jsonl.gz"."""
    key: str = "text"
    """The key that holds the text."""
    domain: Annotated[str, Field(min_length=1)] = "text"
    """What the held-out text is evaluated under, where no domain_key is given."""
    domain_key: str | None = None
    """A key whose string is the record's domain."""
    prompt_key: Annotated[Key | None, Later()] = None
    """The key that holds the prompt; then the rest of the document is under completion_key, and nothing under key."""
    completion_key: Annotated[Key, Later()] = "completion"
    """The key that holds what follows the prompt."""
    messages_key: Annotated[Key | None, Later()] = None
    """The key that holds a conversation's messages, e.g. "messages"; then there is neither text nor prompt."""
    group_key: Annotated[Key | None, Later()] = None
    """A key whose records lie on the same side of the split if they share its value, e.g. "pair" of `data rephrase`."""
    version: ClassVar[int] = 2
    card = Card(
        summary="JSON Lines files, plain or gzipped, one document a record.",
        differs="strict: NaN, a torn last line or a missing key is an error with its line, never skipped",
        cost="reads every file at every start, to notice changes",
    )

    @model_validator(mode="after")
    def _apart(self) -> JsonlPart:
        if self.messages_key is not None and self.prompt_key is not None:
            raise ValueError("messages_key and prompt_key are both given; a record has a conversation or a prompt")
        if self.prompt_key == self.completion_key:
            raise ValueError(f"prompt_key and completion_key are both {self.prompt_key!r}; name two keys")
        if self.group_key is not None and not self.predicts_all:
            raise ValueError("group_key is for records of text; prompts and conversations are grouped by themselves")
        return self

    @property
    def predicts_all(self) -> bool:
        return self.prompt_key is None and self.messages_key is None

    def check(self, recipe: Any) -> list[str]:
        if self.messages_key is not None and WritesChats not in recipe.tokenizer.abilities:
            fix = 'use {name = "pretrained", path = DIR} with a directory that has one'
            return [f"source.messages_key: tokenizer {recipe.tokenizer.name} has no chat template; {fix}"]
        if self.predicts_all or recipe.budget.axis != "tokens" or recipe.source is not self:
            return []
        return [
            "budget.tokens: how many tokens a step predicts depends on its prompts; give budget.text_bytes, which are "
            "those of completions, or a budget in steps or flops"
        ]

    def documents(self) -> Iterator[Document]:
        if self.prompt_key is not None:
            yield from self._pairs(self.prompt_key)
            return
        if self.messages_key is not None:
            yield from self._chats(self.messages_key)
            return
        for path, empty in files_of(self.paths).items():
            for line, text, domain, group in read_records(path, self.key, self.domain_key, self.group_key, empty=empty):
                if text.strip():
                    yield Document(text, domain or self.domain, f"{path}:{line}", group_of(group or text))

    def _pairs(self, prompt_key: str) -> Iterator[Document]:
        keys = (prompt_key, self.completion_key, self.domain_key)
        for path, empty in files_of(self.paths).items():
            for line, prompt, completion, domain in read_pairs(path, *keys, other=self.key, empty=empty):
                text, group = prompt + completion, group_of(prompt or completion)
                yield Document(text, domain or self.domain, f"{path}:{line}", group, prompt)

    def _chats(self, key: str) -> Iterator[Document]:
        others = (self.key, "prompt", self.completion_key)
        for path, empty in files_of(self.paths).items():
            for line, chat, domain in read_chats(path, key, self.domain_key, others=others, empty=empty):
                first = next(i for i, message in enumerate(chat["messages"]) if message["role"] == ASSISTANT)
                group = group_of(as_json(chat["messages"][:first] or chat["messages"]))
                yield Document(as_json(chat), domain or self.domain, f"{path}:{line}", group, chat=True)

    def look(self) -> None:
        files_of(self.paths)

    def inputs(self) -> str:
        return digest_of(files_of(self.paths))
