"""Two homes that share nothing but a store make one line together, in the bytes of a local one."""

import pytest
import xxhash

from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all
from mdel_assets.line.what_is_stale import what_is_stale
from mdel_assets_tests.conftest import pico_experiment

KINDS = [
    *("raw_pile_shard", "shard_documents", "domain_dataset", "seed_model", "expert_model"),
    *("layer_differences", "merged_model", "token_scores", "perplexity_report"),
    "perplexity_matrix",
]


@pytest.fixture(scope="module")
def experiment(corpus):
    return pico_experiment(
        corpus,
        source={"train": [str(corpus / "00.jsonl.zst")], "other_labels": "leave_out"},
        domains=[{"key": "github", "name": "Github"}, {"key": "arxiv", "name": "ArXiv"}],
        baselines={"dense": False, "dense_one": False},
        merges={
            "pair": {
                "merge_method": "linear",
                "models": [{"model": "expert:github"}, {"model": "seed"}],
            }
        },
        evaluation={"max_length": 32, "num_bootstrap_samples": 20},
    )


def digests(lineage):
    """Return the digest of every file of every artifact, by its path, records among them."""
    found = {}
    for kind in KINDS:
        for key in lineage.keys(kind):
            artifact = lineage.artifact(kind, key)
            record = artifact.require()
            for path in [artifact.record_path, *(artifact.folder / n for n in record.files)]:
                name = str(path.relative_to(lineage.root))
                found[name] = xxhash.xxh3_64_hexdigest(path.read_bytes())
    return found


def make_in_turn(*lineages):
    """Make the line, each kind on another machine than the one before."""
    for number, kind in enumerate(KINDS):
        lineage = lineages[number % len(lineages)]
        make_all(lineage, kind, lineage.keys(kind))


@pytest.mark.slow
def test_two_machines_make_what_one_makes_though_every_fourth_request_fails(
    experiment, tmp_path, proxy, s3, monkeypatch
):
    store = proxy.environment["MDEL_STORE"]
    monkeypatch.delenv("MDEL_STORE")
    alone = MdelHome(tmp_path / "alone").lineage(experiment)
    make_in_turn(alone)
    wanted = digests(alone)
    assert proxy.asked == []

    proxy.refused, proxy.cut = 0.2, 0.05
    one, two, third = (
        MdelHome(tmp_path / name).lineage(experiment, store=store) for name in ("1", "2", "3")
    )
    make_in_turn(one, two)
    # A machine that neither made nor read something does not have it.
    assert not (one.root / "differences").exists()
    one.remote.look_again()
    records = [one.artifact(kind, key).look() for kind in KINDS for key in one.keys(kind)]
    recorded = {f"shared/files/xxh3-{f['xxh3']}" for r in records for f in r.files.values()}
    assert set(s3.names("shared/files/")) == recorded
    assert len(s3.names("shared/experiments/")) == len(records)

    # A third machine sees it all at the cost of one listing, and fetches nothing to see it.
    proxy.refused = proxy.cut = 0.0
    proxy.asked.clear()
    assert [s for s in what_is_stale(third).found if s.kind in KINDS] == []
    assert proxy.num_asked("GET", "list-type=2") == 1
    assert proxy.num_asked("GET", "/files/") == 0
    assert not third.root.exists()
    proxy.asked.clear()
    assert [s for s in what_is_stale(third).found if s.kind in KINDS] == []
    assert proxy.asked == []

    assert digests(third) == wanted
    expert, seed = third.artifact("expert_model", "github"), third.artifact("seed_model")
    making = (one.folder("expert_model", "github") / "making.json").read_bytes()
    assert (expert.folder / "making.json").read_bytes() == making
    # Files that an expert shares with the seed are links here, too.
    of_seed = {file["xxh3"]: seed.folder / name for name, file in seed.require().files.items()}
    shared = {n: f["xxh3"] for n, f in expert.require().files.items() if f["xxh3"] in of_seed}
    assert "tokenizer.json" in shared
    assert all((expert.folder / n).samefile(of_seed[digest]) for n, digest in shared.items())
