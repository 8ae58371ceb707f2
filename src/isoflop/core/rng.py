"""Counter-based randomness: what is drawn depends on names and numbers, never on the order of calls.

A draw is keyed by (seed, stream name, step, sample). So it does not depend on the number of workers, on the batch's
split or on what else was drawn, and a resumed run needs no stored generator state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

_WORD = 2**64


@dataclass(frozen=True)
class Rng:
    """A named tree of random streams over numpy's Philox.

    ``Rng(7)("data")`` is the child stream "data"; ``.at(step, sample)`` is a fresh ``np.random.Generator`` for that
    place, with 2**64 blocks of its own before the next place begins. Draw from it whatever a run draws: then a run that
    was stopped, split among workers or given one more part draws the same numbers.

    Args:
        seed: the root, any integer.
        stream: names from the root down to this stream.

    Example:
        >>> data = Rng(7)("data")
        >>> data.at(step=3).random() == data.at(step=3).random(), data.at(step=3).random() == data.at(step=4).random()
        (True, False)
    """

    seed: int
    stream: tuple[str, ...] = ()

    def __call__(self, name: str) -> Rng:
        if not name or "/" in name:  # else ("a/b",) and ("a", "b") would be one stream
            raise ValueError(f"a stream's name is not empty and holds no '/', got {name!r}")
        return Rng(self.seed, (*self.stream, name))

    def at(self, step: int = 0, sample: int = 0) -> np.random.Generator:
        """The generator of (step, sample), both in [0, 2**64)."""
        if not (0 <= step < _WORD and 0 <= sample < _WORD):
            raise ValueError(f"step and sample must lie in [0, 2**64), got {step} and {sample}")
        name = f"{self.seed}/" + "/".join(self.stream)
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
        counter = (step << 192) | (sample << 128)  # Philox counts up from the lowest word
        return np.random.Generator(np.random.Philox(key=key, counter=counter))
