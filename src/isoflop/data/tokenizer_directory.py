"""What lies beside a tokenizer in a published model's directory: which tokens are special, and what a text begins with.

The rules are those of transformers: ``tokenizer_config.json`` names the special tokens and adds tokens that
``tokenizer.json`` lacks; what a text begins with is that file's post-processor, and where there is only a sentencepiece
model, ``add_bos_token`` says it; a chat template is a file of its own or a string in the configuration.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers as hf

from ..core.contracts import TOKENIZER
from ..core.digests import digest, digest_file
from ..core.errors import DataError, nearest
from ..core.files import write_atomic, write_json
from ..core.reading import read_json, read_text
from .foreign import description_of, special_ids, steps
from .sentencepiece import from_sentencepiece
from .tokenizing import open_tokenizer

CONFIG = "tokenizer_config.json"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_SIBLINGS = (
    CONFIG,
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FIX = "transformers writes one: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"


@dataclass(frozen=True)
class TokenizerDirectory:
    """The files of one tokenizer.

    Args:
        file: its ``tokenizer.json`` or sentencepiece model.
        config: ``tokenizer_config.json`` with what the other files add: special tokens, the chat template.

    Example:
        >>> _ = Path("tokenizer.json").write_text("{}")
        >>> _ = Path("tokenizer_config.json").write_text('{"eos_token": "</s>"}')
        >>> TokenizerDirectory.read(Path()).token("eos_token")
        '</s>'
    """

    file: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> TokenizerDirectory:
        """The files of a directory, or of one of its files and those beside it.

        Raises:
            DataError: there is no tokenizer, or a file beside it is broken.
        """
        file = find(path)
        beside = {name: file.parent / name for name in _SIBLINGS if (file.parent / name).is_file()}
        trees = {name: read_json(at, dict[str, Any]) for name, at in beside.items() if at.suffix == ".json"}
        config = {**trees.get("special_tokens_map.json", {}), **trees.get(CONFIG, {})}
        if "chat_template" in trees.get("chat_template.json", {}):
            config["chat_template"] = trees["chat_template.json"]["chat_template"]
        if "chat_template.jinja" in beside:
            config["chat_template"] = read_text(beside["chat_template.jinja"])
        if config.get("eos_token") is None and "eos_token_id" in trees.get("generation_config.json", {}):
            config["eos_token_id"] = trees["generation_config.json"]["eos_token_id"]
        return cls(file, config)

    def opened(self) -> tuple[TokenizerDirectory, hf.Tokenizer]:
        """The library's object with the tokens that the configuration adds, and the directory with those it names.

        Raises:
            DataError: the file is broken, or the configuration gives a token another id than the tokenizer.
            UsageError: it is a sentencepiece model, and the package that reads one is missing.
        """
        whole = self
        if self.file.suffix == ".model":
            tokenizer, named = from_sentencepiece(self.file, legacy=self.config.get("legacy") is True)
            whole = TokenizerDirectory(self.file, {**named, **self.config})
        else:
            tokenizer = open_tokenizer(self.file)
        whole._add_tokens(tokenizer)
        if self.file.suffix == ".model":
            whole._add_rule(tokenizer)
        return whole, tokenizer

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of conversations; of several named ones, the one called "default"."""
        found = self.config.get("chat_template")
        if isinstance(found, list):  # as older directories name several
            named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
            found = named.get("default")
        elif isinstance(found, dict):
            found = found.get("default")
        return found if isinstance(found, str) else None

    def token(self, key: str) -> str | None:
        """A special token by its key, e.g. "eos_token"; None if the directory names none."""
        found = self.config.get(key)
        found = found.get("content") if isinstance(found, dict) else found
        return found if isinstance(found, str) else None

    def named_tokens(self) -> dict[str, str]:
        """Every special token that has a name, by key."""
        return {key: token for key in _NAMED if (token := self.token(key)) is not None}

    def end_of_text(self, tokenizer: hf.Tokenizer, wanted: str | None) -> int:
        """The id that ends a text: the token asked for, or the directory's end of a sequence.

        Raises:
            DataError: there is none, or it may occur in text.
        """
        special = special_ids(tokenizer)
        if wanted is None:
            _, after = around(tokenizer)
            choices = [self.token("eos_token"), *self._ids_named(tokenizer), self.token("sep_token")]
            wanted = next((token for token in choices if token is not None), None)
            if wanted is None and after:
                wanted = tokenizer.id_to_token(after[-1])
        if wanted is not None and wanted in special:
            return special[wanted]
        what = "names no token that ends a text" if wanted is None else f"has no special token {wanted!r}"
        fix = f"set tokenizer.eot: {nearest(wanted or '', special)}" if special else "choose tokenizer bpe or bytes"
        raise DataError(what, where=str(self.file), fix=fix)

    def digest(self) -> str:
        """A digest of every file that is read."""
        return digest({"file": digest_file(self.file), "config": self.config})

    def save(self, path: Path, tokenizer: hf.Tokenizer, **changes: Any) -> None:
        """Write the tokenizer as ``path`` and its configuration beside it, as a directory that transformers reads."""
        write_atomic(path, tokenizer.to_str(pretty=False))
        config = {key: value for key, value in self.config.items() if key != "auto_map"}  # no code comes along
        write_json(path.with_name(CONFIG), {**config, **changes})

    def _ids_named(self, tokenizer: hf.Tokenizer) -> list[str | None]:
        found = self.config.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        return [tokenizer.id_to_token(i) for i in ids if isinstance(i, int) and i >= 0]

    def _add_tokens(self, tokenizer: hf.Tokenizer) -> None:
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        listed = self.config.get("added_tokens_decoder") or {}
        if not isinstance(listed, dict) or not all(i.isdecimal() and isinstance(t, dict) for i, t in listed.items()):
            raise DataError("added_tokens_decoder is no table of ids and tokens", where=str(self.file.parent / CONFIG))
        for i, table in sorted(listed.items(), key=lambda item: int(item[0])):
            token = _token(table)
            if token.content not in known:
                tokenizer.add_tokens([token])
            if (ours := tokenizer.token_to_id(token.content)) != int(i):
                what = f"gives {token.content!r} the id {i}, {self.file.name} gives it {ours}"
                raise DataError(what, where=str(self.file.parent / CONFIG), fix=_FIX)
        extra = self.config.get("additional_special_tokens") or self.config.get("extra_special_tokens") or []
        extra = list(extra.values()) if isinstance(extra, dict) else extra
        for each in [*(self.config.get(key) for key in _NAMED), *extra]:
            if each:
                token = _token(each if isinstance(each, dict) else {"content": each})
                token.special = True
                tokenizer.add_special_tokens([token])

    def _add_rule(self, tokenizer: hf.Tokenizer) -> None:
        before = self.token("bos_token") if self.config.get("add_bos_token") else None
        after = self.token("eos_token") if self.config.get("add_eos_token") else None
        used = [token for token in (before, after) if token is not None]
        tokenizer.post_processor = hf.processors.TemplateProcessing(
            single=" ".join([*([before] if before else []), "$A", *([after] if after else [])]),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(used)],
        )


def find(path: Path) -> Path:
    """The file of a tokenizer: ``path`` itself, or the one that its directory holds."""
    if not path.is_dir():
        return path
    for name in (TOKENIZER, *_SENTENCEPIECE):
        if (path / name).is_file():
            return path / name
    raise DataError(f"holds no {TOKENIZER} and no {_SENTENCEPIECE[0]}", where=str(path), fix=_FIX)


def around(tokenizer: hf.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the library puts before and after a text."""
    before, after = list[int](), list[int]()
    for step in steps(description_of(tokenizer)["post_processor"]):
        if step["type"] in ("BertProcessing", "RobertaProcessing"):
            before, after = [step["cls"][1], *before], [*after, step["sep"][1]]
        elif step["type"] == "TemplateProcessing":
            place = next(i for i, piece in enumerate(step["single"]) if "Sequence" in piece)
            ids = [
                step["special_tokens"][piece["SpecialToken"]["id"]]["ids"] if "SpecialToken" in piece else []
                for piece in step["single"]
            ]
            before = [*itertools.chain.from_iterable(ids[:place]), *before]
            after = [*after, *itertools.chain.from_iterable(ids[place:])]
    return tuple(before), tuple(after)


def _token(table: dict[str, Any]) -> hf.AddedToken:
    options = ("single_word", "lstrip", "rstrip", "normalized", "special")
    content = table.get("content")
    if not isinstance(content, str) or not content:
        raise DataError("names a token without content", where=CONFIG, fix=_FIX)
    given = {key: bool(table[key]) for key in options if key in table}
    return hf.AddedToken(content, **given)
