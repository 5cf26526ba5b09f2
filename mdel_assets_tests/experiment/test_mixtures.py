"""What an experiment's mixtures may say, and how mistakes in them are refused at the door."""

import pytest
import yaml

from mdel_assets.errors import ExperimentError, MergeError
from mdel_assets.experiment.loading import parse_experiment
from mdel_assets.maintenance.experiment_checks import look_around
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.merging.mixtures.mixable import CHANGES

LLAMA = PICO["seed_model"]["pretrain"] | {
    "model": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
}


def parse(mixture, *, model=None, trained_layers=("1-2.mlp",)):
    content = PICO | {
        "source": {"train": ["a.jsonl.zst"]},
        "seed_model": {"pretrain": LLAMA | {"model": LLAMA["model"] | (model or {})}},
        "training": PICO["training"] | {"trained_layers": list(trained_layers)},
        "mixtures": {"all": mixture},
    }
    return parse_experiment(yaml.safe_dump(content), origin="test.yaml")


def test_a_mixture_takes_all_experts_or_those_that_it_names():
    present = ["github", "arxiv"]
    whole = parse({}).mixtures["all"]
    assert whole.domains(present) == present
    assert (whole.router, whole.experts_per_token, whole.general_expert) == ("domains", 2, False)
    assert parse({"experts": "expert:*"}).mixtures["all"] == whole
    named = parse({"experts": ["expert:arxiv", "expert:github"]}).mixtures["all"]
    assert named.domains(present) == ["arxiv", "github"]
    with pytest.raises(MergeError, match="'arxiv', but the corpus has no training document"):
        named.domains(["github", "freelaw"])


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"router": "learned"}, "expected one of domains, trained"),
        ({"experts_per_token": 0}, "mixtures.all.experts_per_token: expected 1 or more, got 0"),
        ({"experts_per_token": 5}, "experts_per_token is 5, but there are 4 experts: lower it"),
        (
            {"experts_per_token": 3, "experts": ["expert:arxiv", "expert:github"]},
            "experts_per_token is 3, but there are 2 experts",
        ),
        ({"experts": ["expert:arxiv"]}, "has two experts or more, this one 1"),
        ({"experts": ["expert:arxiv", "expert:arxiv"]}, "experts has 'expert:arxiv' twice"),
        ({"experts": ["expert:arxiv", "expert:githib"]}, "did you mean 'github'"),
        ({"experts": ["expert:arxiv", "seed"]}, "experts has 'seed': write 'expert:\\*' alone"),
        ({"experts": ["expert:arxiv", "expert:*"]}, "experts has 'expert:\\*': write"),
        ({"training": {"num_steps": 5}}, "router 'domains' needs no training"),
        ({"router": "trained", "experts_per_token": 1}, "needs experts_per_token 2 or more"),
        ({"router": "trained", "training": {"steps": 5}}, "Unknown key 'steps'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_with_the_reason(mixture, message):
    with pytest.raises(ExperimentError, match=f"(?i){message}"):
        parse(mixture)


def test_the_general_expert_counts():
    assert parse({"experts_per_token": 5, "general_expert": True})
    assert parse({"experts": ["expert:arxiv"], "general_expert": True})


@pytest.mark.parametrize("layers", [("1.attention",), ("embeddings", "head"), ("0-2.norms",)])
def test_experts_without_a_feed_forward_of_their_own_are_refused(layers):
    with pytest.raises(ExperimentError, match="trained_layers has no feed-forward block"):
        parse({}, trained_layers=layers)
    for good in ("1.mlp", 1):
        assert parse({}, trained_layers=(*layers, good) if good != 1 else ("2.norms", good))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model_type": "gpt_neox"}, "'gpt_neox' has no counterpart .* ensemble"),
        ({"model_type": "gpt2"}, "'gpt2' has no counterpart .* ensemble"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"mlp_bias": True}, "mlp_bias is true"),
    ],
)
def test_a_seed_without_a_mixture_is_refused_before_anything_is_made(model, message):
    with pytest.raises(ExperimentError, match=message):
        parse({}, model=model)
    for family in ("llama", "mistral", "qwen3", "olmo2"):
        assert parse({}, model={"model_type": family})


def test_a_seed_folder_that_cannot_be_mixed_is_found_before_anything_is_made(
    make_model, corpus, home
):
    for family, count in (("gpt_neox", 1), ("llama", 0)):
        seed_model = {"path": str(make_model(family))}
        experiment = pico_experiment(corpus, seed_model=seed_model, mixtures={"all": {}})
        mistakes = look_around(home.lineage(experiment)).mistakes
        assert len([told for told in mistakes if "has no counterpart" in told]) == count


def test_merges_take_no_mixtures(corpus):
    merges = {"m": {"merge_method": "linear", "models": [{"model": "mixture-all"}]}}
    with pytest.raises(ExperimentError, match="'mixture-all' is a mixture, which has other"):
        pico_experiment(corpus, **CHANGES | {"merges": merges}, mixtures={"all": {}})
