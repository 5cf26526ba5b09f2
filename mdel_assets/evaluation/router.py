"""Routers: predict a text's domain from its beginning.

There are two, on the same features (TF-IDF of hashed words and word pairs): ``tfidf``, the distance
to each domain's centroid in a truncated SVD (c-BTM), and ``linear``, a logistic regression. A
router is a handful of arrays in one safetensors file. In use it sees no labels and no later text.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.data.text_features import (
    hashed_words,
    inverse_document_frequency,
    leading_directions,
    tfidf,
    unit_rows,
)
from mdel_assets.errors import ScoringError
from mdel_assets.evaluation.softmax_regression import fit_softmax
from mdel_assets.experiment.evaluation import Ensemble

ROUTER_NAME = "router.safetensors"
ROUTERS = ("tfidf", "linear")
# Characters: a router must cope with a line as well as with a page.
_BEGINNINGS = (128, 2048)
_DOMAINS_KEY = "domains"
# Of the linear router's weights: the larger, the less they are held back.
_INVERSE_STRENGTH = 10.0

# Shapes in names: N texts, F features, K directions, E domains.
Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Confusion:
    """One router's predictions on held-out documents: rows are domains, columns predictions."""

    router: str
    num_characters: int
    counts: list[list[int]]

    @property
    def accuracy(self) -> float:
        """The mean over domains of the share of correct predictions."""
        rows = [(row[i], sum(row)) for i, row in enumerate(self.counts) if sum(row)]
        return sum(right / total for right, total in rows) / max(1, len(rows))


class Router:
    """Gives domains weights for texts, with the arrays written by `train_router`."""

    def __init__(self, folder: Path, *, temperature: float) -> None:
        from safetensors import safe_open

        with safe_open(folder / ROUTER_NAME, framework="numpy") as file:
            self.domains: list[str] = file.metadata()[_DOMAINS_KEY].split(",")
            self._arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # As products with sparse features read them: they would be turned round for each.
        for name in ("directions", "weights"):
            self._arrays[name] = np.ascontiguousarray(self._arrays[name].T, np.float64)
        self._temperature = temperature

    def log_weights(self, texts: Sequence[str], router: str) -> Array:
        """Return (N, E) log-weights of the domains for each of N texts."""
        return self.weigh(self.features(texts), router)

    def features(self, texts: Sequence[str]) -> Any:
        """Return the sparse (N, F) features that all routers read."""
        return tfidf(hashed_words(texts), self._arrays["idf"])

    def weigh(self, features_NF: Any, router: str) -> Array:
        """Return (N, E) log-weights of the domains for the result of `features`."""
        arrays = self._arrays
        if router == "tfidf":
            directions_NK = unit_rows(np.asarray(features_NF @ arrays["directions"]))
            away_NEK = directions_NK[:, None] - arrays["centroids"][None]
            scores_NE = -(away_NEK**2).sum(axis=2) / self._temperature
        else:
            scores_NE = np.asarray(features_NF @ arrays["weights"]) + arrays["bias"]
        scores_NE = scores_NE.astype(np.float64)
        found: Array = scores_NE - np.logaddexp.reduce(scores_NE, axis=1)[:, None]
        return found


def train_router(
    datasets: Mapping[str, Path], folder: Path, *, settings: Ensemble, seed: int
) -> list[Confusion]:
    """Write ``router.safetensors``, trained on each domain's own training documents.

    ``datasets`` maps domains to dataset folders. Returns the predictions on validation documents.

    Raises:
        ScoringError: fewer than two domains.

    """
    from safetensors.numpy import save_file
    from threadpoolctl import threadpool_limits

    if len(datasets) < 2:
        raise ScoringError(
            f"A router needs two domains with training documents, but the corpus has "
            f"{len(datasets)}. Add shards that hold more domains."
        )
    count = settings.documents_per_domain(len(datasets))
    texts: list[str] = []
    labels: list[int] = []
    for label, (domain, path) in enumerate(datasets.items()):
        chosen = _sample_texts(path / "train.parquet", domain, count, seed)
        texts += [text[:size] for text in chosen for size in _BEGINNINGS]
        labels += [label] * (len(chosen) * len(_BEGINNINGS))
    counts_NF = hashed_words(texts)
    idf = inverse_document_frequency(counts_NF)
    features_NF = tfidf(counts_NF, idf)
    labels_N = np.array(labels)
    # Two products at a time on one core each; and any number of cores gives the same bits.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(1) as thread:
        fitted = thread.submit(
            fit_softmax,
            features_NF,
            labels_N,
            num_classes=len(datasets),
            inverse_strength=_INVERSE_STRENGTH,
        )
        directions, reduced_NK = leading_directions(features_NF, seed=seed)
        # As the stored router will have it.
        held_out = _held_out_features(datasets, idf.astype(np.float32), count=count, seed=seed)
        weights, bias = fitted.result()
    centroids = np.stack(
        [reduced_NK[labels_N == label].mean(axis=0) for label in range(len(datasets))]
    )
    arrays = {
        "idf": idf,
        "directions": directions,
        "centroids": centroids,
        "weights": weights,
        "bias": bias,
    }
    stored = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    save_file(stored, folder / ROUTER_NAME, metadata={_DOMAINS_KEY: ",".join(datasets)})
    return _confusions(Router(folder, temperature=settings.temperature), held_out)


def _sample_texts(path: Path, domain: str, count: int, seed: int) -> list[str]:
    """Return the beginnings of up to ``count`` texts of the domain's half, drawn by ``seed``."""
    documents = SplitDocuments.of(path, domain=domain)
    rows = np.random.default_rng(seed).permutation(len(documents))[:count]
    return [text[: max(_BEGINNINGS)] for text in documents.texts(np.sort(rows))]


def _held_out_features(
    datasets: Mapping[str, Path], idf: NDArray[np.float32], *, count: int, seed: int
) -> dict[int, list[Any]]:
    """Return the features of each domain's validation documents, by length of beginning.

    None stands for those of a domain that has no such documents.
    """
    texts = [
        _sample_texts(path / "validation_domain.parquet", domain, count, seed)
        for domain, path in datasets.items()
    ]
    return {
        size: [
            tfidf(hashed_words([text[:size] for text in own]), idf) if own else None
            for own in texts
        ]
        for size in _BEGINNINGS
    }


def _confusions(router: Router, held_out: Mapping[int, Sequence[Any]]) -> list[Confusion]:
    """Return how the router judges `_held_out_features`."""
    found = []
    for name in ROUTERS:
        for size, features in held_out.items():
            counts = [[0] * len(features) for _ in features]
            for label, features_NF in enumerate(features):
                if features_NF is not None:
                    for choice in router.weigh(features_NF, name).argmax(axis=1):
                        counts[label][int(choice)] += 1
            found.append(Confusion(name, size, counts))
    return found


def confusion_figure(confusions: Sequence[Confusion], domains: Sequence[str]) -> Any:
    """Return one panel per router on the longer beginnings: shares of each domain's documents."""
    from mdel_assets.charts import figure

    shown = [c for c in confusions if c.num_characters == _BEGINNINGS[-1]]
    size = 0.42 * len(domains)
    drawn = figure(width=2.4 + len(shown) * (0.8 + size), height=2.0 + size)
    all_axes = drawn.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, confusion in zip(all_axes, shown, strict=True):
        counts = np.array(confusion.counts, np.float64)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(domains)), domains, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(len(domains)), domains, fontsize=8)
        axes.set_title(f"{confusion.router}: {100 * confusion.accuracy:.0f} % right")
        axes.set_xlabel("taken for")
    all_axes[0].set_ylabel("validation documents of, %")
    return drawn
