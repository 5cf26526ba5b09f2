"""Domains found in a corpus without labels."""

import json

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.clusters import Clusters, balancing_prices, fit_clusters
from mdel_assets.defs.graph import build_definitions
from mdel_assets.errors import ExperimentError, ShardError
from mdel_assets.line.making import make_one
from mdel_assets_tests.conftest import KEY_OF, compress, make_document, pico_experiment, write_shard


def texts_of(label, count, *, first=0):
    return [make_document(label, first + i)["text"] for i in range(count)]


def unlabelled(experiment_of, folder, **changes):
    """Return an experiment that looks for three clusters in ``folder``'s shards."""
    return experiment_of(folder, domains={"clusters": 3}, merges={}, **changes)


def test_texts_about_three_things_make_three_clusters(tmp_path):
    texts = [text for label in KEY_OF for text in texts_of(label, 30)]
    fit = fit_clusters(texts, tmp_path, num_clusters=3, seed=0)
    assert fit.sizes == [30, 30, 30]
    clusters = Clusters(tmp_path)
    # Other texts about the same things go to the same three clusters.
    of_label = [clusters.assign(texts_of(label, 10, first=500)) for label in KEY_OF]
    assert all(len(set(numbers.tolist())) == 1 for numbers in of_label)
    assert {int(numbers[0]) for numbers in of_label} == {0, 1, 2}
    court = fit.terms[int(of_label[2][0])]
    assert {"court", "plaintiff", "statute"} <= set(court)
    assert not {"theorem", "return"} & set(court)


def test_clusters_are_of_equal_size_where_topics_are_not(tmp_path):
    texts = texts_of("Github", 100) + texts_of("ArXiv", 20)
    fit = fit_clusters(texts, tmp_path, num_clusters=2, seed=0)
    # Nearest centroids alone would part them 100 to 20.
    assert max(fit.sizes) <= 66
    again = Clusters(tmp_path).assign(texts)
    assert np.bincount(again).tolist() == fit.sizes


def test_prices_move_the_points_that_mind_least():
    # Four points on a line, centroids at 0 and 10: three are nearer to 0. The one at 4 minds least.
    points = np.array([0.0, 1.0, 4.0, 10.0])
    distances = (points[:, None] - np.array([0.0, 10.0])) ** 2
    assert distances.argmin(axis=1).tolist() == [0, 0, 0, 1]
    prices = balancing_prices(distances)
    assert (distances + prices).argmin(axis=1).tolist() == [0, 0, 1, 1]
    # It gives way between 20 (for the point at 4) and 80 (for the one at 1).
    assert 20 < prices[0] - prices[1] < 80


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    texts = [text for label in KEY_OF for text in texts_of(label, 15)]
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fit_clusters(texts, tmp_path / name, num_clusters=4, seed=3)
        written.append((tmp_path / name / "clusters.safetensors").read_bytes())
    assert written[0] == written[1]


def test_too_few_documents_are_refused(tmp_path):
    with pytest.raises(ShardError, match=r"5 documents cannot make 3 clusters.*domains\.clusters"):
        fit_clusters(texts_of("Github", 5), tmp_path, num_clusters=3, seed=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_corpus_without_labels_goes_through_the_data_stage(tmp_path, corpus, home):
    experiment = unlabelled(pico_experiment, corpus)
    lineage = home.lineage(experiment)
    definitions = build_definitions(experiment, home)
    kinds = ["raw_pile_shard", "corpus_clusters", "shard_documents", "domain_dataset"]
    with dg.DagsterInstance.ephemeral() as instance:
        for kind, keys in lineage.walk():
            if kind not in kinds:
                break
            job = definitions.resolve_implicit_global_asset_job_def()
            for key in keys:
                result = job.execute_in_process(
                    instance=instance,
                    asset_selection=[dg.AssetKey(kind)],
                    partition_key=key or None,
                )
                assert result.success
    labels = {}
    for shard in ("00", "01"):
        record = lineage.artifact("shard_documents", shard).require()
        assert record.counts["num_rejects"] == 0
        assert sum(d["num_documents"] for d in record.counts["domains"].values()) == 40
        for key in experiment.domain_keys:
            path = lineage.folder("shard_documents", shard) / f"{key}.parquet"
            for text in pq.read_table(path).column("text").to_pylist() if path.exists() else ():
                label = next(name for name in KEY_OF if text in all_texts(name))
                labels.setdefault(key, []).append(label)
    # Both shards' 40 Github documents are more than a third: prices part them.
    assert set(labels) == {"cluster_0", "cluster_1", "cluster_2"}
    assert all(15 <= len(found) <= 40 for found in labels.values())
    assert [p for p in lineage.folder("corpus_clusters").iterdir() if p.name.startswith(".")] == []
    assert (
        lineage.artifact("domain_dataset", "cluster_1").require().counts["num_shared_documents"]
        == 0
    )


def all_texts(label):
    return {*texts_of(label, 20), *texts_of(label, 20, first=100)}


def test_another_number_of_clusters_makes_documents_stale(corpus, home):
    lineage = home.lineage(unlabelled(pico_experiment, corpus))
    make_one(lineage, "raw_pile_shard", "00")
    make_one(lineage, "corpus_clusters")
    make_one(lineage, "shard_documents", "00")
    assert lineage.stale("shard_documents", "00") is None
    more = home.lineage(pico_experiment(corpus, domains={"clusters": 4}, merges={}))
    assert "domains" in more.stale("corpus_clusters").reason
    assert make_one(more, "corpus_clusters").details["sizes"] != []
    assert "corpus_clusters" in more.stale("shard_documents", "00").reason


def test_no_label_is_read_and_rejects_are_kept(tmp_path, home):
    lines = [json.dumps({"body": text}).encode() for text in texts_of("Github", 20)]
    compress(b"\n".join([*lines, b"{broken", b""]), tmp_path / "00.jsonl.zst")
    source = {
        "layout": "columns",
        "text_field": "body",
        "train": [str(tmp_path / "00.jsonl.zst")],
        "validation": None,
        "test": None,
        "max_reject_rate": 0.1,
    }
    lineage = home.lineage(
        pico_experiment(tmp_path, domains={"clusters": 2}, merges={}, source=source)
    )
    make_one(lineage, "raw_pile_shard", "00")
    make_one(lineage, "corpus_clusters")
    record = make_one(lineage, "shard_documents", "00")
    assert (record.counts["num_documents"], record.counts["num_rejects"]) == (20, 1)
    rejects = pq.read_table(lineage.folder("shard_documents", "00") / "rejects.parquet")
    assert rejects.column("line").to_pylist() == [b"{broken"]


def test_folders_need_not_name_domains(tmp_path, home):
    for number, text in enumerate([*texts_of("Github", 10), *texts_of("ArXiv", 10)]):
        (tmp_path / "corpus" / "anything").mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / "anything" / f"{number}.txt").write_text(text)
    source = {"layout": "folders", "train": [str(tmp_path / "corpus")]}
    source |= {"validation": None, "test": None}
    lineage = home.lineage(
        pico_experiment(tmp_path, domains={"clusters": 2}, merges={}, source=source)
    )
    make_one(lineage, "raw_pile_shard", "corpus")
    make_one(lineage, "corpus_clusters")
    counts = make_one(lineage, "shard_documents", "corpus").counts["domains"]
    assert {key: count["num_documents"] for key, count in counts.items()} == {
        "cluster_0": 10,
        "cluster_1": 10,
    }


@pytest.mark.parametrize(
    ("domains", "error", "message"),
    [
        (
            {"cluster": 8},
            ExperimentError,
            "domains: Unknown key 'cluster'. Did .* 'clusters'",
        ),
        ({"clusters": 1}, ExperimentError, r"domains\.clusters: expected 2 or more, got 1"),
        ("pil", ExperimentError, "domains: expected 'pile', got 'pil'"),
        ([{"key": "a", "nam": "b"}], ExperimentError, "Did you mean 'name'"),
    ],
)
def test_wrong_domains_are_refused(tmp_path, domains, error, message):
    write_shard(tmp_path / "00.jsonl.zst", [])
    with pytest.raises(error, match=message):
        pico_experiment(tmp_path, domains=domains, merges={})
