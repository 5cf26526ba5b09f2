"""Beginnings of held-out documents, and how each goes on: what models are asked to continue."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mdel_assets.data.document_index import ids_of, salted_hash
from mdel_assets.data.split_documents import SplitDocuments

_SPLIT = "validation_domain"
# A token is about so many characters of English.
CHARACTERS_PER_TOKEN = 4


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The beginning of a document of ``domain``, and the text that follows it there."""

    domain: str
    document_id: str
    prompt: str
    reference: str


def draw_beginnings(
    folder: Path, domain: str, *, count: int, num_characters: int, num_following: int, seed: int
) -> list[Beginning]:
    """Draw ``count`` held-out documents of a domain's dataset; the same seed draws the same.

    A prompt has up to ``num_characters``, what follows up to ``num_following``; both end between
    words where there are any. Documents that have enough text for both come first; of a shorter one
    the prompt is half.
    """
    path = folder / f"{_SPLIT}.parquet"
    table = pq.read_table(path, columns=["document_id", "num_bytes"])
    if not len(table):
        return []
    ids = np.concatenate([ids_of(chunk) for chunk in table.column("document_id").chunks])
    ranks = salted_hash(ids, salt=f"sample_texts:{seed}")
    is_short = table.column("num_bytes").to_numpy() < num_characters + num_following
    rows = np.lexsort((ranks, is_short))[:count]
    # Texts are read in the order of the file.
    rows = np.sort(rows)
    keys = table.column("document_id").take(rows).to_pylist()
    found = []
    for key, text in zip(keys, SplitDocuments.of(path).texts(rows), strict=True):
        size = _between_words(text, min(num_characters, len(text) // 2))
        following = text[size:]
        end = _between_words(following, num_following)
        found.append(Beginning(domain, key, text[:size], following[:end]))
    return found


def _between_words(text: str, size: int) -> int:
    """Return the largest size up to ``size`` at which ``text`` is cut between two words, if any."""
    if size >= len(text):
        return len(text)
    return next((end for end in range(size, 0, -1) if text[end].isspace()), size)
