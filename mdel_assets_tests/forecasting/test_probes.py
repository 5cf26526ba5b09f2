"""Probes on pico models: what they measure, against computation by other means."""

import itertools
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.errors import TrainingError
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.experiment.forecast import Forecast
from mdel_assets.forecasting import probes as module
from mdel_assets.forecasting.probes import measure_probes
from mdel_assets.training.packing import pack

DOMAINS = ("github", "arxiv", "freelaw")


@pytest.fixture(scope="module")
def measured(branched, tmp_path_factory):
    """The probes of the pico seed, at half of an expert's 16 steps; and where they lie."""
    experiment, home = branched
    lineage = home.lineage(experiment)
    work = tmp_path_factory.mktemp("probes")
    found = measure_probes(
        experiment.training,
        probe=experiment.training.model_copy(update={"max_steps": 8}),
        seed_folder=lineage.folder("seed_model"),
        datasets={d: lineage.folder("domain_dataset", d) for d in DOMAINS},
        work_folder=work,
    )
    return found, lineage, work


def weights(folder):
    """All weights of a model as one vector in fp64, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: value.double() for name, value in model.state_dict().items()}


def flat(tensors):
    return torch.cat([value.reshape(-1) for value in tensors.values()])


def loss(tensors, lineage, domain, *, seed=0):
    """Nats per token on the first four packed blocks, by transformers alone."""
    folder = lineage.folder("seed_model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    documents = SplitDocuments.of(
        lineage.folder("domain_dataset", domain) / "validation_domain.parquet"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    blocks = pack(documents, tokenizer, block_size=32, num_blocks=4, seed=seed)
    ids = torch.tensor(blocks.tolist())
    with torch.no_grad():
        logits = model(ids).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


def test_a_probe_is_an_expert_that_ends_early(measured):
    found, lineage, _ = measured
    # An expert has 2,048 tokens: 16 steps of 4 blocks of 32 tokens.
    assert found.num_steps == 8
    assert found.num_tokens == 3 * 8 * 4 * 32
    assert found.num_expert_tokens == 3 * 2048
    assert found.cost == 0.5
    assert found.num_weights == lineage.artifact("seed_model").require().details["num_parameters"]


@pytest.mark.parametrize(
    ("num_tokens", "share", "steps"),
    [(120 * 1024, 0.06, 7), (60 * 1024, 0.05, 3), (40 * 1024, 0.06, 2), (1024, 0.06, 2)],
)
def test_a_probe_has_whole_steps_rounded_down(num_tokens, share, steps):
    training = ExpertTraining(
        trained_layers="all", num_tokens=num_tokens, block_size=128, batch_size=8, eval_steps=3
    )
    probe = Forecast(probe_share=share).probe_training(training)
    assert (probe.num_steps, probe.eval_steps) == (steps, None)
    assert probe.learning_rate == training.learning_rate


def test_losses_are_those_of_the_models_on_held_out_text(measured):
    found, lineage, work = measured
    seed = weights(lineage.folder("seed_model"))
    for text in DOMAINS:
        assert found.seed_losses[text] == pytest.approx(loss(seed, lineage, text), rel=1e-5)
    for probe, text in itertools.product(DOMAINS, DOMAINS):
        own = weights(work / probe / "model")
        expected = loss(own, lineage, text)
        assert found.probe_losses[probe][text] == pytest.approx(expected, rel=1e-5)


def test_task_vectors_have_the_lengths_and_cosines_of_plain_vectors(measured):
    found, lineage, work = measured
    seed = flat(weights(lineage.folder("seed_model")))
    moved = {d: flat(weights(work / d / "model")) - seed for d in DOMAINS}
    for domain, vector in moved.items():
        expected = float(vector.norm() / seed.norm())
        assert expected > 0
        assert found.lengths[domain] == pytest.approx(expected, rel=1e-6)
    for one, two in itertools.combinations(DOMAINS, 2):
        cosine = float(moved[one] @ moved[two] / moved[one].norm() / moved[two].norm())
        assert found.cosines[one][two] == pytest.approx(cosine, abs=1e-6)


def test_the_line_runs_from_the_seed_to_the_mean_of_the_probes(measured):
    found, lineage, work = measured
    seed = weights(lineage.folder("seed_model"))
    own = [weights(work / d / "model") for d in DOMAINS]
    mean = {name: sum(probe[name] for probe in own) / 3 for name in seed}
    half = {name: (seed[name] + mean[name]) / 2 for name in seed}
    for text in DOMAINS:
        assert found.whole_losses[text] == pytest.approx(loss(mean, lineage, text), rel=1e-5)
        assert found.half_losses[text] == pytest.approx(loss(half, lineage, text), rel=1e-5)


def test_features_are_falls_of_losses_in_percent(measured):
    found = measured[0]
    own = [1 - found.probe_losses[d][d] / found.seed_losses[d] for d in DOMAINS]
    other = [
        1 - found.probe_losses[p][t] / found.seed_losses[t]
        for p, t in itertools.permutations(DOMAINS, 2)
    ]
    whole = [1 - found.whole_losses[t] / found.seed_losses[t] for t in DOMAINS]
    cosines = [found.cosines[p][t] for p, t in itertools.combinations(DOMAINS, 2)]
    features = found.features()
    assert features["own_divergence"] == pytest.approx(100 * sum(own) / 3)
    assert features["other_divergence"] == pytest.approx(100 * sum(other) / 6)
    assert features["line_whole"] == pytest.approx(100 * sum(whole) / 3)
    assert features["cosine"] == pytest.approx(sum(cosines) / 3)
    assert features["log_tokens_per_weight"] == pytest.approx(math.log(6144 / found.num_weights))
    assert features["log_num_domains"] == pytest.approx(math.log(3))


def test_a_probe_that_is_there_is_not_trained_again(measured, monkeypatch):
    found, lineage, work = measured

    def measure_again():
        return measure_probes(
            lineage.experiment.training,
            probe=lineage.experiment.training.model_copy(update={"max_steps": 8}),
            seed_folder=lineage.folder("seed_model"),
            datasets={d: lineage.folder("domain_dataset", d) for d in DOMAINS},
            work_folder=work,
        )

    before = {d: (work / d / "model" / "model.safetensors").stat().st_mtime_ns for d in DOMAINS}
    (work / "arxiv" / module._DONE).unlink()
    assert measure_again() == found
    after = {d: (work / d / "model" / "model.safetensors").stat().st_mtime_ns for d in DOMAINS}
    assert {d for d in DOMAINS if before[d] != after[d]} == {"arxiv"}


def test_probes_that_did_not_move_are_refused(measured, tmp_path):
    """One step of a warm-up has a learning rate of zero."""
    _, lineage, _ = measured
    training = lineage.experiment.training
    with pytest.raises(TrainingError, match="The probe of github, arxiv has the seed's weights"):
        measure_probes(
            training,
            probe=training.model_copy(update={"max_steps": 1}),
            seed_folder=lineage.folder("seed_model"),
            datasets={d: lineage.folder("domain_dataset", d) for d in ("github", "arxiv")},
            work_folder=tmp_path,
        )
