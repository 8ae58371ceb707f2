"""The gated delta rule: a memory of fixed size that learns, position by position, which value belongs to which key.

A head's memory S (d_k, d_v) answers a key k with S' k. At each position it first decays, and then what it answers to
the position's key is moved towards the position's value, by a share beta (Yang, Kautz, Hatamizadeh 2024, arXiv
2412.06464, equation 10):

    S_t = alpha_t (I - beta_t k_t k_t') S_(t-1) + beta_t k_t v_t',    o_t = S_t' q_t.

Position i so adds k_i u_i' to what is left, with u_i = beta_i (v_i - alpha_i S_(i-1)' k_i). In a chunk that begins with
the memory S, where D_ij is the decay from j to i and D_i that from the beginning to i,

    u_i + sum over j < i of beta_i D_ij (k_i' k_j) u_j = beta_i v_i - beta_i D_i S' k_i:

a triangular system for all u of the chunk, whose right side is linear in S. Solved for values and for keys it says what
the chunk adds to any memory. That is done for all chunks at once; only the memory goes from chunk to chunk, by products
of matrices (the WY form of Bischof and Van Loan 1987; for the delta rule: Yang et al. 2024, arXiv 2406.06484).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.cost import Cost, Work

CHUNK = 64
"""Positions of a chunk at most."""
GONE = -1000.0
"""Logarithm of a decay that leaves nothing: its exponential is 0 in every type of number."""


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, memory: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What queries find in a memory that keys and values change position by position, and the memory behind the last.

    Args:
        q: (rows, length, d_k).
        k: (rows, length, d_k), each of length 1 at most.
        v: (rows, length, d_v).
        beta: (rows, length), from 0, which keeps what the memory answers, to 1, which puts the value in its place.
        decay: (rows, length), logarithms of alpha: 0 at most. ``GONE`` begins anew.
        memory: (rows, d_k, d_v) before the first position; None: 0.

    Returns:
        (rows, length, d_v) and (rows, d_k, d_v).

    Example:
        >>> k, v, one = torch.eye(2)[None], torch.tensor([[[3.0], [4.0]]]), torch.ones(1, 2)
        >>> found, memory = gated_delta(k, k, v, one, 0 * one)
        >>> found.flatten().tolist(), memory.flatten().tolist()
        ([3.0, 4.0], [3.0, 4.0])
    """
    memory = q.new_zeros(len(q), q.shape[2], v.shape[2]) if memory is None else memory
    length, (count, size) = q.shape[1], chunks(q.shape[1])
    q, k, v = (F.pad(x, (0, 0, 0, count * size - length)).view(len(x), count, size, -1) for x in (q, k, v))
    beta, decay = (F.pad(x, (0, count * size - length)).view(len(x), count, size) for x in (beta, decay))
    fade, begun, left = _faded(decay, q.dtype)
    weighed = beta[..., None] * k
    told, asked = torch.linalg.solve_triangular(
        (weighed @ k.mT) * fade,
        torch.cat((beta[..., None] * v, weighed * begun), -1),
        upper=False,
        unitriangular=True,
    ).split([v.shape[-1], k.shape[-1]], -1)
    within, reads, keys = (q @ k.mT) * fade, torch.cat((asked, q * begun), 2), (k * left).mT
    outs = []
    for i in range(count):
        known, found = (reads[:, i] @ memory).chunk(2, 1)
        added = told[:, i] - known
        outs.append(torch.baddbmm(found, within[:, i], added))
        memory = torch.baddbmm(memory * begun[:, i, -1:], keys[:, i], added)
    return torch.cat(outs, 1)[:, :length], memory


def gated_delta_step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for one position, in the fewest calls."""
    memory = memory * decay.exp()[..., None]
    added = torch.baddbmm(v, k, memory, alpha=-1).mul_(beta[..., None])
    memory.addcmul_(k.mT, added)
    return torch.bmm(q, memory), memory


def reference(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, memory: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``gated_delta`` by its definition."""
    memory = q.new_zeros(len(q), q.shape[2], v.shape[2]) if memory is None else memory
    outs = []
    for t in range(q.shape[1]):
        memory = decay[:, t].exp()[:, None, None] * memory
        known = torch.einsum("rk,rkv->rv", k[:, t], memory)
        added = beta[:, t, None] * (v[:, t] - known)
        memory = memory + torch.einsum("rk,rv->rkv", k[:, t], added)
        outs.append(torch.einsum("rk,rkv->rv", q[:, t], memory))
    return torch.stack(outs, 1), memory


def chunks(length: int) -> tuple[int, int]:
    """How many chunks there are, and positions of each: as even as may be, so that the last one is nearly full.

    Example:
        >>> chunks(64), chunks(65), chunks(200)
        ((1, 64), (2, 33), (4, 50))
    """
    count = -(-length // CHUNK)
    return count, -(-length // count)


def _faded(decay: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What decays within chunks, of logarithms (rows, chunks, size).

    Sums are taken in float64: their differences are what counts, also behind a position that left next to nothing.

    Returns:
        From j to i, 0 where j is later (rows, chunks, size, size); from the beginning to i, and from i to the end, both
        (rows, chunks, size, 1).
    """
    wide = decay.dtype if decay.device.type == "mps" else torch.float64  # which that device has not
    passed = decay.to(wide).cumsum(-1)
    between = (passed[..., :, None] - passed[..., None, :]).to(dtype)
    later = torch.ones(between.shape[-2:], dtype=torch.bool, device=decay.device).triu_(1)
    ends = passed.to(dtype).exp(), (passed[..., -1:] - passed).to(dtype).exp()
    return between.masked_fill(later, -torch.inf).exp(), ends[0][..., None], ends[1][..., None]


def delta_work(rows: int, length: int, d_k: int, d_v: int) -> tuple[Work, Work]:
    """What ``gated_delta`` costs: products of keys and queries with keys, and all that their decay has a part in.

    The mathematics needs what a step does at each position: the memory is read for the key and for the query, and
    changed, 2 d_k d_v each. Executed is what chunks do: they find in bigger products what a position gives to those
    behind it in its chunk.
    """
    count, size = chunks(length)
    many = rows * count
    pairs, memory = 2 * many * size * size, 2 * many * size * d_k * d_v
    first = 2 * rows * size * d_k * d_v  # the first chunk's memory is a constant; nobody reads the last one
    solved, mixed, needed = pairs * (d_k + d_v) // 2, pairs * d_v, 6 * rows * length * d_k * d_v
    gram = Cost(executed=2 * pairs * d_k, moved=8 * many * size * (size + 2 * d_k))
    one = Cost(needed, solved + mixed + 3 * memory, 8 * many * size * size, 4 * many * size * (3 * size + 8 * d_v))
    back = Cost(2 * needed, 3 * solved + 2 * mixed + 6 * memory - 4 * first, 2 * one.elementwise, 2 * one.moved)
    return Work(gram, 2 * gram), Work(one, back)
