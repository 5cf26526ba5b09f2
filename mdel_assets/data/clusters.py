"""Clusters: the domains of a corpus without labels, found by topic.

`fit_clusters` runs balanced k-means on a sample of documents; `Clusters.assign` then puts any
document into the cluster with the smallest squared distance plus the cluster's price. Prices are
set so that every cluster takes the same share of the sample: clusters in dense regions are dear.
Source: Gururangan et al. 2023, "Scaling Expert Language Models with Unsupervised Domain Discovery"
(c-BTM). It balances the assignment by an auction; prices also balance documents outside the sample.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.data.text_features import (
    Array,
    hashed_words,
    inverse_document_frequency,
    leading_directions,
    tfidf,
    unit_rows,
)
from mdel_assets.errors import ShardError

CLUSTERS_NAME = "clusters.safetensors"
# The beginning of a text shows its topic; features of whole books would take minutes.
READ_CHARACTERS = 4096
_NUM_ROUNDS = 20
_NUM_PRICE_STEPS = 25
_TEMPERATURES = (0.3, 0.1, 0.03, 0.01)
_NUM_TERMS = 8
_TEXTS_PER_BATCH = 512

# Shapes in names: N texts, F features, K directions, C clusters, W words.


@dataclasses.dataclass(frozen=True)
class ClusterFit:
    """The clusters of a sample: each one's number of documents and characteristic words."""

    sizes: list[int]
    terms: list[list[str]]


class Clusters:
    """Assigns documents to clusters, by arrays that `fit_clusters` wrote."""

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        self._arrays: dict[str, NDArray[np.float32]] = load_file(folder / CLUSTERS_NAME)

    def assign(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the (N,) number of each text's cluster."""
        arrays = self._arrays
        parts = [np.empty(0, np.int64)]
        for first in range(0, len(texts), _TEXTS_PER_BATCH):
            batch = [text[:READ_CHARACTERS] for text in texts[first : first + _TEXTS_PER_BATCH]]
            features_NF = tfidf(hashed_words(batch), arrays["idf"])
            points_NK = unit_rows(np.asarray(features_NF @ arrays["directions"].T))
            costs_NC = _squared_distances(points_NK, arrays["centroids"]) + arrays["prices"]
            parts.append(costs_NC.argmin(axis=1))
        return np.concatenate(parts)


def fit_clusters(texts: Sequence[str], folder: Path, *, num_clusters: int, seed: int) -> ClusterFit:
    """Write ``clusters.safetensors``: balanced k-means on the beginnings of ``texts``.

    Raises:
        ShardError: fewer than two texts per cluster.

    """
    from safetensors.numpy import save_file
    from sklearn.cluster import KMeans

    if len(texts) < 2 * num_clusters:
        raise ShardError(
            f"{len(texts)} documents cannot make {num_clusters} clusters of at least two. Lower "
            f"domains.clusters, or give the corpus more text."
        )
    beginnings = [text[:READ_CHARACTERS] for text in texts]
    counts_NF = hashed_words(beginnings)
    idf = inverse_document_frequency(counts_NF)
    directions, points_NK = leading_directions(tfidf(counts_NF, idf), seed=seed)
    centroids_CK = KMeans(num_clusters, n_init=4, random_state=seed).fit(points_NK).cluster_centers_
    prices_C = np.zeros(num_clusters)
    chosen_N = np.full(len(texts), -1)
    for _ in range(_NUM_ROUNDS):
        distances_NC = _squared_distances(points_NK, centroids_CK)
        prices_C = balancing_prices(distances_NC)
        before, chosen_N = chosen_N, (distances_NC + prices_C).argmin(axis=1)
        if (before == chosen_N).all():
            break
        centroids_CK = np.stack(
            [
                points_NK[chosen_N == cluster].mean(axis=0) if (chosen_N == cluster).any() else old
                for cluster, old in enumerate(centroids_CK)
            ]
        )
    arrays = {
        "idf": idf,
        "directions": directions,
        "centroids": centroids_CK,
        "prices": prices_C,
    }
    stored = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    save_file(stored, folder / CLUSTERS_NAME)
    sizes = np.bincount(chosen_N, minlength=num_clusters)
    return ClusterFit(sizes.tolist(), _terms(beginnings, chosen_N, num_clusters))


def balancing_prices(distances_NC: Array) -> Array:
    """Return (C,) prices under which the cheapest clusters of N points are about equally large.

    Ascent on the dual of balanced assignment, softened by a temperature that falls: a cluster's
    price rises by the logarithm of its share over an even one (Cuturi 2013, with one side free).
    """
    num_clusters = distances_NC.shape[1]
    spread = float(distances_NC.std()) or 1.0
    prices_C = np.zeros(num_clusters)
    for temperature in (spread * share for share in _TEMPERATURES):
        for _ in range(_NUM_PRICE_STEPS):
            scores_NC = -(distances_NC + prices_C) / temperature
            shares_NC = np.exp(scores_NC - np.logaddexp.reduce(scores_NC, axis=1)[:, None])
            prices_C += temperature * np.log(shares_NC.mean(axis=0) * num_clusters + 1e-12)
    found: Array = prices_C - prices_C.min()
    return found


def _squared_distances(points_NK: NDArray[Any], centroids_CK: NDArray[Any]) -> Array:
    found: Array = (
        (points_NK**2).sum(axis=1)[:, None]
        - 2.0 * points_NK @ centroids_CK.T
        + (centroids_CK**2).sum(axis=1)
    )
    return found


def _terms(texts: Sequence[str], chosen_N: NDArray[Any], num_clusters: int) -> list[list[str]]:
    """Return each cluster's characteristic words: frequent in its texts, rarer in the others."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        token_pattern=r"\b[^\W\d_]{3,}\b",  # noqa: S106  (a word of letters)
        binary=True,
        max_features=20_000,
    )
    try:
        occurs_NW = counter.fit_transform(texts)
    except ValueError:
        # No text holds a word of letters.
        return [[] for _ in range(num_clusters)]
    words = counter.get_feature_names_out()
    everywhere_W = np.asarray(occurs_NW.mean(axis=0))[0]
    found = []
    for cluster in range(num_clusters):
        is_own_N = chosen_N == cluster
        share_W = np.asarray(occurs_NW[is_own_N].mean(axis=0))[0] if is_own_N.any() else 0
        marks_W = share_W * np.log(np.maximum(share_W, 1e-9) / everywhere_W)
        best = np.argsort(-marks_W, kind="stable")[:_NUM_TERMS]
        found.append([str(words[i]) for i in best if marks_W[i] > 0])
    return found
