"""Grammars and hidden Markov models: which are legal, and how a recipe says them."""

from __future__ import annotations

import json
import math
import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from isoflop.core.slots import resolve
from isoflop.data.sources.hmm import HmmPart
from isoflop.data.sources.pcfg import PROGRAMS, Grammar, PcfgPart


def pcfg(rules: dict[str, dict[str, float]]) -> Any:
    return PcfgPart.model_validate_json(json.dumps({"rules": rules}))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"T": {"a": 1.0}}, "no rules for the start S"),
        ({"S": {"aT": 1.0}}, r"S uses \['T'\]"),
        ({"S": {"é": 1.0}}, "printable ASCII"),
        ({"S": {"a\r": 1.0}}, "printable ASCII"),
        ({"S": {"a": 0.4, "b": 0.5}}, "sum to 0.9, not 1"),
        ({"S": {}}, "sum to 0, not 1"),
        ({"S": {"a": 1.0}, "ab": {"b": 1.0}}, "'ab' is no nonterminal"),
        ({"S": {"a": 1.0}, "t": {"b": 1.0}}, "'t' is no nonterminal"),
        ({"S": {"ab": 0.5, "aS": 0.5}}, "begin with different terminals"),  # ambiguous for who reads one symbol
        ({"S": {"a": 0.5, "": 0.5}}, "begin with different terminals"),
        ({"S": {"a": 0.5, "Sb": 0.5}}, "begin with different terminals"),
        ({"S": {"(SS)": 0.5, "x": 0.5}}, "no finite mean length"),
        ({"S": {"(SS)": 0.7, "x": 0.3}}, "no finite mean length"),
        ({"S": {"a": 1.5, "b": -0.5}}, "less than or equal to 1"),
    ],
)
def test_grammars_without_a_known_entropy_are_refused(rules: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        pcfg(rules)


def test_a_grammar_in_a_recipe() -> None:
    text = """
    name = "pcfg"
    text_bytes = 1000
    [rules]
    S = {"aS" = 0.5, "b" = 0.5}
    """
    part = resolve("source", tomllib.loads(text))
    assert isinstance(part, PcfgPart)
    assert part.entropy_per_byte == 1.0  # one bit decides each byte
    assert part.bits("aab") == 3
    documents = list(part.documents())
    assert sum(len(document.text) for document in documents) >= 1000
    assert all(math.isfinite(part.bits(document.text)) for document in documents)
    assert len({document.group for document in documents}) == len(documents)


def test_the_default_grammar_is_a_language_of_programs() -> None:
    grammar = Grammar(PROGRAMS)
    assert 50 < grammar.mean_bytes < 500
    assert 0.5 < PcfgPart().entropy_per_byte < 1.5
    assert math.isfinite(grammar.bits("{\nlet a = (b + -1);\nif <a0 {\nput c;\n}\n}\n"))
    assert math.isinf(grammar.bits("{\nlet a = (b + -1;\n}\n"))


def test_hidden_markov_models_by_their_fields() -> None:
    part = resolve("source", {"name": "hmm", "states": 5, "symbols": 3, "concentration": 1.0, "mean_bytes": 20.0})
    assert isinstance(part, HmmPart)
    assert part.machine.emission.shape == part.machine.follows.shape == (5, 3)
    assert 0 < part.entropy_per_byte < math.log2(3) + 0.5
    assert part.bits("") == part.bits("abd") == math.inf  # empty; a letter it has not
    sharp, flat = HmmPart(concentration=0.05), HmmPart(concentration=50.0)
    assert sharp.entropy_per_byte < 1 < 2.9 < flat.entropy_per_byte < 3.1
    assert HmmPart(seed=1).entropy_per_byte != HmmPart(seed=2).entropy_per_byte
    for wrong in ({"symbols": 1}, {"symbols": 27}, {"states": 0}, {"mean_bytes": 1.0}, {"concentration": 0.0}):
        with pytest.raises(ValidationError):
            HmmPart.model_validate(wrong)
