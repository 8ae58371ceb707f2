"""What the server has done so far, as text that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from .served import ServedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Book:
    """Counts of requests by path and status.

    Example:
        >>> book = Book()
        >>> book.add("/v1/models", 200)
        >>> 'isoflop_requests_total{path="/v1/models",status="200"} 1' in book.text([], lambda: 0)
        True
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()

    def add(self, path: str, status: int) -> None:
        """A request was answered."""
        self.requests[path, status] += 1

    def text(self, models: Sequence[ServedModel], connections: Callable[[], int]) -> str:
        """All metrics."""
        return "\n".join([*self._lines(models, connections), ""])

    def _lines(self, models: Sequence[ServedModel], connections: Callable[[], int]) -> Iterator[str]:
        yield "# HELP isoflop_requests_total Requests answered."
        yield "# TYPE isoflop_requests_total counter"
        for (path, status), count in sorted(self.requests.items()):
            yield f'isoflop_requests_total{{path="{path}",status="{status}"}} {count}'
        yield "# HELP isoflop_connections Open connections."
        yield "# TYPE isoflop_connections gauge"
        yield f"isoflop_connections {connections()}"
        for name, kind, help, value in FIGURES:
            yield f"# HELP isoflop_{name} {help}"
            yield f"# TYPE isoflop_{name} {kind}"
            for served in models:
                yield f'isoflop_{name}{{model="{escaped(served.name)}"}} {value(served)}'
        yield "# HELP isoflop_sequences_total Sequences by how they ended."
        yield "# TYPE isoflop_sequences_total counter"
        for served in models:
            for how, count in sorted(served.engine.tally.ended.items()):
                yield f'isoflop_sequences_total{{model="{escaped(served.name)}",ended="{how}"}} {count}'


def escaped(label: str) -> str:
    """A label's value as Prometheus writes it."""
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


FIGURES: tuple[tuple[str, str, str, Callable[[ServedModel], float]], ...] = (
    ("prompt_tokens_total", "counter", "Tokens of prompts read.", lambda m: m.engine.tally.prompt_tokens),
    ("new_tokens_total", "counter", "Tokens written.", lambda m: m.engine.tally.new_tokens),
    ("model_flops_total", "counter", "Model FLOPs of sequences that have ended.", lambda m: m.engine.tally.flops),
    ("steps_total", "counter", "Batches computed.", lambda m: m.engine.tally.steps),
    ("step_seconds_total", "counter", "Seconds spent on them.", lambda m: m.engine.tally.seconds),
    (
        "first_token_seconds_sum",
        "counter",
        "From requests to first tokens.",
        lambda m: m.engine.tally.first_seconds,
    ),
    ("first_token_seconds_count", "counter", "Sequences in that sum.", lambda m: m.engine.tally.first_count),
    ("running", "gauge", "Sequences that are growing.", lambda m: m.engine.running),
    ("waiting", "gauge", "Sequences that wait for a row.", lambda m: m.engine.waiting),
    ("cache_tokens", "gauge", "Tokens that the cache has room for now.", lambda m: m.engine.reserved),
    ("cache_tokens_limit", "gauge", "Tokens that it may have room for.", lambda m: m.engine.room.tokens),
)
"""Name, kind, help and value of what is said of each model."""
