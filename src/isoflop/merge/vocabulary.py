"""One vocabulary for models with different tokenizers: rows of embedding and head move by the token's name.

base          the base's tokens, at their places. A model that lacks one takes the mean row of those that have it.
union         the base's tokens, then what each model has beyond them, in its order; missing rows as above.
intersection  the base's tokens; rows that not every model has are the base's, unmerged.

Rows beyond a tokenizer's tokens (padding) are no token's: they are dropped, and the output has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import DataError, RecipeError
from ..store.safetensors_dir import TensorInfo, strict_json
from ..store.tensors import Checkpoint, HeldTensor, Stored

TOKENIZER = "tokenizer.json"
OTHER_FORMS = frozenset({"tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"})
"""Files that say the vocabulary a second time; a union's would be out of date."""


@dataclass(frozen=True)
class MergedVocabulary:
    """Tokens of the output, and where each model has them.

    Attributes:
        tokens: the output's, by row.
        rows: for each model, the row of each token, -1 where it has none (tokens,).
        shared: only rows that all have are merged, the others are the first model's.
        tokenizer: content of the output's tokenizer.json; None: the first model's file is carried over.

    Example:
        >>> rows = (torch.tensor([0, 1, -1]), torch.tensor([0, -1, 1]))
        >>> union = MergedVocabulary(("a", "b", "c"), rows, shared=False, tokenizer=None)
        >>> len(union.tokens)
        3
    """

    tokens: tuple[str, ...]
    rows: tuple[Tensor, ...]
    shared: bool
    tokenizer: dict[str, Any] | None

    def refuse_short(self, number: int, info: TensorInfo) -> None:
        """DataError if model ``number`` has fewer rows than its tokenizer has tokens."""
        needed = int(self.rows[number].max()) + 1
        if needed > info.shape[0]:
            raise DataError(
                f"tensor {info.name!r} has {info.shape[0]} rows, its tokenizer {needed} ids", where=str(info.file)
            )

    def refuse_without_row(self, numbers: Sequence[int], tensor: str) -> None:
        """RecipeError if a token has a row in none of the models ``numbers``, from which a tensor comes."""
        lost = (torch.stack([self.rows[number] for number in numbers]) < 0).all(0).nonzero().reshape(-1)
        if len(lost):
            token = self.tokens[int(lost[0])]
            raise RecipeError(
                [f"{len(lost)} tokens, e.g. {token!r}, are in no model that tensor {tensor!r} comes from"],
                source="tokenizer",
            )

    def moved(self, tensors: Sequence[Stored]) -> list[HeldTensor]:
        """The models' rows in the output's order; what a model lacks is the mean of those that have it."""
        own = []
        for tensor, rows in zip(tensors, self.rows, strict=True):
            own.append(tensor.whole()[rows.clamp(min=0)])
        have = [(rows >= 0) for rows in self.rows]
        count = torch.stack(have).sum(0)
        for number, rows in enumerate(have):
            lacking = (~rows).nonzero().reshape(-1)
            if len(lacking):
                total = sum(other[lacking] * has[lacking][:, None] for other, has in zip(own, have, strict=True))
                assert isinstance(total, Tensor)
                own[number][lacking] = (total / count[lacking][:, None]).to(own[number].dtype)
        return [HeldTensor(tensor) for tensor in own]

    def unmerged(self) -> Tensor:
        """Mask of the rows that stay the first model's."""
        return (
            torch.stack([rows < 0 for rows in self.rows]).any(0)
            if self.shared
            else torch.zeros(len(self.tokens)).bool()
        )


def tokens_of(path: Path) -> dict[str, int]:
    """Token -> id of a tokenizer.json, added tokens included. DataError if it has another form."""
    tree = strict_json(path)
    try:
        vocabulary = tree["model"]["vocab"]
        if isinstance(vocabulary, list):  # unigram: [token, score] by id
            found = {token: number for number, (token, _) in enumerate(vocabulary)}
        else:
            found = {str(token): int(number) for token, number in vocabulary.items()}
        found |= {str(token["content"]): int(token["id"]) for token in tree.get("added_tokens") or []}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError("has no vocabulary that can be read here", where=str(path)) from error
    return found


def agree_on_vocabulary(models: Sequence[Checkpoint], rule: str) -> MergedVocabulary | None:
    """The common vocabulary; None if all tokenizers (as far as there are any) are the same, or none is there.

    Args:
        models: the base, or the model that takes its place, first.
        rule: of the recipe.

    Raises:
        RecipeError: they differ and the rule is "same", or a tokenizer is missing where rows have to move.
    """
    files = [model.path / TOKENIZER for model in models]
    there = [file for file in files if file.is_file()]
    vocabularies = {file: tokens_of(file) for file in there}
    differing = [file for file in there if vocabularies[file] != vocabularies[there[0]]]
    heights = {model.tensors[model.embedding].shape[0] for model in models if model.embedding}
    if not differing and (rule == "same" or len(heights) < 2 or not there):
        return None
    offers = "choose a rule: tokenizer = base, union or intersection"
    if rule == "same":  # so they differ
        one, other = vocabularies[there[0]], vocabularies[differing[0]]
        apart = len(set(one.items()) ^ set(other.items()))
        raise RecipeError(
            [f"its tokenizer differs from {there[0]} in {apart} tokens; {offers}"], source=str(differing[0])
        )
    if len(there) < len(files):
        lost = next(file for file in files if not file.is_file())
        raise RecipeError([f"is missing, so rows cannot move by name (tokenizer = {rule})"], source=str(lost))
    return _joined(files, [vocabularies[file] for file in files], rule)


def _joined(files: Sequence[Path], vocabularies: Sequence[dict[str, int]], rule: str) -> MergedVocabulary:
    first = vocabularies[0]
    ordered = sorted(first, key=lambda token: first[token])
    if [first[token] for token in ordered] != list(range(len(ordered))):
        raise DataError("has gaps in its ids, so that rows cannot be given out", where=str(files[0]))
    tokenizer = None
    if rule == "union":
        known = set(ordered)
        for other in vocabularies[1:]:
            fresh = sorted((token for token in other if token not in known), key=lambda token: other[token])
            ordered += fresh
            known.update(fresh)
        if len(ordered) > len(first):
            tokenizer = _tokenizer_of([strict_json(file) for file in files], ordered, str(files[0]))
    rows = tuple(torch.tensor([other.get(token, -1) for token in ordered]) for other in vocabularies)
    return MergedVocabulary(tuple(ordered), rows, rule == "intersection", tokenizer)


def _tokenizer_of(trees: Sequence[dict[str, Any]], tokens: Sequence[str], where: str) -> dict[str, Any]:
    """The first tokenizer with the other models' tokens and merges after its own."""
    tree, place = trees[0], {token: number for number, token in enumerate(tokens)}
    kinds = {str(other["model"].get("type")) for other in trees}
    if len(kinds) > 1 or isinstance(tree["model"]["vocab"], list):
        raise RecipeError(
            [f"no union of tokenizers of kinds {sorted(kinds)}; choose tokenizer = base or intersection"], source=where
        )
    vocabulary = tree["model"]["vocab"]
    added = {token["content"]: token for token in tree.get("added_tokens") or []}
    # tokens that stand in the vocabulary keep their ids when the file is loaded; others are counted on from its end
    vocabulary.update({token: place[token] for token in added})
    for other in trees[1:]:
        for entry in other.get("added_tokens") or []:
            if entry["content"] not in vocabulary:
                added[entry["content"]] = {**entry, "id": place[entry["content"]]}
        for token in (*other["model"]["vocab"], *added):
            vocabulary.setdefault(token, place[token])
        merges = tree["model"].get("merges")
        if merges is not None:
            known = {str(merge) for merge in merges}
            merges.extend(merge for merge in other["model"].get("merges") or [] if str(merge) not in known)
    tree["added_tokens"] = sorted(added.values(), key=lambda token: int(token["id"]))
    return tree
