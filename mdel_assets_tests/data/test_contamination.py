"""Contamination against sets of word tuples."""

import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.contamination import SHINGLE_WORDS, measure_contamination

WORD = re.compile(rb"[a-z0-9\x80-\xff]+")


def shingles(text):
    words = WORD.findall(text.encode().lower())
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


def write(path, texts):
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, row_group_size=7)
    return path


@pytest.fixture
def measure(tmp_path):
    def run(train, evaluation):
        paths = {"validation_domain": write(tmp_path / "validation_domain.parquet", evaluation)}
        found = measure_contamination(
            write(tmp_path / "train.parquet", train), paths, work_folder=tmp_path
        )
        return found["validation_domain"]

    return run


@pytest.mark.parametrize("per_bucket", [1 << 22, 500, 40])
def test_counts_are_those_of_sets_of_word_tuples(measure, monkeypatch, per_bucket):
    monkeypatch.setattr("mdel_assets.data.contamination._SHINGLES_PER_BUCKET", per_bucket)
    draw = random.Random(0)
    words = ["one", "Two", "three,", "vier", "πέντε", "6", "(seven)", "\n"]

    def text():
        return " ".join(draw.choices(words, k=draw.choice([0, 5, 12, 13, 14, 200])))

    train, evaluation = [text() for _ in range(400)], [text() for _ in range(300)]
    long = [text for text in train if len(text) > 200]
    evaluation += [f"x {draw.choice(long)} y" for _ in range(30)] + [""]
    found = measure(train, evaluation)
    known = set().union(*map(shingles, train))
    per_document = [shingles(text) for text in evaluation]
    assert found.num_documents == len(evaluation)
    assert found.num_contaminated_documents == sum(bool(s & known) for s in per_document)
    assert found.num_shingles == len(set().union(*per_document))
    assert found.num_shared_shingles == len(set().union(*per_document) & known)
    assert 20 < found.num_contaminated_documents < 200


THIRTEEN = "the quick brown fox jumps over the lazy dog and then it sleeps"


@pytest.mark.parametrize(
    ("train", "is_shared"),
    [
        (f"before {THIRTEEN} after", True),
        (THIRTEEN.upper().replace(" ", "...\n"), True),
        (THIRTEEN.removesuffix(" sleeps"), False),
        (THIRTEEN.replace("lazy", "idle"), False),
        (THIRTEEN + "x", False),
        ("x" * 3_000_000 + " " + THIRTEEN, True),
    ],
    ids=["inside", "case and signs", "twelve words", "a word differs", "a longer word", "late"],
)
def test_thirteen_words_in_a_row_are_what_counts(measure, train, is_shared):
    found = measure([train], [f"something else {THIRTEEN}", "clean"])
    assert found.num_contaminated_documents == is_shared
    assert found.num_shared_shingles == is_shared


def test_a_run_of_words_over_two_documents_is_none(measure):
    words = THIRTEEN.split()
    found = measure([" ".join(words[:6]), " ".join(words[6:])], [THIRTEEN])
    assert found.num_shared_shingles == 0


def test_empty_splits_are_clean(measure):
    assert measure([], [THIRTEEN]).num_contaminated_documents == 0
    assert measure([THIRTEEN], []).num_documents == 0
