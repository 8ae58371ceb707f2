"""A tokenizer as llama.cpp wants it: its tokens, how they are joined, and which of its rules split a text.

llama.cpp knows two kinds that language models use: byte-level pairs ("gpt2"), with one of a fixed set of rules that
split a text into words, and pieces with scores ("llama"), as sentencepiece has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...core.errors import DataError
from ...core.reading import complaint, read_bytes, read_text
from ...store.safetensors_dir import strict_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's kinds of tokens."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
RULES = {_GPT2: "gpt-2", _LLAMA3: "llama-bpe", _QWEN2: "qwen2"}
"""llama.cpp's names of the rules, by the expression that a ``tokenizer.json`` splits with."""


class _Form(BaseModel):
    """What is looked at of a file, in the types that it must have; the rest may be anything."""

    model_config = ConfigDict(strict=True)


_Id = Annotated[int, Field(ge=0)]


class _Pairs(_Form):
    vocab: dict[str, _Id]
    merges: list[Annotated[str, Field(pattern=" ")] | Annotated[list[str], Field(min_length=2, max_length=2)]] = []
    byte_fallback: bool | None = None
    unk_token: str | None = None


class _Added(_Form):
    id: _Id
    content: str
    special: bool = False


class _Splitter(_Form):
    type: str
    pretokenizers: list[_Splitter] = []
    pattern: dict[str, str] | None = None


class _Processor(_Form):
    type: str
    processors: list[_Processor] = []
    single: list[dict[str, Any]] = []


class _File(_Form):
    model: _Pairs
    added_tokens: list[_Added] | None = None
    pre_tokenizer: _Splitter | None = None
    post_processor: _Processor | None = None


class _Template(_Form):
    name: str
    template: str


class _Settings(_Form):
    chat_template: str | list[_Template] | None = None


def _table(path: Path, form: type[_Form]) -> dict[str, Any]:
    """The table of a JSON file in which what is looked at has the types that it must have."""
    tree = strict_json(path)
    try:
        form.model_validate_json(read_bytes(path))  # which refuses halves of characters, too
    except ValidationError as error:
        raise DataError(f"is not in a tokenizer's form: {complaint(error)}", where=str(path)) from error
    return tree  # type: ignore[no-any-return]


@dataclass
class GgufVocabulary:
    """What is stored of a tokenizer.

    Attributes:
        model: "gpt2" or "llama".
        tokens: text of each id, as the kind writes it.
        types: kind of each id.
        merges: pairs in order, "left right"; of byte-level pairs alone.
        scores: of each piece: the highest is joined first.
        rule: llama.cpp's name of the rule that splits a text; of byte-level pairs alone.
        extra: other keys behind ``tokenizer.ggml.``.
        chat_template: as the directory has it; "" where it has none.

    Example:
        >>> GgufVocabulary("gpt2", tokens=["a", "b", "ab"], types=[NORMAL] * 3, merges=["a b"], rule="gpt-2").scores
        []
    """

    model: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    rule: str = ""
    extra: dict[str, int | bool] = field(default_factory=dict)
    chat_template: str = ""


def read_vocabulary(directory: Path, rows: int, note: Callable[[str], None]) -> GgufVocabulary:
    """The tokenizer of a directory in Hugging Face's layout.

    Args:
        directory: holds ``tokenizer.json`` and, mostly, ``tokenizer_config.json``.
        rows: of the model's embedding; ids beyond the tokenizer's are stored as unused.
        note: told what llama.cpp will do otherwise.

    Raises:
        DataError: there is no ``tokenizer.json``, llama.cpp has no such kind, or it has more ids than the model.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            "has no tokenizer.json, of which a GGUF file takes its tokens",
            where=str(directory),
            fix="load and save the tokenizer once with transformers' AutoTokenizer",
        )
    tree = strict_json(path)
    model = tree.get("model") if isinstance(tree, dict) else None
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "BPE":
        what = f"is a {kind or 'unknown'} tokenizer; byte pairs are written to GGUF"
        raise DataError(what, where=str(path), fix="use isoflop itself")
    tree = _table(path, _File)
    model = tree["model"]
    found = _pieces(model, rows) if model.get("byte_fallback") else _byte_pairs(tree, model, rows, note)
    _add(found, tree.get("added_tokens") or [], path)
    if max(map(int, {**model["vocab"], "": 0}.values())) >= rows:
        raise DataError(f"has ids beyond the {rows} rows of the model's embedding", where=str(path))
    _settings(found, directory, tree.get("post_processor") or {})
    return found


def _blank(rows: int) -> tuple[list[str], list[int]]:
    """Tokens and kinds of ids that no tokenizer has."""
    return [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows


def _place(found: GgufVocabulary, token: str, i: int, kind: int) -> None:
    if i < len(found.tokens):
        found.tokens[i], found.types[i] = token, kind


def _byte_pairs(tree: dict[str, Any], model: dict[str, Any], rows: int, note: Callable[[str], None]) -> GgufVocabulary:
    found = GgufVocabulary("gpt2", *_blank(rows))
    for token, i in model["vocab"].items():
        _place(found, token, i, NORMAL)
    found.merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model.get("merges", [])]
    found.rule = _rule(tree.get("pre_tokenizer") or {})
    if not found.rule:
        found.rule = "gpt-2"
        if found.merges:
            note(
                "llama.cpp has no rule that splits texts as this tokenizer does; gpt-2's is written. It splits some "
                "texts elsewhere (e.g. at apostrophes), and so gives other tokens of the same text"
            )
    return found


def _rule(splitter: dict[str, Any]) -> str:
    """llama.cpp's name of a splitting rule; "" where it has none."""
    parts = splitter.get("pretokenizers", []) if splitter.get("type") == "Sequence" else [splitter]
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"]:
        return "gpt-2" if parts[0].get("use_regex", True) else ""
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") and parts[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        return RULES.get((parts[0].get("pattern") or {}).get("Regex", ""), "")
    return ""


def _pieces(model: dict[str, Any], rows: int) -> GgufVocabulary:
    """Pieces with a byte for whatever has none: the earlier a merge, the higher the score of what it makes."""
    found = GgufVocabulary("llama", *_blank(rows))
    merges = model.get("merges", [])
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        left, right = pair if isinstance(pair, list) else pair.split(" ", 1)
        rank.setdefault(left + right, number)
    found.scores = [-float(len(merges) + 1)] * rows
    for token, i in model["vocab"].items():
        byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        unknown = token == model.get("unk_token")
        _place(found, token, i, BYTE if byte else UNKNOWN if unknown else NORMAL)
        if i < rows:
            found.scores[i] = 0.0 if byte or unknown else -float(rank.get(token, len(merges)))
    return found


def _add(found: GgufVocabulary, added: list[dict[str, Any]], path: Path) -> None:
    for token in added:
        if token["id"] >= len(found.tokens):
            what = f"has the token {token['content']!r} with id {token['id']}, beyond the {len(found.tokens)} rows"
            raise DataError(f"{what} of the model's embedding", where=str(path))
        if found.types[token["id"]] != UNKNOWN:
            _place(found, token["content"], token["id"], CONTROL if token.get("special") else USER_DEFINED)


_ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}


def _settings(found: GgufVocabulary, directory: Path, processor: dict[str, Any]) -> None:
    """Ids with a meaning, what a text begins and ends with, and the chat template."""
    settings: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            settings |= {key: value for key, value in _table(directory / name, _Settings).items() if value is not None}
    places = {token: i for i, token in enumerate(found.tokens)}
    for role, key in _ROLES.items():
        token, number = settings.get(f"{role}_token"), settings.get(f"{role}_token_id")
        text = token.get("content") if isinstance(token, dict) else token
        i = places.get(text) if isinstance(text, str) else number[0] if isinstance(number, list) else number
        if isinstance(i, int) and 0 <= i < len(found.tokens):
            found.extra[key] = i
    begins, ends = _surrounded(processor)
    found.extra["add_bos_token"] = bool(settings.get("add_bos_token", begins))
    found.extra["add_eos_token"] = bool(settings.get("add_eos_token", ends))
    if found.model == "llama":
        found.extra["add_space_prefix"] = bool(settings.get("add_prefix_space", settings.get("legacy", True)))
    template, apart = settings.get("chat_template"), directory / "chat_template.jinja"
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    found.chat_template = read_text(apart) if apart.is_file() else template or ""


def _surrounded(processor: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a special token is put before a text, and after it."""
    parts = processor.get("processors", [processor]) if processor.get("type") == "Sequence" else [processor]
    template: list[dict[str, Any]] = next(
        (part.get("single", []) for part in parts if part.get("type") == "TemplateProcessing"), []
    )
    return bool(template) and "SpecialToken" in template[0], bool(template) and "SpecialToken" in template[-1]
