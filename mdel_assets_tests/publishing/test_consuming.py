"""Seeds, merge inputs, datasets and shards by Hub id, in processes that know one test server."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi
from safetensors.torch import load_file

from mdel_assets_tests.conftest import write_shard
from mdel_assets_tests.publishing.clients import client_environment, run_python
from mdel_assets_tests.publishing.conftest import OWNER, TOKEN
from mdel_assets_tests.publishing.hub_faults import Faults
from mdel_assets_tests.publishing.hub_server import HubServer

pytestmark = pytest.mark.slow

NAMES = ("seed", "expert-github")
SEED, EXPERT = (f"{OWNER}/{name}" for name in NAMES)

OPEN = """
import json, sys, logging
from pathlib import Path
from mdel_assets.errors import MdelError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one

home = MdelHome(Path("home").resolve())
lineage = home.lineage(load_experiment("experiment.yaml"))
"""
MAKE = """
seed = make_one(lineage, "seed_model")
make_one(lineage, "reference_model", "other")
merged = make_one(lineage, "merged_model", "with-hub")
print(json.dumps({"seed": seed.config, "merged": merged.config["members"]}))
"""
STALE = """
found = [lineage.stale("seed_model"), lineage.stale("merged_model", "with-hub")]
print(json.dumps([entry and entry.reason for entry in found]))
"""


@pytest.fixture
def consumer(finished, hub, tmp_path):
    """A folder with an experiment whose models are on the server, and their uploads' API."""
    experiment, home, _ = finished
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    store = home.lineage(experiment)
    for repo, folder in (
        (SEED, store.folder("seed_model")),
        (EXPERT, store.folder("expert_model", "github")),
    ):
        api.create_repo(repo, private=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="model")
    content = json.loads(experiment.model_dump_json(exclude_none=True))
    content["seed_model"] = {"path": SEED}
    content["merges"] = {
        "with-hub": {
            "merge_method": "linear",
            "models": [{"model": "seed"}, {"model": f"{EXPERT}@main"}],
        }
    }
    content["evaluation"]["references"] = {"other": {"path": EXPERT}}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content))
    for name in ("documents", "datasets"):
        shutil.copytree(store.root / name, tmp_path / "home" / "pico" / name)
    return tmp_path, api


def run(consumer, hub, code, **options):
    folder, _ = consumer
    environment = client_environment(hub, folder / "hf", token=TOKEN, **options)
    return json.loads(run_python(OPEN + code, environment, cwd=folder).splitlines()[-1])


def test_a_branch_becomes_a_commit_that_is_recorded_and_its_moving_makes_stale(consumer, hub):
    folder, api = consumer
    heads = {repo: api.repo_info(repo).sha for repo in (SEED, EXPERT)}
    made = run(consumer, hub, MAKE)
    assert made["seed"] == {"path": SEED, "commit": heads[SEED], "pretrain": None}
    assert made["merged"] == [["seed", {}], [f"hub:{EXPERT}@{heads[EXPERT]}", {}]]
    models = folder / "home" / "pico" / "models"
    assert f"| `{EXPERT}@main` | `hub:{EXPERT}@{heads[EXPERT]}` |" in (
        models / "merged" / "with-hub" / "README.md"
    ).read_text("utf-8")
    assert run(consumer, hub, STALE) == [None, None]
    for repo in (SEED, EXPERT):
        api.upload_file(path_or_fileobj=b"more", path_in_repo="NOTES.txt", repo_id=repo)
    assert run(consumer, hub, STALE) == ["changed: config commit", "changed: config members"]
    # Offline, the last commit that is known holds, and everything is made from the cache.
    assert run(consumer, hub, STALE, offline=True) == [None, None]
    shutil.rmtree(models)
    again = run(consumer, hub, MAKE, offline=True)
    assert again == made
    assert hub.tokens_at_storage == []


def test_a_server_that_is_gone_leaves_what_was_made(consumer, hub):
    made = run(consumer, hub, MAKE)
    hub.stop()
    assert run(consumer, hub, STALE) == [None, None]
    assert made["seed"]["path"] == SEED


REFUSED = """
from mdel_assets.hub.sources import hub_reference, resolve_commit, fetch_model
told = []
for name in NAMES:
    reference = hub_reference(name)
    try:
        fetch_model(reference, resolve_commit(reference))
    except MdelError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def test_what_is_not_there_or_no_safetensors_is_refused_and_code_is_never_fetched(consumer, hub):
    folder, api = consumer
    pickled = f"{OWNER}/pickled"
    api.create_repo(pickled)
    for name in ("pytorch_model.bin", "config.json"):
        api.upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=pickled)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="modeling_x.py", repo_id=SEED)
    names = [pickled, f"{OWNER}/nothing", f"{SEED}@no-such-branch", SEED]
    told = run(consumer, hub, f"NAMES = {names!r}\n{REFUSED}")
    assert "has no safetensors weights" in told[0]
    assert told[1].startswith("looking up mdel-lab/nothing@main: the server refused (404)")
    assert told[2].startswith("looking up mdel-lab/seed@no-such-branch: the server refused (404)")
    assert len(told) == 3
    fetched = [path.name for path in (folder / "hf").rglob("*") if path.is_file()]
    assert "model.safetensors" in fetched
    assert not [name for name in fetched if name.endswith((".py", ".bin"))]


SHARD = """
record = make_one(lineage, "raw_pile_shard", "00")
stale = lineage.stale("raw_pile_shard", "00")
print(json.dumps([record.details["source_signature"], stale and stale.reason]))
"""
IS_STALE = """
stale = lineage.stale("raw_pile_shard", "00")
print(json.dumps(stale and stale.reason))
"""


def test_a_shard_of_the_hub_is_stale_when_its_own_content_changes_and_not_before(consumer, hub):
    folder, api = consumer
    repo = f"{OWNER}/corpus"
    shard = write_shard(folder / "00.jsonl.zst", [{"text": "a", "meta": {}}])
    api.create_repo(repo, repo_type="dataset", private=True)

    def send(name, content):
        where = {"repo_id": repo, "repo_type": "dataset"}
        return api.upload_file(path_or_fileobj=content, path_in_repo=name, **where).oid

    commit = send("00.jsonl.zst", shard.read_bytes())
    content = yaml.safe_load((folder / "experiment.yaml").read_text())
    content["source"] |= {"train": [f"hf://datasets/{repo}/00.jsonl.zst"]}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(content))
    assert run(consumer, hub, SHARD) == [commit, None]
    send("NOTES.txt", b"other")
    assert run(consumer, hub, IS_STALE) is None
    send("00.jsonl.zst", b"other")
    assert run(consumer, hub, IS_STALE) == "its source changed"
    assert run(consumer, hub, IS_STALE, offline=True) is None


PERPLEXITY = f"""
from mdel_assets.evaluation.one_off import measure_perplexity
from mdel_assets.experiment.evaluation import Evaluation

measured = measure_perplexity(
    "{SEED}@main", "{OWNER}/arxiv", split="test_domain", text_field="text", num_documents=9,
    evaluation=Evaluation(max_length=32, num_bootstrap_samples=10), cache=home.cache,
)
print(json.dumps(measured.row))
"""


def test_one_off_perplexity_tells_the_commits_it_measured(consumer, hub, finished):
    _, api = consumer
    experiment, home, _ = finished
    lineage = home.lineage(experiment)
    repo = f"{OWNER}/arxiv"
    api.create_repo(repo, repo_type="dataset", private=True)
    data = lineage.folder("domain_dataset", "arxiv")
    api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=data)
    row = run(consumer, hub, PERPLEXITY)
    assert row["model_fingerprint"] == f"hub:{SEED}@{api.repo_info(SEED).sha}"
    assert row["dataset"] == f"{repo}@{api.repo_info(repo, repo_type='dataset').sha}"
    assert row["num_documents"] == 6


MERGE = f"""
from click.testing import CliRunner
from mdel_assets.cli.main import main

done = CliRunner().invoke(main, ["merge", "-e", "{SEED}", "-e", "{EXPERT}@main", "--output", "out"])
print(json.dumps(done.output))
"""


def test_models_of_the_hub_are_merged_from_the_command_line(consumer, hub, monkeypatch):
    folder, api = consumer
    monkeypatch.setenv("MDEL_EXPERIMENT", "experiment.yaml")
    monkeypatch.setenv("MDEL_HOME", "home")
    assert f"linear of {SEED}, {EXPERT}@main: " in run(consumer, hub, MERGE)
    commit = api.repo_info(EXPERT).sha
    assert f"| `{EXPERT}@main` | `hub:{EXPERT}@{commit}` |" in (
        folder / "out" / "README.md"
    ).read_text("utf-8")
    ours, seed, expert = (
        load_file(path / "model.safetensors")
        for path in (
            folder / "out",
            *(next(folder.glob(f"hf/hub/models--{OWNER}--{name}/snapshots/*")) for name in NAMES),
        )
    )
    for name, tensor in ours.items():
        assert tensor.sub((seed[name] + expert[name]) / 2).abs().max() < 1e-6


def test_a_server_that_fails_every_fifth_time_is_consumed_all_the_same(consumer, hub):
    state = hub.state.root
    with HubServer(state, faults=Faults(seed=3, errors=0.2, cuts=0.1), part_bytes=20_000) as bad:
        made = run(consumer, bad, MAKE)
        assert {fault.kind for _, _, fault in bad.faults.happened} >= {"error"}
    assert made["seed"]["path"] == SEED
    folder = consumer[0] / "home" / "pico" / "models" / "seed"
    assert Path(folder, "model.safetensors").stat().st_size > 0
