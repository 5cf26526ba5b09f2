"""Baselines: the same tokens as the experts, in one model or dealt at random."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.errors import TrainingError
from mdel_assets.training.baseline import Part, mixed_blocks, train_baseline
from mdel_assets.training.model_files import load_tokenizer
from mdel_assets.training.packing import pack
from mdel_assets_tests.conftest import TRAINING, make_document, write_split


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    found = {}
    for name, label in (("arxiv", "ArXiv"), ("github", "Github")):
        found[name] = tmp_path_factory.mktemp(name)
        for split, first, count in (("train", 0, 60), ("validation_domain", 100, 12)):
            texts = [make_document(label, first + i)["text"] for i in range(count)]
            write_split(found[name] / f"{split}.parquet", texts, domain=label)
    return found


def documents_in(blocks, tokenizer):
    """Return the texts of whole documents in ``blocks``: each ends in its own number."""
    return {text.strip() for text in tokenizer.decode(blocks.ravel()).split("<|endoftext|>")}


def test_dense_reads_what_the_experts_read(make_model, datasets):
    tokenizer = load_tokenizer(make_model())
    blocks = mixed_blocks(datasets, tokenizer, TRAINING, num_experts=2, part=None)
    experts = [
        pack(
            SplitDocuments.of(folder / "train.parquet"),
            tokenizer,
            block_size=32,
            num_blocks=64,
            seed=TRAINING.seed,
        )
        for folder in datasets.values()
    ]
    assert np.array_equal(blocks, np.concatenate(experts))


def test_dense_of_so_many_epochs_reads_what_the_experts_read_of_each_dataset(make_model, datasets):
    tokenizer = load_tokenizer(make_model())
    training = TRAINING.model_copy(update={"num_epochs": 2.0})
    blocks = mixed_blocks(datasets, tokenizer, training, num_experts=2, part=None)
    sizes = []
    for folder in datasets.values():
        texts = pq.read_table(folder / "train.parquet").column("text").to_pylist()
        tokens = tokenizer(texts, add_special_tokens=False)["input_ids"]
        sizes.append(sum(map(len, tokens)) + len(texts))
    # A whole number of steps of four blocks.
    assert abs(blocks.size - 2 * sum(sizes)) <= 4 * 32 / 2
    first = round(blocks.size * sizes[0] / sum(sizes))
    ends = blocks.ravel() == tokenizer.eos_token_id
    assert ends[:first].sum() == pytest.approx(2 * 60, abs=1)
    assert ends[first:].sum() == pytest.approx(2 * 60, abs=1)


def test_a_short_dataset_is_read_again(make_model, datasets, monkeypatch, tmp_path):
    tokenizer = load_tokenizer(make_model())
    monkeypatch.setattr("mdel_assets.training.baseline._TOKENS_AT_ONCE", 1000)
    blocks = mixed_blocks(datasets, tokenizer, TRAINING, num_experts=32, part=None, folder=tmp_path)
    assert isinstance(blocks, np.memmap)
    assert not list(tmp_path.iterdir())
    assert blocks.shape == (2048, 32)
    first_half = blocks[:1024].ravel()
    (length,) = {np.flatnonzero(first_half == tokenizer.eos_token_id)[59] + 1}
    assert length < len(first_half) / 2
    assert np.array_equal(first_half, np.resize(first_half[:length], len(first_half)))


def test_parts_share_no_document_and_leave_none_out(make_model, datasets):
    tokenizer = load_tokenizer(make_model())
    texts = {
        text
        for folder in datasets.values()
        for text in pq.read_table(folder / "train.parquet").column("text").to_pylist()
    }
    # Enough tokens that every document of a part is read whole at least once.
    blocks = [
        mixed_blocks(datasets, tokenizer, TRAINING, num_experts=32, part=Part(i, 2))
        for i in range(2)
    ]
    seen = [documents_in(own, tokenizer) & texts for own in blocks]
    assert seen[0] | seen[1] == texts
    assert not seen[0] & seen[1]
    assert min(len(part) for part in seen) > 40


def test_a_baseline_learns_all_domains_and_leaves_frozen_tensors_alone(
    make_model, datasets, tmp_path
):
    (tmp_path / "out").mkdir()
    result = train_baseline(
        TRAINING,
        num_experts=2,
        seed_folder=make_model(),
        dataset_folders=datasets,
        folder=tmp_path / "out",
        work_folder=tmp_path / "work",
    )
    assert result.history.num_tokens == 4096
    assert result.changed_though_frozen == []
    change = result.losses_after["validation_domain"] - result.losses_before["validation_domain"]
    assert change < -0.5


def test_parts_read_together_what_the_experts_read(make_model, datasets):
    """Each part takes every other document of each dataset's order, and its share of the tokens."""
    tokenizer = load_tokenizer(make_model())
    parts = [
        mixed_blocks(datasets, tokenizer, TRAINING, num_experts=1, part=Part(i, 2))
        for i in range(2)
    ]
    experts = mixed_blocks(datasets, tokenizer, TRAINING, num_experts=2, part=None)
    whole = [documents_in(blocks, tokenizer) for blocks in (*parts, experts)]
    assert len(whole[0] & whole[1]) <= 2
    assert len((whole[0] | whole[1]) & whole[2]) > 0.8 * len(whole[2])


def test_a_dataset_without_a_document_for_a_part_is_left_out_of_it(
    make_model, datasets, tmp_path, caplog
):
    write_split(tmp_path / "train.parquet", [make_document("FreeLaw", 0)["text"]], domain="FreeLaw")
    tokenizer = load_tokenizer(make_model())
    for index, count in ((0, 1), (1, 0)):
        caplog.clear()
        blocks = mixed_blocks(
            {**datasets, "tiny": tmp_path}, tokenizer, TRAINING, num_experts=1, part=Part(index, 2)
        )
        assert blocks.shape == (64, 32)
        # The tiny dataset gives a third of the tokens, its one document over and over.
        text = tokenizer.decode(blocks.ravel())
        assert (text.count("plaintiff") > 20) == bool(count)
        assert ("['tiny']: no document for" in caplog.text) != bool(count)


def test_a_part_without_documents_is_refused(make_model, tmp_path):
    write_split(tmp_path / "train.parquet", [make_document("ArXiv", 0)["text"]], domain="ArXiv")
    tokenizer = load_tokenizer(make_model())
    with pytest.raises(TrainingError, match="random_split: false"):
        mixed_blocks({"tiny": tmp_path}, tokenizer, TRAINING, num_experts=1, part=Part(1, 2))
