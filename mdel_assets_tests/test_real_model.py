"""A real pretrained model of another family: SmolLM2-135M, as a package ships it."""

import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mdel_assets.data.sample_texts import mathematics_exercises
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.fields import ExpertTraining, ModelSource
from mdel_assets_tests.conftest import task_of, write_split


@pytest.fixture(scope="module")
def cache():
    return Path(os.environ.get("MDEL_HOME") or "mdel_home") / "cache"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_expert_of_smollm2_is_trained_and_scored(cache, tmp_path):
    from mdel_assets.scoring.perplexity import read_cells
    from mdel_assets.scoring.score_together import score_models
    from mdel_assets.training.expert import train_expert
    from mdel_assets.training.seed import adopt_model

    texts = [text for _, (text,) in zip(range(40), mathematics_exercises(), strict=False)]
    for split, chosen in (("train", texts[:30]), ("validation_domain", texts[30:31])):
        write_split(tmp_path / f"{split}.parquet", chosen, domain="dm_mathematics")
    write_split(tmp_path / "validation_pile.parquet", [], domain="dm_mathematics")
    for name in ("seed", "expert", "work"):
        (tmp_path / name).mkdir()
    source = ModelSource(path="sample://smollm2-135m")
    adopted = adopt_model(source, tmp_path / "seed", cache=cache)
    assert (adopted.architecture, adopted.num_layers) == ("LlamaForCausalLM", 30)
    result = train_expert(
        ExpertTraining(
            trained_layers=(-2, -1),
            learning_rate=5e-4,
            warmup_ratio=0.2,
            block_size=64,
            batch_size=2,
            num_tokens=64 * 2 * 5,
            num_validation_blocks=2,
        ),
        seed_folder=tmp_path / "seed",
        dataset_folder=tmp_path,
        folder=tmp_path / "expert",
        work_folder=tmp_path / "work",
    )
    assert result.changed_though_frozen == []
    assert result.losses_after["validation_domain"] < result.losses_before["validation_domain"]
    names = ("seed", "expert")
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in names)
    moved = {n for n in before if not before[n].equal(after[n])}
    assert moved
    assert all(n.startswith(("model.layers.28.", "model.layers.29.")) for n in moved)

    tasks = {name: task_of(tmp_path / name, tmp_path, f"scores-{name}") for name in names}
    results = dict(
        score_models(
            tasks,
            datasets={"dm_mathematics": tmp_path},
            evaluation=Evaluation(max_length=256, splits=("validation_domain",)),
        )
    )
    assert [result.num_shared_layers for result in results.values()] == [28, 28]
    bits = {name: read_cells(tasks[name].folder)[0].bits_per_byte for name in names}
    # A uniform guess over bytes needs 8 bits, a pretrained model far fewer; five steps move it.
    assert 0.3 < bits["seed"] < 3.0
    assert bits["expert"] == pytest.approx(bits["seed"], rel=0.1)
    assert bits["expert"] != bits["seed"]
