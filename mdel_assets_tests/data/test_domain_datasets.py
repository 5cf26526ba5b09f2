"""Domain datasets against an oracle that uses sets and nothing of the pipeline's own."""

import json
import random

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.document_index import DocumentFile, DocumentIndex, salted_hash
from mdel_assets.data.split_sinks import DATASET_SCHEMA, Outline, SplitFile
from mdel_assets.errors import ShardError
from mdel_assets.experiment.fields import SPLITS
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one
from mdel_assets_tests.conftest import (
    KEY_OF,
    decompress,
    make_document,
    make_documents,
    pico_experiment,
    write_shard,
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """200 training documents in two shards, with copies planted within, across and into splits."""
    folder = tmp_path_factory.mktemp("planted")
    first = make_documents({"Github": 50, "ArXiv": 35, "FreeLaw": 15})
    second = make_documents({"Github": 30, "ArXiv": 40, "FreeLaw": 24}, first=1000)
    validation = make_documents(dict.fromkeys(KEY_OF, 8), first=2000)
    test = make_documents(dict.fromkeys(KEY_OF, 8), first=3000)
    second += first[:2]  # across shards
    second += [first[3], first[3]]  # within a shard and across
    second.append(validation[0])  # training copy of a validation document
    second.append(test[0] | {"meta": {"pile_set_name": "FreeLaw"}})  # under another label, too
    validation.append(test[1])
    for name, documents in {"00": first, "01": second, "val": validation, "test": test}.items():
        write_shard(folder / f"{name}.jsonl.zst", documents)
    return folder


@pytest.fixture(scope="module")
def made(planted, tmp_path_factory):
    from mdel_assets.home import MdelHome

    home = MdelHome(tmp_path_factory.mktemp("home"))
    lineage = home.lineage(pico_experiment(planted))
    for shard in ("00", "01", "val", "test"):
        make_one(lineage, "raw_pile_shard", shard)
        make_one(lineage, "shard_documents", shard)
    make_all(lineage, "domain_dataset", lineage.experiment.domain_keys)
    return lineage


def read_shard(path):
    """Return (text, domain key) pairs, read with zstandard and json."""
    found = [json.loads(line) for line in decompress(path).splitlines()]
    return [(d["text"], KEY_OF[d["meta"]["pile_set_name"]]) for d in found]


def oracle(planted):
    """Return {role: {text: domain}}: each text once, test before validation before train."""
    seen, roles = set(), {}
    for role, names in {"test": ["test"], "validation": ["val"], "train": ["00", "01"]}.items():
        roles[role] = {}
        for name in names:
            for text, domain in read_shard(planted / f"{name}.jsonl.zst"):
                if text not in seen:
                    roles[role][text] = domain
                    seen.add(text)
    return roles


def rows(lineage, domain, split):
    return pq.read_table(lineage.folder("domain_dataset", domain) / f"{split}.parquet").to_pylist()


@pytest.mark.parametrize("domain", sorted(KEY_OF.values()))
def test_domain_half_is_every_document_of_the_domain_once(made, planted, domain):
    expected = oracle(planted)
    for split, role in {
        "train": "train",
        "validation_domain": "validation",
        "test_domain": "test",
    }.items():
        own = [row["text"] for row in rows(made, domain, split) if row["domain"] == domain]
        assert sorted(own) == sorted(t for t, d in expected[role].items() if d == domain)


@pytest.mark.parametrize("domain", sorted(KEY_OF.values()))
def test_mixture_holds_as_many_pile_documents_as_domain_documents(made, planted, domain):
    expected = oracle(planted)
    for role, general in {
        "train": [r for r in rows(made, domain, "train") if r["domain"] != domain],
        "validation": rows(made, domain, "validation_pile"),
        "test": rows(made, domain, "test_pile"),
    }.items():
        own = [t for t, d in expected[role].items() if d == domain]
        others = {t: d for t, d in expected[role].items() if d != domain}
        assert len(general) == min(len(own), len(others))
        assert {row["text"]: row["domain"] for row in general}.items() <= others.items()


@pytest.mark.parametrize("domain", sorted(KEY_OF.values()))
def test_no_document_is_in_two_splits(made, domain):
    texts = [row["text"] for split in SPLITS for row in rows(made, domain, split)]
    assert len(texts) == len(set(texts))


def test_removed_copies_are_counted_by_cause(made):
    """Planted by hand: 4 training copies, 2 of evaluation documents, 1 between those."""
    removed = made.artifact("domain_dataset", "arxiv").require().details["removed_from_corpus"]
    assert removed == {
        "num_duplicates": 4,
        "num_train_also_in_evaluation": 2,
        "num_validation_also_in_test": 1,
    }


def test_an_absent_domain_is_a_state(made):
    record = made.artifact("domain_dataset", "enron").require()
    assert record.counts["train"]["num_documents"] == 0
    assert not made.is_present("enron")
    assert made.present_domains() == ["github", "arxiv", "freelaw"]


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_gives_each_split_by_its_name(made, tmp_path, streaming):
    folder = str(made.folder("domain_dataset", "arxiv"))
    loaded = datasets.load_dataset(folder, streaming=streaming, cache_dir=str(tmp_path))
    assert set(loaded) == set(SPLITS)
    for split in SPLITS:
        expected = rows(made, "arxiv", split)
        assert [row["text"] for row in loaded[split]] == [row["text"] for row in expected]


def test_a_dataset_with_an_empty_split_loads_without_it(planted, home, tmp_path):
    """The validation shard has no FreeLaw document."""
    for name in ("00", "01", "test"):
        (tmp_path / f"{name}.jsonl.zst").hardlink_to(planted / f"{name}.jsonl.zst")
    write_shard(tmp_path / "val.jsonl.zst", make_documents({"Github": 4}, first=5000))
    lineage = home.lineage(pico_experiment(tmp_path))
    for shard in ("00", "01", "val", "test"):
        make_one(lineage, "raw_pile_shard", shard)
        make_one(lineage, "shard_documents", shard)
    make_all(lineage, "domain_dataset", ["freelaw"])
    folder = lineage.folder("domain_dataset", "freelaw")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "test_domain", "test_pile"}


def test_one_domain_alone_equals_the_same_domain_among_all(made, planted, home):
    alone = home.lineage(pico_experiment(planted))
    for shard in ("00", "01", "val", "test"):
        make_one(alone, "raw_pile_shard", shard)
        make_one(alone, "shard_documents", shard)
    make_all(alone, "domain_dataset", ["arxiv"])
    first, second = (
        made.artifact("domain_dataset", "arxiv"),
        alone.artifact("domain_dataset", "arxiv"),
    )
    assert first.record_path.read_bytes() == second.record_path.read_bytes()
    for split in SPLITS:
        assert rows(made, "arxiv", split) == rows(alone, "arxiv", split)


def test_another_seed_draws_another_general_half(made, planted, home):
    other = home.lineage(pico_experiment(planted, mixture={"seed": 1}))
    for shard in ("00", "01", "val", "test"):
        make_one(other, "raw_pile_shard", shard)
        make_one(other, "shard_documents", shard)
    make_all(other, "domain_dataset", ["freelaw"])
    first, second = rows(made, "freelaw", "train"), rows(other, "freelaw", "train")
    assert len(first) == len(second)
    assert first != second


def test_without_evaluation_shards_splits_are_held_out_by_hash(tmp_path):
    from mdel_assets.data.shard_pass import route_documents
    from mdel_assets.experiment.fields import Domain, Source

    documents = [make_document("ArXiv", i) for i in range(2000)]
    shard = write_shard(tmp_path / "s.jsonl.zst", documents + documents[:500])
    route_documents(
        shard,
        tmp_path,
        domains=[Domain(key="arxiv", name="ArXiv")],
        source=Source(train=(str(shard),)),
    )
    file = DocumentFile(tmp_path / "arxiv.parquet", "arxiv", "train")
    with DocumentIndex(
        [file], holdout_fraction=0.1, shard_roles={"train"}, work_folder=tmp_path
    ) as index:
        assert index.survives.sum() == 2000
        assert index.duplicates.num_duplicates == 500
        (documents,) = index.documents()
    roles = documents.role[documents.survives]
    shares = [(roles == role).mean() for role in range(3)]
    # Three standard deviations of a binomial share of 0.1 among 2000.
    assert shares[0] == pytest.approx(0.1, abs=0.02)
    assert shares[1] == pytest.approx(0.1, abs=0.02)


def test_salted_hash_is_uniform_and_differs_between_salts():
    import numpy as np

    ids = np.arange(20_000, dtype=np.uint64).reshape(-1, 2)
    first, second = (salted_hash(ids, salt=salt) / 2.0**64 for salt in "ab")
    counts, _ = np.histogram(first, bins=10, range=(0, 1))
    # Four standard deviations of a count of 1000 among 10,000.
    assert np.abs(counts - 1000).max() < 4 * 30
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """GitHub's documents are 40 times as long as the others'."""
    folder = tmp_path_factory.mktemp("uneven")
    documents = make_documents({"ArXiv": 400, "FreeLaw": 400})
    documents += [
        {"text": " ".join([d["text"]] * 40), "meta": d["meta"]}
        for d in make_documents({"Github": 20}, first=5000)
    ]
    random.Random(0).shuffle(documents)
    parts = {"00": documents, "01": documents[:40], "val": documents[:40], "test": documents[40:80]}
    for name, part in parts.items():
        write_shard(folder / f"{name}.jsonl.zst", part)
    return folder


def assemble(home, folder, domain, **mixture):
    lineage = home.lineage(pico_experiment(folder, mixture=mixture))
    for shard in ("00", "01", "val", "test"):
        make_one(lineage, "raw_pile_shard", shard)
        make_one(lineage, "shard_documents", shard)
    return lineage, make_all(lineage, "domain_dataset", [domain])[domain].counts["train"]


def test_a_mixture_matched_by_bytes_has_halves_of_equal_size(uneven, home):
    lineage, train = assemble(home, uneven, "github", match="bytes")
    general = train["num_bytes"] - train["num_domain_bytes"]
    longest = max(
        len(r["text"].encode()) for r in rows(lineage, "github", "train") if r["domain"] != "github"
    )
    assert abs(general - train["num_domain_bytes"]) <= longest / 2 + 1
    _, train = assemble(home, uneven, "github", match="documents")
    general = train["num_bytes"] - train["num_domain_bytes"]
    assert train["num_domain_bytes"] > 20 * general


def test_a_mixture_compatible_with_mdel_is_the_shards_first_documents(planted, home):
    """Half as many as the domain has, whatever their domain; copies stay."""
    lineage, train = assemble(home, planted, "arxiv", compatible_with_mdel=True, general_ratio=0.5)
    corpus = read_shard(planted / "00.jsonl.zst") + read_shard(planted / "01.jsonl.zst")
    own = [text for text, domain in corpus if domain == "arxiv"]
    first = [text for text, _ in corpus[: round(0.5 * len(own))]]
    found = [row["text"] for row in rows(lineage, "arxiv", "train")]
    assert sorted(found) == sorted(own + first)
    assert train["num_general_documents"] == len(first)


def through_the_data_stage(home, folder, documents, **source):
    shard = write_shard(folder / "tiny.jsonl.zst", documents)
    source = {"train": [str(shard)], "validation": None, "test": None} | source
    lineage = home.lineage(pico_experiment(folder, source=source))
    for shard in lineage.experiment.shards():
        make_one(lineage, "raw_pile_shard", shard.key)
        make_one(lineage, "shard_documents", shard.key)
    make_all(lineage, "domain_dataset", lineage.experiment.domain_keys)
    return lineage


@pytest.mark.in_use
def test_a_corpus_without_a_document_to_evaluate_on_is_refused_before_anything_is_trained(
    tmp_path, home
):
    told = r"None of the corpus's 3 documents .* is held out .*, .*holdout_fraction of 0\.01"
    with pytest.raises(ShardError, match=told):
        through_the_data_stage(home, tmp_path, make_documents({"Github": 2, "ArXiv": 1}))


@pytest.mark.in_use
def test_a_domain_of_held_out_documents_only_is_named_and_one_of_blanks_is_absent(
    tmp_path, home, caplog
):
    held_out = write_shard(tmp_path / "val.jsonl.zst", make_documents({"Github": 2, "ArXiv": 3}))
    blank = {"text": " \n", "meta": {"pile_set_name": "FreeLaw"}}
    documents = [*make_documents({"Github": 9}, first=50), blank, blank]
    lineage = through_the_data_stage(home, tmp_path, documents, validation=str(held_out))
    assert lineage.present_domains() == ["github"]
    told = [r.getMessage() for r in caplog.records if "no expert" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("arxiv: no document is for training and 3 are for validation")


def with_shards(home, folder, shards, **mixture):
    """Make all datasets of the train ``shards``; return their lineage."""
    source = {"train": [str(folder / f"{shard}.jsonl.zst") for shard in shards]}
    lineage = home.lineage(pico_experiment(folder, source=source, mixture=mixture))
    for shard in lineage.experiment.shards():
        make_one(lineage, "raw_pile_shard", shard.key)
        make_one(lineage, "shard_documents", shard.key)
    make_all(lineage, "domain_dataset", ["github", "arxiv", "freelaw"])
    return lineage


def places_of_files(lineage):
    return {
        (domain, split): (lineage.folder("domain_dataset", domain) / f"{split}.parquet")
        .stat()
        .st_ino
        for domain in ("github", "arxiv", "freelaw")
        for split in SPLITS
    }


@pytest.mark.parametrize(
    ("mixture", "changed"),
    [
        ({"general_ratio": 0.0}, {("github", "train")}),
        # Everyone's general half may draw the new shard's documents.
        ({"general_ratio": 1.0}, {(domain, "train") for domain in ("github", "arxiv", "freelaw")}),
    ],
)
def test_what_a_new_shard_leaves_as_it_is_is_not_written_again(tmp_path, mixture, changed):
    for name, labels, first in (
        ("00", {"Github": 30, "ArXiv": 20, "FreeLaw": 20}, 0),
        ("01", {"Github": 40}, 1000),
        ("val", dict.fromkeys(KEY_OF, 8), 2000),
        ("test", dict.fromkeys(KEY_OF, 8), 3000),
    ):
        write_shard(tmp_path / f"{name}.jsonl.zst", make_documents(labels, first=first))
    grown = MdelHome(tmp_path / "grown")
    before = with_shards(grown, tmp_path, ["00"], **mixture)
    first, first_records = places_of_files(before), records_of(before)
    after = with_shards(grown, tmp_path, ["00", "01"], **mixture)
    second = places_of_files(after)
    assert {place for place in first if first[place] != second[place]} == changed
    fresh = with_shards(MdelHome(tmp_path / "fresh"), tmp_path, ["00", "01"], **mixture)
    assert records_of(after) == records_of(fresh)
    assert all(r.fingerprint != records_of(after)[d].fingerprint for d, r in first_records.items())


def records_of(lineage):
    found = {
        domain: lineage.artifact("domain_dataset", domain)
        for domain in ("github", "arxiv", "freelaw")
    }
    assert all(each.damage(each.require(), read_all=True) is None for each in found.values())
    return {domain: each.require() for domain, each in found.items()}


def test_a_damaged_dataset_is_not_linked_into_the_next(tmp_path):
    for name in ("00", "01", "val", "test"):
        number = {"00": 0, "01": 1000, "val": 2000, "test": 3000}[name]
        documents = make_documents(dict.fromkeys(KEY_OF, 8), first=number)
        write_shard(tmp_path / f"{name}.jsonl.zst", documents)
    home = MdelHome(tmp_path / "home")
    lineage = with_shards(home, tmp_path, ["00"], general_ratio=0.0)
    path = lineage.folder("domain_dataset", "arxiv") / "test_pile.parquet"
    own = path.read_bytes()
    path.write_bytes(own + b"more")
    lineage = with_shards(home, tmp_path, ["00", "01"], general_ratio=0.0)
    assert path.read_bytes() == own


def test_an_outline_tells_rows_domains_and_row_groups_apart(tmp_path):
    def table(*rows):
        columns = zip(*[("", f"{number:032x}", 0, domain) for number, domain in rows], strict=True)
        return pa.table([pa.array(c) for c in columns], schema=DATASET_SCHEMA)

    a, b, c = (1, "x"), (2, "x"), (2, "y")
    contents = [[table(a, b)], [table(b, a)], [table(a, c)], [table(a), table(b)], [table(a)], []]
    digests = []
    for number, groups in enumerate(contents):
        outline, file = Outline(), SplitFile(tmp_path / f"{number}.parquet")
        for group in groups:
            outline.write(group)
            file.write(group)
        file.close()
        assert Outline.of(tmp_path / f"{number}.parquet").digest == outline.digest
        digests.append(outline.digest)
    assert len(set(digests)) == len(contents)
