"""What stands in for the library fasttext: a model is a file of JSON, each word votes for the label that it names."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


class _Predictor:
    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def predict(self, text: str, k: int, threshold: float, errors: str) -> list[tuple[float, str]]:
        assert text.endswith("\n")
        assert text.count("\n") == 1  # the library reads one line
        votes = Counter(dict.fromkeys(self.facts["labels"], 1))
        votes.update(self.facts["words"][word] for word in text.split() if word in self.facts["words"])
        found = sorted(((n / votes.total(), label) for label, n in votes.items()), key=lambda pair: (-pair[0], pair[1]))
        return found if k < 0 else found[:k]


class _FastText:
    def __init__(self, path: str) -> None:
        try:
            self.f = _Predictor(json.loads(Path(path).read_text()))
        except ValueError:
            raise ValueError(f"{path} has wrong file format!") from None

    def get_labels(self) -> list[str]:
        return list(self.f.facts["labels"])


def write_model(path: Path, words: dict[str, str]) -> Path:
    """A model in which each word votes for a label."""
    labelled = {word: f"__label__{label}" for word, label in words.items()}
    path.write_text(json.dumps({"labels": sorted(set(labelled.values())), "words": labelled}))
    return path


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``import fasttext`` find this."""
    module = ModuleType("fasttext")
    module.FastText = ModuleType("fasttext.FastText")  # type: ignore[attr-defined]
    module.FastText._FastText = _FastText  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fasttext", module)
