"""What a model's record says is the same whenever it is made; how it was made lies beside."""

import json
import shutil

import pytest

from mdel_assets.defs.training import model_metadata, trained_result
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one
from mdel_assets.publishing.cards import provenance_section
from mdel_assets.scoring.score_together import ScoringTask, score_models
from mdel_assets.store.artifacts import MAKING_NAME
from mdel_assets.store.records import Record

pytestmark = pytest.mark.in_use
PACE = "tokens_per_second"


@pytest.fixture(scope="module")
def trained(branched, tmp_path_factory):
    """The seed and the expert of github, trained twice in two homes."""
    found = []
    for number in range(2):
        home = MdelHome(tmp_path_factory.mktemp(f"home{number}") / "home")
        shutil.copytree(branched[1].root, home.root)
        lineage = home.lineage(branched[0])
        shutil.rmtree(lineage.folder("seed_model"))
        make_one(lineage, "seed_model")
        make_one(lineage, "expert_model", "github")
        found.append([lineage.artifact("seed_model"), lineage.artifact("expert_model", "github")])
    return found


def test_two_trainings_of_the_same_model_leave_the_same_record(trained):
    for one, other in zip(*trained, strict=True):
        assert one.record_path.read_bytes() == other.record_path.read_bytes()
        making = (json.loads((a.folder / MAKING_NAME).read_text()) for a in (one, other))
        assert len({how["history"][PACE] for how in making}) == 2


def test_scores_that_a_killed_run_began_have_the_record_of_others(branched, tmp_path):
    found = []
    for number in range(2):
        home = MdelHome(tmp_path / str(number))
        shutil.copytree(branched[1].root, home.root)
        lineage = home.lineage(branched[0])
        if number:
            score_without_publishing(lineage, "seed", tmp_path)
        make_all(lineage, "token_scores", ["seed"])
        found.append(lineage.artifact("token_scores", "seed"))
    one, other = found
    assert one.record_path.read_bytes() == other.record_path.read_bytes()
    scored = [a.all_details(a.require())["num_documents_scored_now"] for a in found]
    assert scored == [one.require().counts["num_documents"], 0]


def score_without_publishing(lineage, key, stage):
    """Leave what a run leaves that is killed before it publishes the scores."""
    fingerprint = lineage.identity("token_scores", key).fingerprint
    work = lineage.work_folder(f"token_scores-{key}-{fingerprint}")
    tasks = {key: ScoringTask(lineage.model(key).folder, stage, work)}
    datasets = {d: lineage.folder("domain_dataset", d) for d in lineage.present_domains()}
    list(score_models(tasks, datasets=datasets, evaluation=lineage.experiment.evaluation))


def test_the_seed_s_making_is_not_taken_over_by_its_experts(trained):
    for artifact in trained[0]:
        assert MAKING_NAME not in artifact.require().files


def test_pages_and_cards_show_how_a_model_was_made(trained):
    seed, expert = trained[0]
    record = expert.require()
    how = json.loads((expert.folder / MAKING_NAME).read_text())
    assert how["history"]["num_processes"] == 1
    shown = trained_result(record, expert).metadata
    assert shown[PACE] == round(how["history"][PACE])
    assert expert.all_details(record)["history"]["curves"].keys() > {PACE, "loss"}
    assert model_metadata(seed.require(), seed)[PACE] > 0
    how["tracked_at"] = "https://wandb.ai/runs/1"
    (expert.folder / MAKING_NAME).write_text(json.dumps(how))
    assert trained_result(record, expert).metadata["wandb"].url == "https://wandb.ai/runs/1"
    assert "<https://wandb.ai/runs/1>" in provenance_section(record, expert)


def test_a_record_that_holds_both_is_read_and_current(trained, branched):
    """As records were: pace and address among the details, without a seal."""
    _, expert = trained[1]
    record = expert.require()
    making = json.loads((expert.folder / MAKING_NAME).read_text())
    old = json.loads(expert.record_path.read_text())
    del old["seal"]
    old["details"] = {**expert.all_details(record), "tracked_at": "https://wandb.ai/runs/2"}
    expert.record_path.write_text(json.dumps(old))
    (expert.folder / MAKING_NAME).unlink()
    lineage = MdelHome(expert.folder.parents[3]).lineage(branched[0])
    found = lineage.current("expert_model", "github")
    shown = trained_result(found, expert).metadata
    assert shown[PACE] == round(making["history"][PACE])
    assert shown["wandb"].url == "https://wandb.ai/runs/2"


def test_where_nothing_is_known_of_the_making_the_rest_is_shown(trained):
    seed, _ = trained[1]
    (seed.folder / MAKING_NAME).write_text("{")
    shown = model_metadata(seed.require(), seed)
    assert PACE not in shown
    assert shown["num_steps"] > 0


def test_records_are_read_as_they_were_written(trained):
    text = trained[0][0].record_path.read_text()
    assert Record.parse(text).text() == text
