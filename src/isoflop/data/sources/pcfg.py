"""Text of a probabilistic context-free grammar whose entropy is known exactly.

The grammar is *simple* (Korenjak and Hopcroft 1966): every right side begins with a terminal, and no two right sides of
a nonterminal begin alike. So each text has one derivation, read off from left to right, no text is the beginning of
another, and the end of a text shows in the text itself. Then with h_A the entropy of the choice of A's right side, n_A
its expected number of terminals and M_AB its expected number of Bs,

    entropy of a document H = ((I - M)^-1 h)_S bits,      expected bytes of it L = ((I - M)^-1 n)_S,

finite if the spectral radius of M is below 1 (Grenander 1967). A corpus is independent documents, each closed by an end
of text that adds no entropy, so H / L is the floor of the expected bits per byte of any model with any tokenizer;
it is reached by one that sees each document from its beginning.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, model_validator

from ...core.documents import Later
from ...core.registry import Card, part
from ...core.rng import Rng
from ..document import Document, group_of
from ..text_source import MADE_BYTES, TextSourcePart

START = "S"
TERMINALS = frozenset(string.printable) - frozenset(string.ascii_uppercase) - frozenset("\r\x0b\x0c")
Rules = Mapping[str, Mapping[str, float]]

# A toy programming language: assignments, prints, nested ifs and loops over arithmetic.
PROGRAMS: dict[str, dict[str, float]] = {
    "S": {"{\nL": 1.0},
    "L": {"let V = E;\nL": 0.4, "put E;\nL": 0.2, "if C {\nLL": 0.1, "while C {\nLL": 0.05, "}\n": 0.25},
    "C": {"<EE": 0.5, "=EE": 0.3, "!C": 0.2},
    "E": {"(E OE)": 0.25, "-E": 0.05, "a": 0.25, "b": 0.15, "c": 0.1, "d": 0.05, "0": 0.06, "1": 0.05, "2": 0.04},
    "O": {"+ ": 0.4, "* ": 0.3, "- ": 0.2, "/ ": 0.1},
    "V": {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.1},
}


class Grammar:
    """A simple probabilistic grammar. Capital letters are nonterminals, ``S`` the start; all else stands for itself.

    Example:
        >>> grammar = Grammar({"S": {"aS": 0.5, "b": 0.5}})
        >>> grammar.entropy, grammar.mean_bytes, grammar.bits("aab")
        (2.0, 2.0, 3.0)
    """

    def __init__(self, rules: Rules) -> None:
        self._heads = list(rules)
        self._sides = {head: list(rules[head]) for head in rules}
        self._cumulative = {head: np.cumsum(list(rules[head].values())).tolist() for head in rules}
        self._chosen = {head: {side[0]: (side, -math.log2(p)) for side, p in rules[head].items()} for head in rules}
        self.branching: npt.NDArray[np.float64] = np.array(
            [[sum(p * side.count(b) for side, p in rules[a].items()) for b in rules] for a in rules]
        )
        """M (nonterminals, nonterminals): expected Bs in the right side of an A."""
        self._choice = [sum(-p * math.log2(p) for p in rules[a].values()) for a in rules]
        self._terminals = [sum(p * sum(c not in rules for c in side) for side, p in rules[a].items()) for a in rules]

    @property
    def entropy(self) -> float:
        """Bits of a document."""
        return self._expected(self._choice)

    @property
    def mean_bytes(self) -> float:
        """Expected bytes of a document."""
        return self._expected(self._terminals)

    def draw(self, generator: np.random.Generator) -> str:
        """One document."""
        out: list[str] = []
        stack = [START]
        uniforms: Iterator[float] = iter(())
        while stack:
            symbol = stack.pop()
            cumulative = self._cumulative.get(symbol)
            if cumulative is None:
                out.append(symbol)
                continue
            u = next(uniforms, None)
            if u is None:
                uniforms = iter(generator.random(64).tolist())
                u = next(uniforms)
            choice = next((i for i, edge in enumerate(cumulative) if u < edge), len(cumulative) - 1)
            stack.extend(reversed(self._sides[symbol][choice]))
        return "".join(out)

    def bits(self, text: str) -> float:
        """-log2 of the probability of a document; infinite if it is none of the grammar's."""
        total = 0.0
        stack = [START]
        for character in text:
            if not stack:
                return math.inf
            symbol = stack.pop()
            if symbol in self._chosen:
                side, bits = self._chosen[symbol].get(character, ("", math.inf))
                total += bits
                stack.extend(reversed(side[1:]))
            elif symbol != character:
                return math.inf
        return math.inf if stack else total

    def _expected(self, amounts: list[float]) -> float:
        totals = np.linalg.solve(np.eye(len(self._heads)) - self.branching, np.array(amounts))
        return float(totals[self._heads.index(START)])


@part
class PcfgPart(TextSourcePart):
    """Documents drawn from a grammar; the entropy per byte is known in closed form.

    Use it as ``hmm`` where structure should nest, as programs do: brackets must close, however far away.

    Example:
        >>> source = PcfgPart(rules={"S": {"(S)": 0.4, "x": 0.6}}, text_bytes=50)
        >>> round(source.entropy_per_byte, 3), source.bits("((x))") > 0
        (0.694, True)
    """

    rules: dict[str, dict[str, Annotated[float, Field(gt=0, le=1)]]] = PROGRAMS
    """Nonterminal (a capital letter) -> right side -> probability, e.g. S = {"(SS)" = 0.3, "x" = 0.7}."""
    text_bytes: Annotated[int, Field(ge=1, le=MADE_BYTES)] = 4_000_000
    """Documents are drawn until they have so many bytes."""
    seed: NonNegativeInt = 0
    """Of the text; the recipe's seed does not change it."""
    deduplicate: Annotated[None, Later()] = None
    """Nothing is left out: what repeats by chance belongs to the law."""
    card = Card(
        summary="Text of an unambiguous probabilistic grammar with exactly known entropy per byte.",
        paper="Korenjak & Hopcroft 1966 (simple grammars); Grenander 1967 (moments)",
        equation="floor = ((I - M)^-1 h)_S / ((I - M)^-1 n)_S bits a byte",
        differs="the floor is that of a model which sees each document from its beginning",
    )

    @model_validator(mode="after")
    def _simple(self) -> PcfgPart:
        for head, sides in self.rules.items():
            if len(head) != 1 or head not in string.ascii_uppercase:
                raise ValueError(f"{head!r} is no nonterminal: one capital letter each")
            if abs(sum(sides.values()) - 1) > 1e-9:
                raise ValueError(f"the probabilities of {head} sum to {sum(sides.values()):.12g}, not 1")
            unknown = set(itertools.chain.from_iterable(sides)) - TERMINALS - set(self.rules)
            if unknown:
                raise ValueError(f"{head} uses {sorted(unknown)}: neither nonterminals with rules nor printable ASCII")
            first = [side[:1] for side in sides]
            if not all(first) or set(first) & set(self.rules) or len(set(first)) < len(first):
                raise ValueError(f"the right sides of {head} must begin with different terminals (found {first})")
        if START not in self.rules:
            raise ValueError(f"no rules for the start {START}")
        radius = float(np.abs(np.linalg.eigvals(self.grammar.branching)).max())
        if radius >= 1 - 1e-9:
            raise ValueError(f"documents would have no finite mean length (spectral radius {radius:.6g}, not below 1)")
        return self

    @property
    def grammar(self) -> Grammar:
        return Grammar(self.rules)

    @property
    def entropy_per_byte(self) -> float:
        """Exact floor of the expected bits per byte; what it assumes is said at the top of this file."""
        grammar = self.grammar
        return grammar.entropy / grammar.mean_bytes

    def bits(self, text: str) -> float:
        """-log2 of the probability of one document, in bits; summed over held-out text it is that text's own floor."""
        return self.grammar.bits(text)

    def documents(self) -> Iterator[Document]:
        grammar, rng = self.grammar, Rng(self.seed)("pcfg")
        size = 0
        for number in itertools.count():
            text = grammar.draw(rng.at(number))
            yield Document(text, "pcfg", f"document {number}", group_of(f"pcfg {self.seed} {number}"))
            size += len(text)
            if size >= self.text_bytes:
                return

    def inputs(self) -> str:
        return ""
