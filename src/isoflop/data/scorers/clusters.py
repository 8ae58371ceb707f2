"""Concept clusters: how many documents of each by its complexity, and within one the hard ones first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from ...core.contracts import ScorerPart
from ...core.cost import Cost
from ...core.digests import document_hash
from ...core.documents import Later
from ...core.errors import DataError
from ...core.registry import Card, part
from ...core.rng import Rng
from ..engine.allocation import Clusters, shares, waterfill, whole
from ..engine.features import bucket_counts
from ..engine.latent import LatentVectors
from ..engine.vectors import CentredVectors, Embeds, HashedVectors

Array = npt.NDArray[np.float64]


class ConceptClusters:
    """x_j / rank of a document in its cluster j: at least 1 for those that are to stay.

    Args:
        clusters: of the pool.
        encoder: by which texts become vectors.
        allocation: (k,) documents to keep of each cluster.
        ranked: sorted keys of each cluster's documents in the pool, the first to keep lowest.
        order: hard, easy or random.
        cost: what fitting cost.

    Example:
        >>> pool = [f"red fox {i}" for i in range(6)] + [f"blue sea {i}" for i in range(6)]
        >>> scorer = ClustersPart(clusters=2, keep=0.5, buckets=64).build({"pool": pool}, {})
        >>> int((scorer.score(list(enumerate(pool))) >= 1).sum())
        6
    """

    def __init__(
        self,
        clusters: Clusters,
        encoder: Embeds,
        allocation: Array,
        ranked: Sequence[Array],
        order: str,
        cost: Cost,
    ) -> None:
        self.clusters, self.encoder, self.allocation = clusters, encoder, allocation
        self.ranked, self.order, self._cost = ranked, order, cost

    @property
    def cost(self) -> Cost:
        return self._cost + self.encoder.cost

    def score(self, documents: Sequence[tuple[Any, str]]) -> Array:
        return self.grouped(documents)[0]

    def grouped(self, documents: Sequence[tuple[Any, str]]) -> tuple[Array, list[int]]:
        """Scores, and the number of each document's cluster."""
        texts = [text for _, text in documents]
        found = self.encoder.vectors(texts)
        labels = self.clusters.labels(found)
        keys = keys_of(texts, self.clusters.distances(found, labels), self.order)
        rank = [int(np.searchsorted(self.ranked[j], key)) for j, key in zip(labels, keys, strict=True)]
        self._cost += Cost(flops=2 * found.shape[1] * len(self.allocation) * len(found))
        return np.asarray(self.allocation[labels] / (1 + np.array(rank, np.float64))), labels.tolist()


def keys_of(texts: Sequence[str], distances: Array, order: str) -> Array:
    """What documents of a cluster are sorted by: the ones to keep come first."""
    if order == "random":
        return np.frombuffer(b"".join(document_hash(text)[:8] for text in texts), "<u8") / 2.0**64
    return -distances if order == "hard" else distances


@part
class ClustersPart(ScorerPart):
    """Keeps more of complex clusters, those that are wide and far from others, and in each the documents at its rim.

    Deduplicate first: near copies make a cluster dense. Select with ``--documents``, or a share of ``keep``. With a
    model as ``encoder`` (``--model encoder=RUN``, or ``--vectors FILES``) vectors are its pooled states less their
    mean. A selection takes some of each cluster with ``--keep most=0.1``.

    Example:
        >>> ClustersPart(clusters=10).tau
        0.1
    """

    clusters: PositiveInt = 100
    """How many (LAION-280M: 500, DataComp-medium: 100)."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the pool that is to be kept."""
    tau: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the softmax over complexities (the authors' program: 0.5)."""
    order: Literal["hard", "easy", "random"] = "hard"
    """Within a cluster, first: the farthest from its centre, the nearest, or any."""
    words: Annotated[Literal["random", "svd"], Later()] = "random"
    """How words and pairs become vectors where no model is asked: random rows, or the pool's leading directions."""
    buckets: PositiveInt = 1 << 14
    """Features that words and pairs are hashed to."""
    dim: PositiveInt = 64
    """Of a document's vector."""
    seed: int = 0
    """Of vectors and of k-means."""
    fits: ClassVar[tuple[str, ...]] = ()
    card = Card(
        summary="Documents by cluster complexity: spherical k-means, water-filling, the hard ones first.",
        paper="Abbas et al. 2024, arXiv 2401.04578",
        equation="p = softmax(d_inter d_intra / tau); x = clip(p N + mu, 1, M); score = x_j / rank",
        defaults="500 clusters of DINOv2 embeddings, tau 0.1",
        differs="vectors are projections of hashed words and pairs, random or by singular value decomposition, or a "
        "language model's pooled states; "
        "the quadratic program is solved exactly",
        cost="2 d k FLOPs a document and round of k-means",
    )

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> ConceptClusters:
        pool = list(texts["pool"])
        if len(pool) < 2:
            raise DataError("holds fewer than two documents", where="pool", fix="name more")
        rng = Rng(self.seed)("concepts")
        encoder = self._encoder(pool, rng, models.get("encoder"))
        found = encoder.vectors(pool)
        clusters = Clusters.fit(found, self.clusters, rng)
        labels = clusters.labels(found)
        distances, k = clusters.distances(found, labels), len(clusters.centroids)
        size = np.bincount(labels, minlength=k).astype(np.float64)
        with np.errstate(invalid="ignore"):
            intra = np.bincount(labels, distances, minlength=k) / size
        total = float(max(round(self.keep * len(pool)), 1))
        wanted = shares(clusters.spread(), intra, self.tau) * total if k > 1 else np.array([total])
        low = np.minimum(1.0, size) if np.minimum(1.0, size).sum() <= total else np.zeros(k)
        keys = keys_of(pool, distances, self.order)
        ranked = [np.sort(keys[labels == j]) for j in range(k)]
        cost = Cost(flops=2 * found.shape[1] * k * len(pool) * 31)
        allocation = whole(waterfill(wanted, total, low, size), size)
        return ConceptClusters(clusters, encoder, allocation, ranked, self.order, cost)

    def _encoder(self, pool: Sequence[str], rng: Rng, given: Any | None) -> Embeds:
        if given is not None:
            return CentredVectors(given, given.vectors(pool).mean(0))
        if self.words == "svd":
            return LatentVectors.fit(pool, self.dim, self.buckets, self.seed)
        table = rng("vectors").at().normal(size=(self.buckets, self.dim)) / self.dim**0.5
        counts = bucket_counts(pool, self.buckets)
        return HashedVectors(table, np.log((counts.sum() + 1) / (counts + 1)))
