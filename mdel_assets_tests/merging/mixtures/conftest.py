"""Text that gates are made of."""

import pytest

from mdel_assets_tests.conftest import KEY_OF, WORDS, make_document, write_split


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """Training text of three domains."""
    found = {}
    for label in WORDS:
        folder = tmp_path_factory.mktemp(KEY_OF[label])
        texts = [make_document(label, number)["text"] for number in range(30)]
        write_split(folder / "train.parquet", texts, domain=KEY_OF[label])
        found[KEY_OF[label]] = folder
    return found
