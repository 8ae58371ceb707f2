"""How likely continuations of contexts are: batched by length, and what several have in common is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import Cacheable, Preparable
from ..core.errors import NumericsError, UsageError
from ..decode.batching import side_by_side

Ids = tuple[int, ...]
Pair = tuple[Ids, Ids]
"""A context, of one id at least, and what follows it."""
_LOGITS = 1 << 26
"""Logits that are held at once: positions are taken in pieces where a batch has more."""


@dataclass(frozen=True)
class PairScore:
    """What a model makes of a continuation.

    Args:
        logprob: natural log-probability of the continuation, given its context.
        greedy: each of its tokens is the likeliest at its place.

    Example:
        >>> PairScore(logprob=-3.5, greedy=False).greedy
        False
    """

    logprob: float
    greedy: bool


class PairScorer:
    """Scores continuations of contexts with a causal model.

    Pairs of a context and a continuation are sorted by length. What the contexts of a batch share goes through a
    Cacheable model once: a context with several continuations, or a beginning that all have in common, as the examples
    in front of every question are. That changes nothing but the last bits of sums. Equal pairs are scored once.

    Args:
        model: ids (batch, n) to logits (batch, n, vocab), causally.
        length: tokens that it sees at most; longer texts lose their beginning.
        batch: continuations that are scored together at most.
        device: where the model is.

    Attributes:
        computed: positions that went through the model so far, padding included.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> scorer = PairScorer(model, length=16)
        >>> yes, no = scorer.score([([256, 1, 2], [3]), ([256, 1, 2], [4, 5])])
        >>> yes.logprob < 0, scorer.computed  # the context once, and the one id that another follows, of two rows
        (True, 5)
    """

    def __init__(self, model: Any, *, length: int, batch: int = 32, device: str = "cpu") -> None:
        self.model: Any = model.prepared(batch) if isinstance(model, Preparable) else model
        self.caching = isinstance(self.model, Cacheable)
        self.length, self.batch, self.device = length, batch, device
        self.computed = 0

    @torch.no_grad()
    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[PairScore]:
        """The score of each continuation, in order.

        Args:
            pairs: contexts, of one id at least (that of the end of a text, say), and continuations.

        Raises:
            UsageError: a context or a continuation is empty, or the continuation is longer than the model can see.
            NumericsError: the model's logits are not finite.
        """
        wanted = [self._cut(tuple(map(int, context)), tuple(map(int, new))) for context, new in pairs]
        longest_first = sorted(set(wanted), key=lambda pair: (-len(pair[0]), pair[0], -len(pair[1]), pair[1]))
        found: dict[Pair, PairScore] = {}
        for start in range(0, len(longest_first), self.batch):
            for together in self._fitting(longest_first[start : start + self.batch]):
                found.update(zip(together, self._scores(together), strict=True))
        return [found[pair] for pair in wanted]

    def _cut(self, context: Ids, new: Ids) -> Pair:
        """The pair without what the model cannot see: its last id is predicted only."""
        if not context or not new:
            what = "the context is empty" if new else "there is no continuation"
            raise UsageError(what, where="scoring", fix="each needs a token at least: begin with the end-of-text id")
        if len(new) > self.length:
            what = f"a continuation has {len(new):,} tokens, and the model sees {self.length:,}"
            raise UsageError(what, where="scoring", fix="shorten it, or score it in windows")
        return context[-(self.length + 1 - len(new)) :], new

    def _fitting(self, pairs: list[Pair]) -> Iterator[list[Pair]]:
        """The batch, or its halves where a long context and another one's long continuation need too many positions."""
        stems, rests = zip(*self._split(pairs), strict=True)
        needed = max(map(len, stems)) + max(map(len, rests)) - 1
        whole = needed * len(pairs) * self._vocabulary > _LOGITS and not self.caching
        if len(pairs) > 1 and (needed > self.length or whole):
            half = len(pairs) // 2
            yield from self._fitting(pairs[:half])
            yield from self._fitting(pairs[half:])
        else:
            yield pairs

    @property
    def _vocabulary(self) -> int:
        return int(self.model.head.shape[0]) if hasattr(self.model, "head") else 1 << 16

    def _split(self, pairs: list[Pair]) -> list[Pair]:
        """Each pair's ids as a stem, which several may share, and the rest: so that the fewest positions are computed.

        The stem is the context, or the beginning that all contexts have in common.
        """
        shared = _common([context for context, _ in pairs])
        if not shared or not self.caching:
            return pairs
        beginnings = [(context[:shared], context[shared:] + new) for context, new in pairs]
        return min(pairs, beginnings, key=_positions)

    def _scores(self, pairs: list[Pair]) -> list[PairScore]:
        split = self._split(pairs)
        targets = self._padded([rest for _, rest in split])
        logprobs, likeliest = (self._cached if self.caching else self._whole)(split, targets)
        if not logprobs.isfinite().all():
            fix = "the model's weights are not finite or have grown too large"
            raise NumericsError("the model's logits are not finite", where="scoring", fix=fix)
        logprobs, right = logprobs.cpu(), (likeliest == targets).cpu()
        scores = []
        for row, ((_, rest), (_, new)) in enumerate(zip(split, pairs, strict=True)):
            mine = slice(len(rest) - len(new), len(rest))
            scores.append(PairScore(float(logprobs[row, mine].double().sum()), bool(right[row, mine].all())))
        return scores

    def _cached(self, split: list[Pair], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each target (rows, n), and the likeliest ids there. Stems go through the model once."""
        stems = list(dict.fromkeys(stem for stem, _ in split))
        n = targets.shape[1]
        cache, behind = side_by_side(self.model, stems, n - 1, self.device)
        self.computed += len(stems) * max(map(len, stems))
        place = {stem: row for row, stem in enumerate(stems)}
        rows = [place[stem] for stem, _ in split]
        first = behind[rows][:, None]
        cache.select(rows)
        pieces = [_chosen(first, targets[:, :1])]
        at_once = max(1, _LOGITS // (len(rows) * first.shape[-1]))
        for start in range(0, n - 1, at_once):
            seen = targets[:, start : min(start + at_once, n - 1)]
            self.computed += seen.numel()
            pieces.append(_chosen(self.model.step(seen, cache), targets[:, start + 1 : start + 1 + seen.shape[1]]))
        logprobs, likeliest = zip(*pieces, strict=True)
        return torch.cat(logprobs, 1), torch.cat(likeliest, 1)

    def _whole(self, split: list[Pair], targets: Tensor) -> tuple[Tensor, Tensor]:
        """The same with a model that keeps no cache: the texts are padded on their right, where nothing looks back."""
        tokens = self._padded([stem + rest for stem, rest in split])[:, :-1]
        self.computed += tokens.numel()
        logits = self.model(tokens)
        places = [range(len(stem) - 1, len(stem) - 1 + targets.shape[1]) for stem, _ in split]
        index = torch.tensor([list(each) for each in places]).clamp(max=logits.shape[1] - 1).to(self.device)
        return _chosen(logits[torch.arange(len(split), device=self.device)[:, None], index], targets)

    def _padded(self, texts: Sequence[Ids]) -> Tensor:
        longest = max(map(len, texts))
        return torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts]).to(self.device)


def _chosen(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target (rows, n) under logits (rows, n, vocab), and the likeliest ids."""
    logits = logits.float()
    chosen = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)
    return chosen, logits.argmax(-1)


def _common(texts: Sequence[Ids]) -> int:
    """How many ids all texts begin with alike."""
    low, high = min(texts), max(texts)  # what these two share, all between them share
    same = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return next(same, min(len(low), len(high)))


def _positions(split: Sequence[Pair]) -> int:
    """Positions that go through the model, padding included: each stem once, and every rest."""
    stems = {stem for stem, _ in split}
    rests = [len(rest) - 1 for _, rest in split]
    return len(stems) * max(map(len, stems)) + len(rests) * max(rests)
