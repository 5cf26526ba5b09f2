"""Any kind is made by a worker as by the step's own process: the same specification, any name."""

import json
import shutil

from mdel_assets.engines.worker_spec import WorkerSpec, raise_outcome
from mdel_assets.home import MdelHome
from mdel_assets_tests import warm_python


def test_a_worker_scores_a_model_and_routes_a_shard_to_the_same_bytes(finished, tmp_path):
    experiment, made, _ = finished
    home = MdelHome(tmp_path / "home")
    shutil.copytree(made.root, home.root)
    lineage = home.lineage(experiment)
    for kind, key in (("shard_documents", "01"), ("token_scores", "expert-github")):
        artifact = lineage.artifact(kind, key)
        before = json.loads(artifact.record_path.read_text())
        artifact.remove()
        spec = WorkerSpec(
            experiment=experiment.model_dump(mode="json", by_alias=True, exclude_unset=True),
            home=str(home.root),
            kind=kind,
            keys=[key],
            tracking_folder=str(tmp_path / "wandb"),
            tracking_mode="disabled",
        )
        path = tmp_path / f"{kind}.json"
        spec.write(path)
        warm_python.run(["-m", "mdel_assets.worker", path], check=True)
        raise_outcome(path)
        assert json.loads(artifact.record_path.read_text()) == before
