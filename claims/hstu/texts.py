"""Streams of events whose rates drift: ``python texts.py DIRECTORY`` writes one a line, each letter an event.

Each event is drawn from weights that every event raises and time lets fade, with a little of everything: what comes
next is told by how often each letter came lately, and by nothing else. How fast that fades differs between streams.
"""

from __future__ import annotations

import json
import random
import string
import sys
from pathlib import Path

LETTERS = string.ascii_lowercase
STREAMS, EVENTS = 4000, 127
"""A stream with its end is 128 bytes."""


def stream(draw: random.Random) -> str:
    """One stream."""
    counts, fading, base = [0.0] * len(LETTERS), draw.choice([0.9, 0.97, 0.99]), 0.05
    made = []
    for _ in range(EVENTS):
        chosen = draw.choices(range(len(LETTERS)), [count + base for count in counts])[0]
        counts = [fading * count for count in counts]
        counts[chosen] += 1.0
        made.append(LETTERS[chosen])
    return "".join(made)


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    lines = [json.dumps({"text": stream(draw) + "\n"}) for _ in range(STREAMS)]
    (directory / "events.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
