"""Numerical features of a text's topic: TF-IDF of hashed words and word pairs, leading directions.

Hashing needs no vocabulary, so texts are turned into features one batch at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUM_FEATURES = 1 << 16
_NUM_DIRECTIONS = 100

# Shapes in names: N texts, F features, K directions.
Array = NDArray[np.float64]


def hashed_words(texts: Sequence[str]) -> Any:
    """Return the sparse (N, F) counts of words, signs and pairs of them, by hash."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        n_features=_NUM_FEATURES,
        token_pattern=r"\w+|[^\w\s]",  # noqa: S106  (a word, or a sign)
        ngram_range=(1, 2),
        norm=None,
        alternate_sign=False,
    )
    return vectorizer.transform(texts)


def inverse_document_frequency(counts_NF: Any) -> Array:
    """Return (F,) how rare each feature is among the texts, smoothed as scikit-learn does."""
    found: Array = np.log((1 + counts_NF.shape[0]) / (1 + counts_NF.getnnz(axis=0))) + 1.0
    return found


def tfidf(counts_NF: Any, idf_F: NDArray[Any]) -> Any:
    """Return rows of unit length: the logarithm of counts, weighted by rarity."""
    from sklearn.preprocessing import normalize

    features_NF = counts_NF.astype(np.float64)
    features_NF.data = np.log1p(features_NF.data) * idf_F[features_NF.indices]
    return normalize(features_NF)


def leading_directions(features_NF: Any, *, seed: int) -> tuple[Array, Array]:
    """Return the (K, F) leading directions and each text's unit vector along them."""
    from sklearn.decomposition import TruncatedSVD

    num_directions = max(1, min(_NUM_DIRECTIONS, features_NF.shape[0] - 1))
    svd = TruncatedSVD(num_directions, random_state=seed)
    # Column by column its products take less time, and give the same bits.
    reduced_NK = svd.fit_transform(features_NF.tocsc())
    return svd.components_, unit_rows(reduced_NK)


def unit_rows(vectors_NK: Array) -> Array:
    """Return the rows at length one; a row of zeros stays."""
    lengths_N1 = np.linalg.norm(vectors_NK, axis=1, keepdims=True)
    found: Array = vectors_NK / np.maximum(lengths_N1, 1e-12)
    return found
