"""Domains and sizes that an experiment begins with."""

from pathlib import Path

import pytest

from mdel_assets.data.look import CorpusLook, Counts, LabelCount, Places
from mdel_assets.errors import ExperimentError, ShardError
from mdel_assets.experiment.loading import parse_experiment
from mdel_assets.maintenance.first_experiment import first_experiment
from mdel_assets.planning.first_choice import Machine, chosen_domains, sizes_for

LAPTOP = Machine(num_cores=2, memory_bytes=8 << 30, gpu_bytes=None)
WORKSTATION = Machine(num_cores=32, memory_bytes=128 << 30, gpu_bytes=None)
WITH_GPU = Machine(num_cores=8, memory_bytes=64 << 30, gpu_bytes=24 << 30)


def look(**documents):
    """Return a look at labels of so many documents, each of a thousand bytes."""
    labels = tuple(LabelCount(name, (), n, 1000 * n) for name, n in documents.items())
    total = sum(documents.values())
    return CorpusLook(
        layout="columns",
        places=Places((Path("a.jsonl"),), None, None),
        text_field="text",
        domain_field="topic",
        counts=Counts(labels, {}, total, True, total, 1000 * total, 0.0),
        doubts=(),
    )


def chosen(**documents):
    choice = chosen_domains(look(**documents))
    return [label.name for label in choice.domains], choice.clusters


def test_labels_that_allow_a_verdict_become_domains():
    # Of 135 documents a fifth is held out: 27.
    assert chosen(a=400, b=135, c=134) == (["a", "b"], None)
    # Nor does one with less than a hundredth of the text of the largest.
    assert chosen(a=20_000, b=200, c=199) == (["a", "b"], None)


def test_in_a_small_corpus_twenty_documents_are_enough():
    assert chosen(a=100, b=20, c=19) == (["a", "b"], None)


def test_clusters_take_the_place_of_labels_with_too_little_text():
    # Of 8, 7, 6, ... clusters of 560 documents, four have 135 or more each.
    assert chosen(a=550, b=10) == ([], 4)
    assert chosen(a=40) == ([], 2)
    with pytest.raises(ShardError, match="39 documents with 39000 bytes of text, too few"):
        chosen(a=39)


@pytest.mark.parametrize(
    ("megabytes", "machine", "hidden_size"),
    [
        (1, WITH_GPU, 64),
        (100, LAPTOP, 64),
        (100, WORKSTATION, 256),
        (1000, WORKSTATION, 256),
        (100, WITH_GPU, 256),
        (1000, WITH_GPU, 512),
    ],
)
def test_a_model_is_as_large_as_text_and_machine_allow(megabytes, machine, hidden_size):
    sizes = sizes_for([megabytes * 500_000] * 2, machine)
    assert sizes.hidden_size == hidden_size
    assert sizes.dtype == ("bfloat16" if hidden_size == 512 else "float32")


@pytest.mark.parametrize("machine", [LAPTOP, WORKSTATION, WITH_GPU])
@pytest.mark.parametrize("num_documents", [500, 100_000, 1_000_000])
def test_whatever_the_size_the_experiment_is_one(machine, num_documents, tmp_path):
    found = look(**{"Case: 1": num_documents, "case-1!": num_documents, "法": num_documents})
    first = first_experiment("first", found, folder=tmp_path, machine=machine)
    experiment = parse_experiment(first.yaml, origin="first", folder=tmp_path)
    assert [(domain.key, domain.name) for domain in experiment.domain_table] == [
        *(("case_1", "Case: 1"), ("case_1_2", "case-1!"), ("domain", "法")),
    ]
    assert experiment.training.learning_rate < experiment.seed_model.pretrain.learning_rate


@pytest.mark.parametrize(
    ("name", "told"), [("sample", "a bundled experiment"), ("a b", "is not allowed as a name")]
)
def test_a_name_that_cannot_be_is_refused(name, told, tmp_path):
    with pytest.raises(ExperimentError, match=told):
        first_experiment(name, look(a=200, b=200), folder=tmp_path, machine=LAPTOP)


def test_no_text_is_read_more_than_four_times():
    # A token of the smallest vocabulary is 2.5 bytes, a step 128 * 16 = 2048 tokens.
    sizes = sizes_for([10_000, 40_000, 50_000], LAPTOP)
    assert sizes.seed_tokens == 2048 * (4 * 40_000 // 2048)
    assert sizes.expert_tokens == 2048 * (4 * 16_000 // 2048)
    # Ten steps are the least, and the sample's lengths the most.
    assert sizes_for([5000, 5000], LAPTOP).expert_tokens == 20_480
    assert sizes_for([10**7] * 2, LAPTOP).seed_tokens == 2048 * (1_200_000 // 2048)
