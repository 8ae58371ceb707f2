"""The tokenizer of a published model, from its directory: its special tokens, its rules and its chat template."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import tokenizers as hf
from pydantic import Field, PositiveInt

from ...core.contracts import TokenizerPart
from ...core.errors import DataError
from ...core.reading import user_path
from ...core.registry import Card, part
from ..chat_template import ChatTemplate
from ..chats import ChatEncoder
from ..foreign import ESTIMATES, ForeignTokenizer, following, ids_of, size_of
from ..tokenizer_directory import TokenizerDirectory, around
from ..tokenizing import Ids, WritesChats

Written = Literal["text", "tokens"]


class PretrainedTokenizer(ForeignTokenizer):
    """A published model's tokenizer as its directory means it.

    Attributes:
        starts: ids that the model expects before every text, e.g. that of ``<s>``; usually none or one.
        before: ids that the library puts before a text: ``starts``, or the end of another text.
        bos: the id of the token that the directory names as a text's beginning, whether it is put there or not.
        chat_template: the Jinja template of conversations, if the directory has one.
        special_tokens: special tokens by their keys, as templates know them ("bos_token", "eos_token", ...).
        remarks: what a user should know of it, as sentences.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, "a"))
        >>> _ = words.add_special_tokens(["</s>"])
        >>> words.save("tokenizer.json")
        >>> tokenizer = PretrainedTokenizer(TokenizerDirectory.read(Path()), eot="</s>")
        >>> tokenizer.encode("b").tolist(), tokenizer.starts
        ([1], ())
    """

    def __init__(
        self,
        directory: TokenizerDirectory,
        eot: str | None = None,
        vocab_size: int | None = None,
        written: Written = "text",
    ) -> None:
        directory, tokenizer = directory.opened()
        before, _ = around(tokenizer)
        super().__init__(tokenizer, directory.end_of_text(tokenizer, eot), directory.file)
        self._directory, self._written = directory, written
        self.before, self.starts = before, () if before == (self.eot,) else before
        if written == "tokens":  # an end of text may lie anywhere: each text has a beginning of its own
            tokenizer.encode_special_tokens = False
            self.starts = self.starts or (self.eot,)
        self.chat_template = directory.chat_template
        self.special_tokens = directory.named_tokens()
        self.bos: int | None = tokenizer.token_to_id(self.special_tokens.get("bos_token", ""))
        self.remarks = [ESTIMATES.format(self.inexact)] if self.inexact else []
        self._chats: ChatEncoder | None = None
        if vocab_size is not None:
            self._resize(vocab_size)

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """Ids (tokens,) of each text. A lone surrogate, or an id that the model does not know, is a DataError."""
        return self._known(texts, super().encode_many(texts))

    def encode_after(self, texts: Sequence[str]) -> list[Ids]:
        """``encode_many`` of texts that follow another one: the blank that may be put before a text is not."""
        return self._known(texts, ids_of(self._following, texts))

    @functools.cached_property
    def _following(self) -> hf.Tokenizer:
        return following(self._tokenizer)

    def gives_back(self, ids: Sequence[int], text: str) -> bool:
        """Whether the ids stand for that text, special tokens included where they are recognised."""
        back = self._tokenizer.decode(list(ids), skip_special_tokens=self._written == "text")
        return bool(back == text)

    def _known(self, texts: Sequence[str], found: list[Ids]) -> list[Ids]:
        for text, ids in zip(texts, found, strict=True):
            if len(ids) and int(ids.max()) >= self.vocab_size:
                token = self._tokenizer.id_to_token(int(ids.max()))
                what = f"the model knows {self.vocab_size:,} ids, and {token!r} in a text that begins {text[:40]!r}"
                fix = "change the text, or take a model that knows that token"
                raise DataError(f"{what} is beyond them", where=str(self._path), fix=fix)
        return found

    def chat_encoder(self) -> ChatEncoder:
        """What writes and encodes conversations.

        Raises:
            DataError: the directory has no chat template, or it cannot be used.
        """
        if self.chat_template is None:
            fix = (
                "put a chat_template.jinja beside the tokenizer (those of the model's instruct version know its tokens)"
            )
            raise DataError("has no chat template", where=str(self._path.parent), fix=fix)
        if self._chats is None:
            template = ChatTemplate(self.chat_template, self.special_tokens, str(self._path.parent))
            self._chats = ChatEncoder(template, self._tokenizer)
        return self._chats

    def save(self, path: Path) -> None:
        """Write it as a ``tokenizer.json`` with a ``tokenizer_config.json`` beside it."""
        eos = self._tokenizer.id_to_token(self.eot)
        self._directory.save(path, self._tokenizer, eos_token=eos)

    def _resize(self, vocab_size: int) -> None:
        """Take ``vocab_size`` ids as known, whatever the tokenizer has; the difference is remarked on."""
        own, self.vocab_size = self.vocab_size, vocab_size
        if self.eot >= vocab_size:
            what = f"ends a text with id {self.eot}, and the model knows {vocab_size:,}"
            raise DataError(what, where=str(self._path), fix="set tokenizer.eot, or take the model's own tokenizer")
        lengths: Ids = np.zeros(vocab_size, np.int64)
        lengths[:own] = self.byte_lengths[:vocab_size]
        self.byte_lengths = lengths
        if vocab_size > own:
            self.remarks.append(f"the model knows {vocab_size:,} ids, {vocab_size - own:,} more than the tokenizer")
        elif vocab_size < own:
            more = f"the tokenizer has {own:,} ids, {own - vocab_size:,} more than the model"
            self.remarks.append(f"{more}: text with one of those is refused")


@part
class PretrainedPart(TokenizerPart):
    """The tokenizer of a published model, from its directory or one of the files in it.

    A Hugging Face directory holds a ``tokenizer.json`` or sentencepiece's ``tokenizer.model``, and beside it files that
    say which tokens are special, what a text begins with and how a conversation is written. Special tokens in a text
    are text, unless ``special_tokens`` says otherwise; only a chat template writes them.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, "a")).save("tokenizer.json")
        >>> _ = Path("tokenizer_config.json").write_text('{"eos_token": "</s>"}')
        >>> PretrainedPart(path=".").build(iter(())).eot
        2
    """

    path: Annotated[str, Field(min_length=1)]
    """The directory, its tokenizer.json or its tokenizer.model (which needs the extra hf)."""
    eot: str | None = None
    """The special token that ends a text; none: the one that the directory names."""
    special_tokens: Written = "text"
    """What a special token is that is written in a text: "text" as any other, or "tokens", as in rendered chats."""
    vocab_size: PositiveInt | None = None
    """Ids that the model knows where they are more (padding) or fewer than the tokenizer's; none: the tokenizer's."""
    card = Card(
        summary="A published model's tokenizer with its special tokens and chat template; nothing is trained.",
        differs="special tokens are not recognised in text unless that is asked for",
    )

    provides: ClassVar[frozenset[type]] = frozenset({WritesChats})

    @property
    def vocabulary(self) -> int:
        return self.vocab_size or _size(self.path, self.inputs())

    def inputs(self) -> str:
        """A digest of the tokenizer and of what lies beside it."""
        return TokenizerDirectory.read(user_path(self.path)).digest()

    def build(self, texts: Iterator[str]) -> PretrainedTokenizer:
        return self.load(user_path(self.path))

    def load(self, path: Path) -> PretrainedTokenizer:
        """The tokenizer of a copy that ``PretrainedTokenizer.save`` wrote, wherever the original is by now."""
        return PretrainedTokenizer(TokenizerDirectory.read(path), self.eot, self.vocab_size, self.special_tokens)


@functools.lru_cache(maxsize=4)
def _size(path: str, digest: str) -> int:
    return size_of(TokenizerDirectory.read(user_path(path)).opened()[1])
