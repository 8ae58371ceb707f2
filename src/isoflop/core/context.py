"""What a part is built with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .rng import Rng
from .roles import Group
from .tokenizer import TokenizerPart


@dataclass(frozen=True)
class Context:
    """What ``build(ctx)`` may use. Immutable: ``ctx.having(...)`` is a copy with more in it.

    The training loop makes one and hands it to every part. You make one where you build a part by yourself: in a test,
    or to use a model without a run.

    Example:
        >>> from isoflop.core.registry import get
        >>> ctx = Context(Rng(0), Path("cache"), get("tokenizer", "bytes")(), vocab_size=257, batch=8, length=128)
        >>> ctx.having(horizon=1000).horizon
        1000

    Attributes:
        rng: root of all randomness of the run; take a child stream by your own name.
        cache: directory for derived data that many runs share (token shards, tokenizers); keyed by digests.
        tokenizer: the recipe's tokenizer part (text sources build it on their training text).
        vocab_size: number of token ids that the model must know.
        batch: sequences of one micro-batch.
        length: tokens of one sequence that are predicted.
        accumulate: micro-batches of one step.
        horizon: steps of the whole run (0: not known yet).
        device: torch device name.
        precision: "fp32" or "bf16" (bf16 products on fp32 weights).
        compile: whether models should be compiled.
        isolate_documents: whether training batches say which document each token belongs to.
        models: live models by name; "policy" is the one being trained ("teacher", "prior" ... are others).
        groups: the policy's trainable parameters by role.
        filling: how the policy fills in what is hidden (``contracts.Filling``); None: it writes from left to right.
        make: whether what the cache lacks is made; otherwise asking for it raises ``errors.NotMade``.
    """

    rng: Rng
    cache: Path
    tokenizer: TokenizerPart
    vocab_size: int
    batch: int
    length: int
    accumulate: int = 1
    horizon: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    compile: bool = False
    isolate_documents: bool = False
    models: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    filling: Any = None
    make: bool = True

    @property
    def policy(self) -> Any:
        """The model that is being trained."""
        return self.models["policy"]

    def having(self, **changes: Any) -> Context:
        """A copy with some attributes replaced."""
        return replace(self, **changes)
