"""A line of which all heavy steps are jobs of a cluster, each kind's first one killed."""

import dagster as dg
import yaml

from mdel_assets.defs.launch import run_line
from mdel_assets.home import MdelHome
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.defs.expert_jobs import QUICK

SEARCHED = {
    "merge_method": "task_arithmetic",
    "base_model": "seed",
    "models": [{"model": "expert:github"}, {"model": "expert:arxiv"}],
    "mdel": {"search": {"num_trials": 8, "num_documents": 2}},
}
KINDS = {
    "shard_documents": {},
    "domain_dataset": {},
    "layer_differences": {},
    "searched_merge": {},
    "merged_model": {},
    "token_scores": {"parts": 2, "models_per_job": 4},
    "sample_texts": {},
    "forecast_probes": {},
}
# Without a shared folder.
WHOLE_KINDS = KINDS | {"token_scores": {}}
TRAININGS = ("seed_model", "expert_model")


def experiment_of(corpus):
    """Return the pico experiment with a search and a forecast, and without baselines."""
    merges = {"mean-all": PICO["merges"]["mean-all"], "searched": SEARCHED}
    baselines = {"dense": False, "dense_one": False}
    return pico_experiment(corpus, merges=merges, baselines=baselines, forecast={})


def run_by_jobs(experiment, folder, engine, *, lines=(), **settings):
    """Run the line; the first job of each kind is killed before it begins."""
    kind = '$(grep -oE \'"kind": ?"[a-z_]+"\' $folder/spec.json | tail -1 | cut -d\'"\' -f4)'
    flag = f"{folder}/killed-{kind}"
    kill = f"[ -e {flag} ] || {{ touch {flag}; kill -9 $$; }}"
    environment = [*QUICK["environment"], *lines, kill]
    python = warm_python.executable()
    compute = {
        "engine": engine,
        engine: QUICK | settings | {"environment": environment, "python": python},
        "kinds": KINDS if settings.get("shares_folder", True) else WHOLE_KINDS,
    }
    home = MdelHome(folder / "home")
    home.root.mkdir(exist_ok=True)
    (home.root / "compute.yaml").write_text(yaml.safe_dump(compute))
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
    failed = [(o.kind, o.message) for o in outcomes if o.state == "failed"]
    assert failed == [], failed
    killed = {path.name.removeprefix("killed-") for path in folder.glob("killed-*")}
    assert killed == {*KINDS, *TRAININGS}
    return home


def assert_same_records(home, other, experiment):
    """Compare what every artifact of the line is, with all digests of its files."""
    lineage, rival = home.lineage(experiment), other.lineage(experiment)
    compared = set()
    for kind, keys in lineage.walk():
        for key in keys:
            ours, theirs = (each.artifact(kind, key) for each in (lineage, rival))
            ours.require()
            assert ours.record_path.read_bytes() == theirs.record_path.read_bytes(), (kind, key)
            compared.add(kind)
    assert compared >= {*KINDS, *TRAININGS, "perplexity_matrix"}
