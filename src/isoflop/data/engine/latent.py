"""Latent semantic analysis (Deerwester et al. 1990): vectors of documents by the directions in which a pool lies.

Rows of the matrix are documents, its columns hashed words and pairs, its entries the square roots of counts weighted
by rarity, and each row has length 1. Its leading right singular vectors are the table by which any text, of the pool or
not, becomes a vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, svds

from ...core.cost import Cost
from ...core.digests import digest, digest_bytes
from ...core.errors import DataError
from ...core.rng import Rng
from ...ledger.formulas import products, svd
from .features import counted
from .vectors import HashedVectors

Array = npt.NDArray[np.float64]
BUCKETS = 1 << 14
"""Features that words and pairs are hashed to."""
ENTRIES = 1 << 24
"""Of the matrix, at most (some 200 MB): a pool's first documents, which are drawn at random, stand for the rest."""
_LEAST = 1e-6  # of the first singular value: below it a direction is rounding


class LatentVectors(HashedVectors):
    """Hashed words and pairs by a pool's leading directions.

    Args:
        table: (buckets, d) right singular vectors.
        weights: (buckets,) of features.
        cost: what finding them cost.
        identity: digest of the settings and of the pool that they were found in.

    Example:
        >>> encoder = LatentVectors.fit(["red fox", "red fox runs", "blue sea", "blue sea lies"], dim=2)
        >>> fox, sea, red = encoder.vectors(["a fox", "some sea", "red"])
        >>> bool(fox @ red > 0.9 > 0.1 > sea @ red)
        True
    """

    name = "latent"

    def __init__(self, table: Array, weights: Array, cost: Cost, identity: str = "") -> None:
        super().__init__(table, weights)
        self.cost, self.identity = cost, identity
        self.bill: dict[str, Any] = {"flops": cost.flops, "dim": table.shape[1], "buckets": len(table)}

    @classmethod
    def fit(cls, texts: Iterable[str], dim: int = 64, buckets: int = BUCKETS, seed: int = 0) -> LatentVectors:
        """Find the directions of a pool.

        Args:
            texts: documents of the pool; of more than ``ENTRIES`` features in all the first ones.
            dim: directions at most; a pool of fewer has shorter vectors.
            buckets: features that words and pairs are hashed to.
            seed: of the search's start, which decides nothing but the last digits.

        Raises:
            DataError: no document holds a word.
        """
        counts = counted(texts, buckets, ENTRIES)
        if not counts.nnz:
            raise DataError("holds no words", where="pool", fix="name more documents")
        total = np.asarray(counts.sum(axis=0), np.float64)
        weights = np.log((total.sum() + 1) / (total + 1))
        rows = csr_array((np.sqrt(counts.data) * weights[counts.indices], counts.indices, counts.indptr), counts.shape)
        length = np.sqrt(np.asarray((rows * rows).sum(axis=1)))
        rows.data /= np.repeat(np.maximum(length, 1e-300), np.diff(rows.indptr))
        table, _, cost = leading(rows, dim, Rng(seed)("latent"))
        read = [digest_bytes(part.tobytes()) for part in (counts.indptr, counts.indices, counts.data)]
        return cls(table, weights, cost, digest([dim, buckets, seed, *read]))


def leading(matrix: csr_array, k: int, rng: Rng) -> tuple[Array, Array, Cost]:
    """The right singular vectors of the ``k`` largest singular values, or of all that are not zero.

    A sparse matrix is asked for products alone (Lanczos), each of which is counted, and so are the products by which
    the vectors of a search are kept orthogonal; the cost of a small one is that of a dense decomposition.

    Args:
        matrix: (rows, columns), not all zero.
        k: directions.
        rng: of the search's start.

    Returns:
        Directions (columns, k), orthonormal, of each the entry of greatest size positive; their singular values (k,),
        the largest first; and what finding them cost.
    """
    small, large = sorted(matrix.shape)
    width = max(2 * k + 1, 20)  # vectors that a search keeps
    if small <= width:
        _, values, directions = np.linalg.svd(matrix.toarray(), full_matrices=False)
        cost = svd(large, small, itemsize=8)
    else:
        asked, start = _Counted(matrix), rng.at().normal(size=small)
        _, values, directions = svds(asked, k, ncv=width, v0=start, return_singular_vectors=True)
        cost = products(2 * matrix.nnz * asked.columns + 4 * small * width * (asked.columns // 2))
    order = np.argsort(-values)[:k]
    order = order[values[order] > _LEAST * values.max()]
    rows = directions[order]
    signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])
    return np.ascontiguousarray((rows * signs[:, None]).T), values[order], cost


class _Counted(LinearOperator):  # type: ignore[misc]
    """A sparse matrix as products with it, of which the columns are counted."""

    def __init__(self, matrix: csr_array) -> None:
        super().__init__(matrix.dtype, matrix.shape)
        self.matrix, self.transposed, self.columns = matrix, matrix.T.tocsr(), 0

    def _matmat(self, x: Array) -> Array:
        self.columns += x.shape[1]
        return np.asarray(self.matrix @ x)

    def _rmatmat(self, x: Array) -> Array:
        self.columns += x.shape[1]
        return np.asarray(self.transposed @ x)

    def _matvec(self, x: Array) -> Array:
        return self._matmat(x.reshape(-1, 1))

    def _rmatvec(self, x: Array) -> Array:
        return self._rmatmat(x.reshape(-1, 1))
