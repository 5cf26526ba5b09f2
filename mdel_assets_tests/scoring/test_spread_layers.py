"""Models that do not fit on one device: the same scores to the bit, in little memory."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from mdel_assets.errors import MdelError, ScoringError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.scoring.loading import load_pack, load_to_score
from mdel_assets.scoring.score_together import score_models
from mdel_assets.scoring.spread_layers import Memory, fits, is_spread
from mdel_assets_tests.conftest import task_of, write_split
from mdel_assets_tests.families import FAMILIES

EVALUATION = Evaluation(max_length=16, splits=("validation_domain",))
TEXTS = [f"theorem {n} " + "lemma epsilon " * (n % 7) for n in range(12)]
TIED = {"n_layer": 3, "n_head": 2, "n_embd": 32, "n_positions": 64}
# Of the weights of these models, the device takes the output layer and some more.
SHARE_IN_MEMORY = 0.7


def num_weight_bytes(folder):
    return sum(4 * tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


def little(folder):
    return Memory((), int(SHARE_IN_MEMORY * num_weight_bytes(folder)))


@pytest.mark.parametrize(
    ("family", "settings", "dtype"),
    [
        ("gpt_neox", {}, "float32"),
        ("llama", {}, "float32"),
        ("gpt2", TIED, "float32"),
        ("llama", {}, "bfloat16"),
    ],
)
def test_a_spread_model_has_the_scores_of_one_in_memory(
    family, settings, dtype, make_model, tmp_path
):
    folder = make_model(family, **settings)
    evaluation = EVALUATION.model_copy(update={"dtype": dtype})
    places = load_to_score(folder, evaluation, little(folder)).hf_device_map.values()
    assert {"cpu", "disk"} == set(places)
    (tmp_path / "data").mkdir()
    write_split(tmp_path / "data" / "validation_domain.parquet", TEXTS, domain="arxiv")
    files = {}
    for name, memory in {"whole": None, "spread": little(folder)}.items():
        task = task_of(folder, tmp_path, name)
        texts = {"datasets": {"arxiv": tmp_path / "data"}, "evaluation": evaluation}
        ((_, result),) = score_models({name: task}, **texts, memory=memory)
        assert not isinstance(result, MdelError)
        files[name] = (task.folder / "documents.parquet").read_bytes()
        # The layers on disk are the model's own files: nothing but the scores is written.
        assert [path.suffix for path in task.work_folder.iterdir()] == [".parquet"]
    assert files["spread"] == files["whole"]


def test_weights_decide_whether_a_model_fits(make_model):
    folder = make_model()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    total = sum(parameter.numel() for parameter in model.parameters())
    layers = sum(p.numel() for p in model.gpt_neox.layers.parameters() if p.dim() > 1)
    whole = EVALUATION
    rounded = EVALUATION.model_copy(update={"dtype": "bfloat16"})
    for evaluation, gpus, needed in (
        (whole, False, 4 * total),
        (whole, True, 4 * total),
        (rounded, False, 4 * total),
        (rounded, True, 4 * total - 2 * layers),
    ):
        for free, is_enough in ((int(needed / 0.9) + 1, True), (int(needed / 0.9) - 1, False)):
            memory = Memory((free,), 0) if gpus else Memory((), free)
            assert fits(folder, evaluation, memory) is is_enough


def test_a_spread_model_is_a_pack_of_its_own(make_model):
    small, large = make_model(), make_model(hidden_size=64, intermediate_size=256)
    memory = little(large)
    first = load_pack([small, large], EVALUATION, memory)
    second = load_pack([large, small], EVALUATION, memory)
    assert [is_spread(model) for model in first] == [False]
    assert [is_spread(model) for model in second] == [True]


def test_a_model_whose_files_have_another_form_is_loaded_whole(make_model):
    folder = make_model("mixtral", **FAMILIES["mixtral"])
    assert not fits(folder, EVALUATION, little(folder))
    assert not is_spread(load_to_score(folder, EVALUATION, little(folder)))


def test_an_output_layer_that_does_not_fit_is_refused(make_model):
    # 320 rows of 32 numbers, of which four fifths of 10,000 bytes hold a fifth.
    with pytest.raises(ScoringError, match=r"takes 40960 bytes, .* may take only 8000\."):
        load_to_score(make_model(), EVALUATION, Memory((), 10_000))


PEAK = """
import resource, sys
from pathlib import Path
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.scoring.loading import load_to_score
from mdel_assets.scoring.log_probabilities import token_log_probabilities
from mdel_assets.scoring.spread_layers import Memory

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def score(folder):
    model = load_to_score(folder, Evaluation(max_length=64), Memory((), 20_000_000))
    token_log_probabilities(model, [list(range(200))], prefix=0, max_length=64)
    return set(getattr(model, "hf_device_map", {}).values())

small, large = map(Path, sys.argv[1:])
score(small)
before = peak()
assert score(large) == {"cpu", "disk"}
print(peak() - before)
"""


def test_peak_memory_is_what_it_is_told_and_a_layer(make_model, tmp_path):
    large = tmp_path / "large"
    small = make_model()
    config = AutoConfig.from_pretrained(small)
    config.update({"hidden_size": 512, "num_hidden_layers": 24, "intermediate_size": 2048})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    # Any numbers do: drawing 76 million of them takes longer than everything else.
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    model.save_pretrained(large)
    for path in small.glob("*token*"):
        (large / path.name).write_bytes(path.read_bytes())
    weights = num_weight_bytes(large)
    assert weights > 300e6
    command = [sys.executable, "-W", "ignore", "-c", PEAK, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100e6
