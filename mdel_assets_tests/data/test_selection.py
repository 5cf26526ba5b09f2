"""Index and selection against plain sorting of everything, however small their buckets are."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.document_index import (
    ROLES,
    DocumentFile,
    DocumentIndex,
    count_copies,
    salted_hash,
)
from mdel_assets.data.selection import Rows, select_documents
from mdel_assets.experiment.fields import Mixture

DOMAINS = ("github", "arxiv", "freelaw", "enron")
HOLDOUT = 0.05


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three train shards and one of validation, with every seventh document a copy of another."""
    folder = tmp_path_factory.mktemp("documents")
    draw = np.random.default_rng(0)
    known = []
    found = []
    for shard, role in enumerate(("train", "train", "validation", "train")):
        lines = draw.permutation(4000)
        for number, domain in enumerate(DOMAINS[:3]):
            ids = [draw.bytes(16).hex() for _ in range(300 * (number + 1))]
            for place in range(0, len(ids), 7):
                if known:
                    ids[place] = known[draw.integers(len(known))]
            known += ids
            own, lines = np.sort(lines[: len(ids)]), lines[len(ids) :]
            path = folder / f"{shard}-{domain}.parquet"
            columns = {"text": [""] * len(ids), "document_id": ids, "line_number": own}
            columns["num_bytes"] = draw.integers(1, 5000, len(ids)).astype(np.int64)
            pq.write_table(pa.table(columns), path, row_group_size=97)
            found.append(DocumentFile(path, domain, role, shard))
    return found


def all_documents(files):
    """Return dictionaries of all documents, in order, with their roles."""
    found = []
    for file in files:
        for row in pq.read_table(file.path).to_pylist():
            key = row["document_id"]
            number = np.array([[int(key[:16], 16), int(key[16:], 16)]], np.uint64)
            role = file.role
            if role == "train" and salted_hash(number, salt="holdout")[0] / 2.0**64 < HOLDOUT:
                role = "test"
            row |= {"domain": file.domain, "role": role, "shard": file.shard, "ids": number}
            found.append(row | {"number": len(found)})
    return found


def without_copies(documents):
    """Return those that survive, and what was removed: (duplicates, train, validation)."""
    first = {}
    for document in sorted(documents, key=lambda d: ROLES.index(d["role"])):
        first.setdefault(document["document_id"], document)
    lost = [d for d in documents if first[d["document_id"]] is not d]
    winners = [first[d["document_id"]]["role"] for d in lost]
    pairs = [(d["role"], winner) for d, winner in zip(lost, winners, strict=True)]
    counts = (
        sum(role == winner for role, winner in pairs),
        sum(role == "train" != winner for role, winner in pairs),
        sum(pair == ("validation", "test") for pair in pairs),
    )
    return sorted(first.values(), key=lambda d: d["number"]), counts


def drawn(documents, domain, role, mixture):
    """Return the numbers of the general half, and how many were wanted."""
    of_role = [d for d in documents if d["role"] == role]
    own = [d for d in of_role if d["domain"] == domain]
    wanted = round(mixture.general_ratio * len(own))
    if mixture.compatible_with_mdel:
        order = sorted(of_role, key=lambda d: (d["shard"], d["line_number"]))
        return sorted(d["number"] for d in order[:wanted]), wanted
    salt = f"general:{mixture.seed}:{domain}:{role}"
    others = [d for d in of_role if d["domain"] != domain]
    others.sort(key=lambda d: int(salted_hash(d["ids"], salt=salt)[0]))
    if mixture.match == "bytes":
        target = mixture.general_ratio * sum(d["num_bytes"] for d in own)
        sums = np.cumsum([0, *(d["num_bytes"] for d in others)])
        wanted = int(np.abs(sums - target).argmin())
    return sorted(d["number"] for d in others[:wanted]), wanted


@pytest.mark.parametrize("rows", [1 << 18, 50])
@pytest.mark.parametrize(
    "mixture",
    [
        Mixture(general_ratio=ratio, **{"seed": 3} | more)
        for ratio in (0.0, 0.3, 1.0, 20.0)
        for more in ({}, {"match": "bytes"}, {"compatible_with_mdel": True})
    ],
    ids=str,
)
def test_what_is_selected_is_what_sorting_all_would_select(
    files, mixture, rows, tmp_path, monkeypatch
):
    for name in ("_ROWS_PER_CHUNK", "_ROWS_PER_BUCKET"):
        monkeypatch.setattr(f"mdel_assets.data.document_index.{name}", rows)
    documents = all_documents(files)
    counts = (0, 0, 0)
    if not mixture.compatible_with_mdel:
        documents, counts = without_copies(documents)
    with DocumentIndex(
        files,
        holdout_fraction=HOLDOUT,
        shard_roles={"train", "validation"},
        work_folder=tmp_path,
        keep_copies=mixture.compatible_with_mdel,
    ) as index:
        assert np.flatnonzero(index.survives).tolist() == [d["number"] for d in documents]
        removed = index.duplicates
        assert counts == (
            removed.num_duplicates,
            removed.num_train_also_in_evaluation,
            removed.num_validation_also_in_test,
        )
        assert index.num_bytes == sum(d["num_bytes"] for d in documents)
        selections = select_documents(index, DOMAINS, mixture=mixture)
    assert not list(tmp_path.iterdir())
    for domain in DOMAINS:
        for role in ROLES:
            expected, wanted = drawn(documents, domain, role, mixture)
            found = selections[domain][role]
            assert (found.num_general, found.num_wanted) == (len(expected), wanted)
            assert numbers_held(found, documents, domain, role) == expected


def numbers_held(selection, documents, domain, role):
    found = []
    for document in documents:
        if document["role"] != role or (document["domain"] == domain and not selection.with_own):
            continue
        rows = Rows(
            numbers=np.array([document["number"]]),
            ids=document["ids"],
            shard=document["shard"],
            line_numbers=np.array([document["line_number"]]),
        )
        if selection.cutoff.holds(rows).all():
            found.append(document["number"])
    return found


@pytest.mark.parametrize("rows", [1 << 18, 50])
def test_copies_in_split_files_are_counted(files, tmp_path, monkeypatch, rows):
    for name in ("_ROWS_PER_CHUNK", "_ROWS_PER_BUCKET"):
        monkeypatch.setattr(f"mdel_assets.data.document_index.{name}", rows)
    ids = [d["document_id"] for d in all_documents(files)]
    paths = [file.path for file in files]
    assert count_copies(paths, work_folder=tmp_path) == len(ids) - len(set(ids)) > 100
    assert count_copies([], work_folder=tmp_path) == 0
