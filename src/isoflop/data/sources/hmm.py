"""Text of a unifilar hidden Markov model whose entropy is known exactly.

In state s the model emits symbol x with probability p_s(x); s and x together determine the next state, so whoever knows
the first state knows them all (Shannon 1948; "unifilar": Ash 1965). After each symbol a document ends with probability
q; the next one begins in state 0, where it cannot be empty. Documents with their ends of text thus are one stationary
chain over the states and a start, whose law pi is the solution of pi P = pi, and with H the entropy of what follows,

    entropy rate = sum_s pi_s H(s) bits a symbol, of which the share 1 - P(end) are bytes.

Their quotient counts the ends of documents, as held-out evaluation does: it is the floor of the expected bits per byte
of any model with any tokenizer, reached by one that sees each document from its beginning.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, PositiveFloat

from ...core.documents import Later
from ...core.registry import Card, part
from ...core.rng import Rng
from ..document import Document, group_of
from ..text_source import MADE_BYTES, TextSourcePart

ALPHABET = string.ascii_lowercase
_BLOCK = 1024  # documents drawn side by side


class Machine:
    """A unifilar hidden Markov model that begins in state 0.

    Unifilar: a symbol and the state before it give the state after it, so that the entropy has a closed form.

    Args:
        emission: p_s(x) (states, symbols), rows sum to 1.
        follows: next state of (s, x), int (states, symbols).
        end: probability in (0, 1) that a document ends after a symbol.

    Example:
        >>> coin = Machine(np.array([[0.5, 0.5]]), np.array([[0, 0]]), end=0.01)
        >>> round(coin.entropy_per_byte, 3)
        1.081
    """

    def __init__(self, emission: npt.NDArray[np.float64], follows: npt.NDArray[np.int64], end: float) -> None:
        self.emission, self.follows, self.end = emission, follows, end

    @property
    def stationary(self) -> npt.NDArray[np.float64]:
        """pi (states + 1,): how often the chain of concatenated documents is in each state and, last, at a start."""
        states, symbols = self.emission.shape
        chain = np.zeros((states + 1, states + 1))
        for s, x in itertools.product(range(states), range(symbols)):
            chain[s, self.follows[s, x]] += (1 - self.end) * self.emission[s, x]
        chain[:states, states] = self.end
        for x in range(symbols):
            chain[states, self.follows[0, x]] += self.emission[0, x]
        return np.linalg.solve(chain.T - np.eye(states + 1) + 1.0, np.ones(states + 1)).astype(np.float64)

    @property
    def entropy_per_byte(self) -> float:
        """Bits a byte, ends of documents included."""
        inner = np.array([entropy(row) for row in self.emission])
        running = entropy(np.array([self.end, 1 - self.end])) + (1 - self.end) * inner
        law = self.stationary
        return float(law @ np.append(running, inner[0])) / (1 - float(law[:-1].sum()) * self.end)

    def bits(self, text: str) -> float:
        """-log2 of the probability of a document; infinite if the model cannot emit it."""
        state, likelihood = 0, math.log2(self.end) + (len(text) - 1) * math.log2(1 - self.end)
        if not text:
            return math.inf
        for character in text:
            x = ALPHABET.find(character)
            if not 0 <= x < self.emission.shape[1] or self.emission[state, x] == 0:
                return math.inf
            likelihood += math.log2(self.emission[state, x])
            state = int(self.follows[state, x])
        return -likelihood

    def draw(self, generator: np.random.Generator, count: int) -> list[str]:
        """``count`` documents, drawn side by side."""
        lengths = generator.geometric(self.end, count)
        longest_first = np.argsort(-lengths, kind="stable")
        out = np.zeros((count, int(lengths.max())), np.uint8)
        states = np.zeros(count, np.int64)
        edges = np.cumsum(self.emission, axis=1)[:, :-1]
        letters = np.frombuffer(ALPHABET.encode(), np.uint8)
        ordered = lengths[longest_first]
        for t in range(out.shape[1]):
            running = int(np.searchsorted(-ordered, -t))  # those longer than t
            here = states[:running]
            symbols = (generator.random(running)[:, None] >= edges[here]).sum(axis=1)
            out[:running, t] = letters[symbols]
            states[:running] = self.follows[here, symbols]
        texts = [""] * count
        for row, index in enumerate(longest_first.tolist()):
            texts[index] = out[row, : lengths[index]].tobytes().decode()
        return texts


@part
class HmmPart(TextSourcePart):
    """Documents drawn from a random unifilar hidden Markov model; the entropy per byte is known in closed form.

    Use it where the best possible bits per byte must be known: no model beats ``entropy_per_byte``, and the excess is
    what a method leaves unlearnt. It needs no download, and as much text as one wants.

    Example:
        >>> source = HmmPart(states=4, symbols=2, text_bytes=1000)
        >>> 0 < source.entropy_per_byte < 1.1, next(iter(source.documents())).domain
        (True, 'hmm')
    """

    states: Annotated[int, Field(ge=1, le=4096)] = 32
    """Hidden states."""
    symbols: Annotated[int, Field(ge=2, le=len(ALPHABET))] = 8
    """Letters that it emits, from "a" on."""
    concentration: PositiveFloat = 0.3
    """Of the Dirichlet law of each state's emissions: small ones make sharp states and a low entropy."""
    mean_bytes: Annotated[float, Field(gt=1, le=1 << 18)] = 500.0
    """Expected bytes of a document."""
    text_bytes: Annotated[int, Field(ge=1, le=MADE_BYTES)] = 4_000_000
    """Documents are drawn until they have so many bytes."""
    seed: NonNegativeInt = 0
    """Of the model and its text; the recipe's seed does not change them."""
    deduplicate: Annotated[None, Later()] = None
    """Nothing is left out: what repeats by chance belongs to the law."""
    card = Card(
        summary="Text of a random unifilar hidden Markov model with exactly known entropy per byte.",
        paper="Shannon 1948; Ash 1965, Information Theory, section 6.4",
        equation="floor = sum_s pi_s H(s) / (1 - P(end)) bits a byte, pi P = pi",
        differs="the floor is that of a model which sees each document from its beginning",
    )

    @property
    def machine(self) -> Machine:
        """The model: a function of ``seed``, ``states``, ``symbols``, ``concentration`` and ``mean_bytes``."""
        generator = Rng(self.seed)("hmm")("machine").at()
        emission = generator.dirichlet([self.concentration] * self.symbols, self.states)
        follows = generator.integers(0, self.states, (self.states, self.symbols))
        return Machine(emission, follows, 1 / self.mean_bytes)

    @property
    def entropy_per_byte(self) -> float:
        """Exact floor of the expected bits per byte; what it assumes is said at the top of this file."""
        return self.machine.entropy_per_byte

    def bits(self, text: str) -> float:
        """-log2 of the probability of one document, in bits; summed over held-out text it is that text's own floor."""
        return self.machine.bits(text)

    def documents(self) -> Iterator[Document]:
        machine, rng = self.machine, Rng(self.seed)("hmm")("text")
        number = size = 0
        for block in itertools.count():
            for text in machine.draw(rng.at(block), _BLOCK):
                yield Document(text, "hmm", f"document {number}", group_of(f"hmm {self.seed} {number}"))
                number += 1
                size += len(text)
                if size >= self.text_bytes:
                    return

    def inputs(self) -> str:
        return ""


def entropy(law: npt.NDArray[np.float64]) -> float:
    """Bits of a discrete law; outcomes of probability 0 add nothing."""
    positive = law[law > 0]
    return float(-(positive * np.log2(positive)).sum())
