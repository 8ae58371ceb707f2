"""Costs by formula, in exact integers: products, attention, convolutions, factorizations.

One multiply-add is 2 FLOPs. Products, attention and convolutions are counted exactly. Factorizations and transforms
are NOMINAL: the leading terms of the textbook algorithm, whatever the library runs. Sources:

- GVL: Golub and Van Loan, Matrix Computations, 4th edition.
- LAWN 41: Blackford and Dongarra, Installation Guide for LAPACK (LAPACK Working Note 41), appendix C.

``itemsize`` is bytes a number and only enters ``moved``. Thirds of integers are rounded down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.cost import ZERO, Cost, Work

CPU_FLASH_KEY_BLOCK = 512
"""Keys that torch's CPU flash attention visits at a time (seen in torch 2.13 at every dtype)."""


def products(flops: int, elements: int = 0, itemsize: int = 4) -> Cost:
    """Cost of matmul-class work in which needed and executed FLOPs agree, on ``elements`` numbers read or written."""
    return Cost(flops=flops, executed=flops, moved=elements * itemsize)


# ---------------------------------------------------------------- products


def matmul(m: int, k: int, n: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """``batch`` products (m, k) @ (k, n): 2mkn each."""
    return products(2 * batch * m * k * n, batch * (m * k + k * n + m * n), itemsize)


def linear(
    tokens: int,
    d_in: int,
    d_out: int,
    itemsize: int = 4,
    input_gradient: bool = True,
    weight_gradient: bool = True,
) -> Work:
    """A weight (d_out, d_in) applied to ``tokens`` vectors; a bias is elementwise and left out.

    Args:
        tokens: vectors.
        d_in: numbers of a vector.
        d_out: numbers of what it becomes.
        itemsize: bytes a number.
        input_gradient: the backward computes the vectors' gradient.
        weight_gradient: it computes the weight's.
    """
    one = matmul(tokens, d_in, d_out, itemsize=itemsize)
    return Work(forward=one, backward=one * (weight_gradient + input_gradient))


def convolution(
    batch: int, d_in: int, d_out: int, kernel: Sequence[int], output: Sequence[int], groups: int = 1, itemsize: int = 4
) -> Work:
    """Direct convolution with ``kernel`` taps at ``output`` positions per dimension; padded zeros count as inputs.

    Each output number sums prod(kernel) * d_in / groups products; each of the two gradients costs the same again.
    """
    taps, positions = math.prod(kernel) * (d_in // groups), math.prod(output)
    elements = d_out * taps + batch * positions * (d_in + d_out)
    one = products(2 * batch * positions * d_out * taps, elements, itemsize)
    return Work(forward=one, backward=one * 2)


# ---------------------------------------------------------------- attention


def causal_pairs(queries: int, keys: int | None = None) -> int:
    """Pairs (query, key) that the causal mask allows.

    T(T+1)/2 for ``queries`` = ``keys`` = T (the default); with more keys than queries (cached decoding) the last
    query sees all ``keys``, the one before it all but one, and so on.
    """
    past = 0 if keys is None else keys - queries
    if past < 0:
        raise ValueError(f"{queries} queries cannot follow one another within {keys} keys")
    return queries * past + queries * (queries + 1) // 2


def flash_cpu_pairs(queries: int, keys: int | None = None, causal: bool = True) -> int:
    """Pairs that torch's CPU flash attention executes, forward and backward alike.

    The kernel (aten/src/ATen/native/cpu/FlashAttentionKernel.cpp) walks keys in blocks of 512 and skips a block only
    if it lies wholly behind the last query of a block of 32, 64 or 256 queries, numbers that divide 512: query i
    (from 0) visits min(512 * (i // 512 + 1), keys) keys. Up to 512 tokens the whole square is executed.
    A mask tensor skips nothing (``causal`` False).
    """
    keys = queries if keys is None else keys
    if not causal:
        return queries * keys
    whole, rest = divmod(queries, CPU_FLASH_KEY_BLOCK)
    sizes = [CPU_FLASH_KEY_BLOCK] * whole + [rest]
    return sum(size * min(CPU_FLASH_KEY_BLOCK * (block + 1), keys) for block, size in enumerate(sizes))


def flash_cuda_pairs(queries: int, keys: int | None = None, causal: bool = True) -> int:
    """Pairs charged for CUDA's fused attention: those that its mask allows (NOMINAL: kernels also execute the rest of
    the tiles on the diagonal, whose size depends on the kernel, the head and the device)."""
    keys = queries if keys is None else keys
    if not causal:
        return queries * keys
    rows = min(queries, keys)  # the kernels align the mask's top left corner: query i sees keys 0 .. i
    return causal_pairs(rows) + (queries - rows) * keys


def attention(
    batch: int,
    heads: int,
    head_dim: int,
    length: int,
    keys: int | None = None,
    *,
    pairs: int | None = None,
    executed_pairs: int | None = None,
    recompute: bool = False,
    itemsize: int = 4,
) -> Work:
    """Softmax attention of ``length`` queries over ``keys`` (default: as many), its four projections not included.

    Each pair costs head_dim multiply-adds in each of 2 products forward (scores, mixing) and 4 backward.

    Args:
        batch: sequences.
        heads: query heads (with grouped key-value heads too).
        head_dim: numbers of a head.
        length: queries of a sequence.
        keys: keys of a sequence; default: as many as queries.
        pairs: pairs per head that the mask allows, for ``Cost.flops``; default the causal mask's.
        executed_pairs: pairs per head that are computed, for ``Cost.executed``; by default all, as explicit attention
            does.
        recompute: flash attention, which keeps no scores and computes them again in the backward: ``Work.recompute``,
            executed FLOPs only.
        itemsize: bytes a number.
    """
    keys = length if keys is None else keys
    pairs = causal_pairs(length, keys) if pairs is None else pairs
    executed = length * keys if executed_pairs is None else executed_pairs
    many = batch * heads
    ends = many * 2 * (length + keys) * head_dim  # queries, outputs, keys, values
    scores = 0 if recompute else many * 2 * length * keys  # written and read, once raw and once normalised

    def products_of(count: int, elementwise: int) -> Cost:
        return Cost(
            flops=2 * count * many * pairs * head_dim,
            executed=2 * count * many * executed * head_dim,
            elementwise=elementwise * many * executed,
            moved=(ends + scores) * itemsize * (count // 2),
        )

    again = Cost(executed=2 * many * executed * head_dim, elementwise=2 * many * executed) if recompute else ZERO
    return Work(forward=products_of(2, 5), backward=products_of(4, 4), recompute=again)


# ---------------------------------------------------------------- factorizations (nominal)


def newton_schulz(m: int, n: int, steps: int = 5, batch: int = 1, itemsize: int = 4) -> Cost:
    """Quintic Newton-Schulz iteration on the smaller side, m <= n after transposing: A = X X' (2m^2 n),
    A A (2m^3), B X (2m^2 n) a step. Exact: it consists of products (Jordan et al. 2024, Muon; torch.optim.Muon)."""
    m, n = min(m, n), max(m, n)
    return products(batch * steps * (4 * m * m * n + 2 * m**3), batch * steps * (4 * m * n + 4 * m * m), itemsize)


def geqrf(m: int, n: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """Householder factors of (m, n): 2mn^2 - 2n^3/3 for m >= n, else 2nm^2 - 2m^3/3 (GVL 5.2.2; LAWN 41)."""
    long, short = max(m, n), min(m, n)
    return products(batch * ((6 * long - 2 * short) * short * short // 3), 2 * batch * m * n, itemsize)


def orgqr(m: int, n: int, k: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """The first n columns (m, n) of the product of k reflectors: 4mnk - 2(m+n)k^2 + 4k^3/3 (LAWN 41)."""
    flops = (12 * m * n * k - 6 * (m + n) * k * k + 4 * k**3) // 3
    return products(batch * flops, batch * (m * k + m * n), itemsize)


def ormqr(m: int, n: int, k: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """k reflectors of length m applied to (m, n) from the left: 4mnk - 2nk^2 (LAWN 41)."""
    return products(batch * (4 * m * n * k - 2 * n * k * k), batch * (m * k + 2 * m * n), itemsize)


def qr(m: int, n: int, mode: str = "reduced", batch: int = 1, itemsize: int = 4) -> Cost:
    """QR of (m, n) by Householder reflectors, Q formed explicitly: square 8n^3/3, tall and thin 4mn^2 - 4n^3/3.

    ``mode``: "reduced" (Q (m, min(m, n))), "complete" (Q (m, m)) or "r" (no Q).
    """
    k = min(m, n)
    factor = geqrf(m, n, batch, itemsize)
    return factor if mode == "r" else factor + orgqr(m, m if mode == "complete" else k, k, batch, itemsize)


def eigh(n: int, vectors: bool = True, batch: int = 1, itemsize: int = 4) -> Cost:
    """Symmetric eigenproblem (n, n): 9n^3 with eigenvectors, 4n^3/3 without (GVL 8.3: tridiagonalise, implicit QR)."""
    return products(batch * (9 * n**3 if vectors else 4 * n**3 // 3), batch * n * n * (1 + vectors), itemsize)


def eig(n: int, vectors: bool = True, batch: int = 1, itemsize: int = 4) -> Cost:
    """General eigenproblem (n, n): 25n^3 with Schur vectors, 10n^3 without (GVL 7.5.6: Hessenberg, QR)."""
    return products(batch * (25 if vectors else 10) * n**3, batch * n * n * (1 + vectors), itemsize)


def svd(m: int, n: int, vectors: bool = True, full: bool = False, batch: int = 1, itemsize: int = 4) -> Cost:
    """Singular value decomposition of (m, n), m >= n after transposing (GVL 8.6.4, figure 8.6.1, R-SVD):
    6mn^2 + 11n^3 thin, 4m^2 n + 22n^3 with ``full`` square factors, 2mn^2 + 2n^3 for the values alone."""
    m, n = max(m, n), min(m, n)
    if not vectors:
        flops = 2 * m * n * n + 2 * n**3
    elif full:
        flops = 4 * m * m * n + 22 * n**3
    else:
        flops = 6 * m * n * n + 11 * n**3
    return products(batch * flops, batch * (2 * m * n + n * n), itemsize)


def cholesky(n: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """Cholesky factor of (n, n): n^3/3 (GVL 4.2)."""
    return products(batch * (n**3 // 3), 2 * batch * n * n, itemsize)


def lu(m: int, n: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """LU of (m, n) with row pivots: with k = min(m, n), 2mnk - (m+n)k^2 + 2k^3/3; square 2n^3/3 (GVL 3.2, 3.4)."""
    k = min(m, n)
    return products(batch * ((6 * m * n * k - 3 * (m + n) * k * k + 2 * k**3) // 3), 2 * batch * m * n, itemsize)


def solve_triangular(n: int, columns: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """A triangle (n, n) solved for ``columns`` right-hand sides: n^2 each (GVL 3.1)."""
    return products(batch * n * n * columns, batch * (n * n + 2 * n * columns), itemsize)


def solve(n: int, columns: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """LU of (n, n) and both triangles for ``columns`` right-hand sides: 2n^3/3 + 2n^2 each (GVL 3.2)."""
    return lu(n, n, batch, itemsize) + 2 * solve_triangular(n, columns, batch, itemsize)


def inverse(n: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """Inverse of (n, n) by LU: 2n^3 (LAWN 41: getrf 2n^3/3, getri 4n^3/3)."""
    return products(2 * batch * n**3, 2 * batch * n * n, itemsize)


def cholesky_inverse(n: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """Inverse of (n, n) from its Cholesky factor: 2n^3/3 (LAWN 41: potri)."""
    return products(batch * (2 * n**3 // 3), 2 * batch * n * n, itemsize)


def least_squares(m: int, n: int, columns: int, batch: int = 1, itemsize: int = 4) -> Cost:
    """(m, n) fitted to ``columns`` right-hand sides by QR: factor, apply Q', solve R (GVL 5.3.2, LAPACK gels)."""
    k = min(m, n)
    parts = geqrf(m, n, batch, itemsize) + ormqr(max(m, n), columns, k, batch, itemsize)
    return parts + solve_triangular(k, columns, batch, itemsize)


def fft(lengths: Sequence[int], batch: int = 1, real: bool = False, itemsize: int = 8) -> Cost:
    """Discrete Fourier transform over the dimensions ``lengths`` of ``batch`` signals.

    5 N log2 N with N = prod(lengths), logarithms rounded up; half of it from or to real numbers (the convention of
    FFTW's benchmarks: Frigo and Johnson 2005, The Design and Implementation of FFTW3).
    """
    size = math.prod(lengths)
    flops = 5 * batch * size * sum((n - 1).bit_length() for n in lengths)
    return products(flops // 2 if real else flops, 2 * batch * size, itemsize)
