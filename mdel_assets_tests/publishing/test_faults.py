"""Publishing to a server that fails one request in five: everything arrives once and whole."""

import pytest

from mdel_assets.errors import PublishingError
from mdel_assets_tests.defs.finished_line import materialize
from mdel_assets_tests.publishing.conftest import OWNER, TOKEN, with_hub
from mdel_assets_tests.publishing.hub_faults import Faults
from mdel_assets_tests.publishing.hub_server import HubServer

ASSETS = (
    ("hub_dataset", "arxiv", "datasets", "arxiv"),
    ("hub_expert", "arxiv", "models", "expert-arxiv"),
    ("hub_merged_model", "pair", "models", "pair"),
)


@pytest.mark.slow
def test_all_arrives_once_and_whole_from_assets(finished, own_home, tmp_path, monkeypatch):
    experiment, home = finished[0], own_home
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    faults = Faults(seed=1, errors=0.2, cuts=0.1)
    with HubServer(tmp_path / "server", faults=faults, part_bytes=60_000) as hub:
        hub.state.add_account(TOKEN, "alice", organizations=[OWNER])
        experiment = with_hub(experiment, endpoint=hub.endpoint, namespace=OWNER)
        store = home.lineage(experiment)
        for asset, key, kind, name in ASSETS:
            for _ in range(3):
                result = materialize(experiment, home, asset, key, raise_on_error=False)
                if result.success:
                    break
                (failure,) = [e for e in result.all_events if e.is_step_failure]
                assert failure.step_failure_data.error.cause.cls_name == PublishingError.__name__
            assert result.success
            artifact = store.model(name) if kind == "models" and "-" in name else None
            artifact = artifact or (
                store.artifact("merged_model", key)
                if kind == "models"
                else store.artifact("domain_dataset", key)
            )
            held = hub.state.read(kind, f"{OWNER}/{name}")
            for file in artifact.require().files:
                if file not in ("README.md", "mergekit_config.yml"):
                    assert held[file] == (artifact.folder / file).read_bytes()
            assert len(hub.commits(kind, f"{OWNER}/{name}")) == 1
        kinds = {fault.kind for _, _, fault in faults.happened}
        assert "error" in kinds
        assert len(kinds) > 1
        assert len(faults.happened) > len(hub.requests) / 10
        assert hub.tokens_at_storage == []
