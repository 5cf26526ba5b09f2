"""Documents read by number: the right ones, in order, and no other row group."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.split_documents import SplitDocuments

TEXTS = [f"document {number} " + "word " * (number % 50) for number in range(1000)]
DOMAINS = ["github" if number % 3 else "arxiv" for number in range(1000)]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    path = tmp_path_factory.mktemp("split") / "train.parquet"
    pq.write_table(pa.table({"text": TEXTS, "domain": DOMAINS}), path, row_group_size=64)
    return path


def test_documents_come_in_the_order_asked_for(split, monkeypatch):
    documents = SplitDocuments.of(split)
    assert len(documents) == 1000
    numbers = np.random.default_rng(0).permutation(1000)
    expected = [TEXTS[i] for i in numbers]
    assert list(documents.texts(numbers)) == expected
    # However little is read at a time.
    monkeypatch.setattr("mdel_assets.data.split_documents._MIN_READ_BYTES", 300)
    monkeypatch.setattr("mdel_assets.data.split_documents._NUMBERS_PER_STEP", 37)
    assert list(documents.texts(numbers, num_characters=10)) == expected
    assert list(documents.texts()) == TEXTS


def test_one_half_and_several_files_count_as_one(split):
    own = [text for text, domain in zip(TEXTS, DOMAINS, strict=True) if domain == "arxiv"]
    half = SplitDocuments.of(split, domain="arxiv")
    both = SplitDocuments.together([half, SplitDocuments.of(split)])
    assert len(both) == len(own) + 1000
    numbers = np.random.default_rng(1).permutation(len(both))
    assert list(both.texts(numbers)) == [[*own, *TEXTS][i] for i in numbers]
    assert len(SplitDocuments.of(split, domain="freelaw")) == 0


def test_the_first_documents_reach_the_characters_wanted(split):
    documents = SplitDocuments.of(split)
    first = documents.first(max_characters=1000)
    texts = list(first.texts())
    assert texts == TEXTS[: len(texts)]
    assert sum(map(len, texts)) >= 1000 > sum(map(len, texts[:-1]))
    both = SplitDocuments.together([documents, documents]).first(max_documents=1003)
    assert list(both.texts()) == [*TEXTS, *TEXTS[:3]]
    assert len(documents.first(max_documents=5000)) == 1000


def test_other_row_groups_are_not_read(split, tmp_path):
    """Damage all row groups but two: what these hold can be read, and nothing else."""
    content = bytearray(split.read_bytes())
    metadata = pq.read_metadata(split)
    for group in set(range(metadata.num_row_groups)) - {2, 9}:
        column = metadata.row_group(group).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    damaged = tmp_path / "train.parquet"
    damaged.write_bytes(content)
    documents = SplitDocuments.of(damaged)
    numbers = np.array([9 * 64 + 3, 2 * 64 + 63, 2 * 64])
    assert list(documents.texts(numbers)) == [TEXTS[i] for i in numbers]
    with pytest.raises(OSError, match=r"page|thrift|header"):
        list(documents.texts(np.array([0])))
