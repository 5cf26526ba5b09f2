"""A dataset of two domains that trainings of tests read."""

import pytest

from mdel_assets_tests.conftest import make_document, write_split


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    for split, label, first, count in (
        ("train", "ArXiv", 0, 60),
        ("validation_domain", "ArXiv", 100, 12),
        ("validation_pile", "Github", 100, 12),
    ):
        texts = [make_document(label, first + i)["text"] for i in range(count)]
        write_split(folder / f"{split}.parquet", texts, domain=label)
    return folder
