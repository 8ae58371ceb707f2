"""Which tokens may be drawn: cuts of a next token's distribution.

Each takes scores (rows, vocab), logits up to a constant, and gives them back with -inf on what it cuts off; none
is all -inf. A cut sees what those before it left, as if that were the whole distribution. ``decoders.sample`` applies
them in transformers' order: repetition penalty, temperature, top-k, top-p, min-p, typical.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FIRST = 64
"""Candidates that are looked at first: most often they hold what is kept, and nothing need be sorted."""


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits of ids that were seen, divided by ``penalty`` where positive and multiplied by it where negative.

    Keskar et al. 2019, arXiv 1909.05858, section 4.1, in the form of transformers and vLLM, which lowers negative
    logits, too. It depends on where zero is, so it comes before all else.

    Args:
        logits: (rows, vocab).
        seen: bool (rows, vocab), which ids the prompt or the text so far holds.
        penalty: above 1 repeats become rarer, below 1 more frequent.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Keep the k likeliest, and those that tie with the last of them (Fan et al. 2018, arXiv 1805.04833)."""
    if k >= scores.shape[-1]:
        return scores
    return scores.masked_fill(scores < scores.topk(k).values[:, -1:], -torch.inf)


def top_p(scores: Tensor, mass: float) -> Tensor:
    """Keep the fewest whose probabilities sum to ``mass``, the likeliest first (Holtzman et al. 2020, 1904.09751)."""
    p = torch.softmax(scores, -1)
    return scores.masked_fill(~fewest(p, p, mass), -torch.inf)


def min_p(scores: Tensor, share: float) -> Tensor:
    """Keep what is at least ``share`` times as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082)."""
    least = scores.amax(-1, keepdim=True) + (math.log(share) if share else -math.inf)
    return scores.masked_fill(scores < least, -torch.inf)


def typical(scores: Tensor, mass: float) -> Tensor:
    """Keep the fewest whose probabilities sum to ``mass``, those first whose surprise is nearest to the expected one.

    The expected surprise is the distribution's entropy (Meister et al. 2023, arXiv 2202.00666, equation 10).
    """
    log_p = torch.log_softmax(scores, -1)
    p = log_p.exp()
    entropy = torch.special.entr(p).sum(-1, keepdim=True)
    return scores.masked_fill(~fewest(p, -(log_p + entropy).abs(), mass), -torch.inf)


def fewest(p: Tensor, rank: Tensor, mass: float) -> Tensor:
    """The fewest ids whose ``p`` sums to ``mass``, those of highest ``rank`` first; of equal ones the lower id first.

    Args:
        p: probabilities (rows, vocab).
        rank: (rows, vocab).
        mass: what is to be reached, in (0, 1].

    Returns:
        bool (rows, vocab), at least one id in each row.
    """
    count, vocab = min(_FIRST, p.shape[-1]), p.shape[-1]
    while True:
        best = rank.topk(count)
        reached = p.gather(-1, best.indices).cumsum(-1)
        if count == vocab or bool((reached[:, -1] >= mass).all()):
            break
        count = min(8 * count, vocab)
    last = (reached < mass).sum(-1, keepdim=True).clamp_(max=count - 1)
    threshold = best.values.gather(-1, last)
    above, level = rank > threshold, rank == threshold
    return above | (level & (level.cumsum(-1) <= last + 1 - above.sum(-1, keepdim=True)))
