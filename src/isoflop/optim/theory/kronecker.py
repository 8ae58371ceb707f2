"""How well Kronecker products of Gram matrices fit a gradient's second moment (Morwani et al. 2024, arXiv 2406.17748).

vec is row-major: H[(i, j), (k, l)] = E G_ij G_kl is compared with A (x) B, A (m, m), B (n, n).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def second_moment(gradients: Array) -> Array:
    """(mn, mn): mean of vec(G) vec(G)' over gradients (N, m, n)."""
    flat = gradients.reshape(len(gradients), -1)
    return np.asarray(flat.T @ flat / len(flat))


def grams(gradients: Array) -> tuple[Array, Array]:
    """Shampoo's L = mean G G' and R = mean G' G."""
    count = len(gradients)
    left = np.einsum("bij,bkj->ik", gradients, gradients) / count
    return left, np.einsum("bij,bil->jl", gradients, gradients) / count


def rearranged(h: Array, m: int, n: int) -> Array:
    """(mm, nn): entry ((i, k), (j, l)) is H[(i, j), (k, l)]; Kronecker products become rank 1 (Van Loan, Pitsianis)."""
    return h.reshape(m, n, m, n).transpose(0, 2, 1, 3).reshape(m * m, n * n)


def optimal(h: Array, m: int, n: int) -> tuple[Array, Array]:
    """The Kronecker product nearest to ``h`` in Frobenius norm."""
    u, s, v = np.linalg.svd(rearranged(h, m, n), full_matrices=False)
    sign = np.sign(np.trace(u[:, 0].reshape(m, m)))
    return sign * s[0] * u[:, 0].reshape(m, m), sign * v[0].reshape(n, n)


def power_iteration(h: Array, m: int, n: int, steps: int) -> tuple[Array, Array]:
    """Both factors updated at once, ``steps`` times from identities; one step gives exactly Shampoo's L and R."""
    r, left, right = rearranged(h, m, n), np.eye(m), np.eye(n)
    for _ in range(steps):
        left, right = (r @ right.ravel()).reshape(m, m), (r.T @ left.ravel()).reshape(n, n)
    return left, right


def root(a: Array) -> Array:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(a)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


def cosine(a: Array, b: Array) -> float:
    """Cosine similarity of two matrices."""
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def rotated(gradients: Array) -> tuple[Array, Array, Array]:
    """(gradients in the eigenbases of L and R, eigenvalues of L, of R): what SOAP runs Adam on."""
    (left, ql), (right, qr) = (np.linalg.eigh(gram) for gram in grams(gradients))
    return np.einsum("ia,bij,jc->bac", ql, gradients, qr), left, right


def diagonal_share(h: Array) -> float:
    """Cosine similarity of a second moment with its diagonal: Adam's fit, or SOAP's in SOAP's basis."""
    return float(np.linalg.norm(np.diag(h)) / np.linalg.norm(h))
