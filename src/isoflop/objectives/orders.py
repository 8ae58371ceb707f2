"""What a model that fills in says of whole texts: -log p in an order, and exactly, over all orders at once.

Written one token at a time in an order pi, a text has the probability prod_j p(x_pi(j) | x_pi(1) .. x_pi(j - 1)), the
rest hidden. The mean of its -log over uniform pi is the bound of masked diffusion (Uria et al. 2014, arXiv 1310.1757;
Ou et al. 2024, arXiv 2406.03736, appendix C); a sampler that draws pi anew for each text has the mean of p itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LogP = Callable[[Tensor], Tensor]
"""From what is hidden, bool (n, length), to log p of each true token of one text given what is shown: (n, length)."""
MOST = 12
"""Most hidden tokens of a text whose subsets are enumerated: 4,096 passes."""


def drawn_ranks(may: npt.NDArray[np.bool_], draw: np.random.Generator, block: int | None = None) -> list[int]:
    """A uniformly random order of a row's tokens, block after block: when each comes, -1 where it is given.

    Args:
        may: bool (length,), the tokens that come at all.
        draw: random numbers.
        block: tokens of a block; None: all of the row is one.
    """
    size = block or len(may)
    places = [np.flatnonzero(may[first : first + size]) + first for first in range(0, len(may), size)]
    ranks = np.full(len(may), -1)
    ranks[np.concatenate([draw.permutation(found) for found in places])] = np.arange(int(may.sum()))
    return [int(rank) for rank in ranks]


def in_order(log_p: LogP, ranks: Sequence[int]) -> float:
    """-log p of a text written in an order, in nats; one pass of ``log_p`` over as many rows as tokens.

    Args:
        log_p: of the text.
        ranks: when each token comes, from 0; -1: it is given.

    Example:
        >>> in_order(lambda hidden: torch.full(hidden.shape, -0.5), [1, 0, -1])
        1.0
    """
    order = torch.tensor(ranks)
    steps = torch.arange(int(order.max()) + 1)
    found = log_p(order >= steps[:, None])
    return -float(found[order == steps[:, None]].double().sum())


def enumerated(log_p: LogP, may: Sequence[bool], block: int | None = None) -> tuple[float, float]:
    """Everything about one text by enumeration of what may be hidden: 2^n rows for ``log_p``.

    Args:
        log_p: of the text.
        may: which tokens may be hidden; at most ``MOST``.
        block: tokens of a block, written one block after another; None: all of the text is one.

    Returns:
        -log p of the text under a sampler that writes one token at a time in a uniformly random order, and its bound,
        the mean over orders of -log p; both exact, in nats.

    Example:
        >>> exact, bound = enumerated(lambda hidden: torch.full(hidden.shape, -0.5), [True, True])
        >>> round(exact, 6), bound
        (1.0, 1.0)
    """
    places = [i for i, counts in enumerate(may) if counts]
    if len(places) > MOST:
        raise ValueError(f"{len(places)} tokens have too many subsets; at most {MOST}")
    subsets = list(itertools.product((False, True), repeat=len(places)))  # which of the tokens are hidden
    hidden = torch.zeros(len(subsets), len(may), dtype=torch.bool)
    hidden[:, places] = torch.tensor(subsets, dtype=torch.bool).view(len(subsets), len(places))
    logs = log_p(hidden).double()[:, places]
    # log of the mean over orders of p of all that is hidden, and the mean of its log, given what is shown
    exact, mean = {subsets[0]: 0.0}, {subsets[0]: 0.0}
    for number in sorted(range(1, len(subsets)), key=lambda n: sum(subsets[n])):
        subset = subsets[number]
        first = places[subset.index(True)] // (block or len(may))
        next_ones = [i for i, is_hidden in enumerate(subset) if is_hidden and places[i] // (block or len(may)) == first]
        after = [(*subset[:i], False, *subset[i + 1 :]) for i in next_ones]
        own = [float(logs[number, i]) for i in next_ones]
        terms = torch.tensor([log + exact[rest] for log, rest in zip(own, after, strict=True)], dtype=torch.float64)
        exact[subset] = float(torch.logsumexp(terms, 0)) - float(np.log(len(next_ones)))
        mean[subset] = sum(log + mean[rest] for log, rest in zip(own, after, strict=True)) / len(next_ones)
    return -exact[subsets[-1]], -mean[subsets[-1]]
