"""Mixtures of experts write and are served as any other model is."""

import json

import pytest
import torch
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.generation.speakers import Speakers
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets.training.model_files import load_tokenizer
from mdel_assets_tests.merging.mixtures.folders import load
from mdel_assets_tests.merging.mixtures.mixable import experiment_of, home_with_experts
from mdel_assets_tests.serving.conftest import running

MODEL = "mixture-small"
PROMPTS = ["def return", "court appeal theorem", "import"]


@pytest.fixture(scope="module")
def mixed(corpus, tmp_path_factory):
    """The lineage of an experiment with a mixture, whose tokens go through two experts of four."""
    home = MdelHome(home_with_experts(corpus, tmp_path_factory))
    lineage = home.lineage(experiment_of(corpus, small={"general_expert": True}))
    make_one(lineage, "moe_model", "small")
    return lineage


def by_transformers(folder, prompt):
    """Return transformers' greedy continuation, 12 tokens long, as text."""
    tokenizer = load_tokenizer(folder)
    inputs = torch.tensor([[0, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
    found = load(folder).generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    text = tokenizer.decode(found[0, 1:], skip_special_tokens=True)
    return text[len(prompt) :]


def test_a_mixture_writes_what_transformers_writes_with_it(mixed, tmp_path):
    expected = [by_transformers(mixed.model(MODEL).folder, prompt) for prompt in PROMPTS]
    assert all(map(len, expected))
    with running(mixed) as server, server.client() as client:
        assert MODEL in [model.id for model in client.models.list()]
        asked = {"model": MODEL, "prompt": PROMPTS, "max_tokens": 12, "temperature": 0}
        choices = client.completions.create(**asked).choices
    assert [choice.text for choice in choices] == expected
    path = tmp_path / "pico.yaml"
    path.write_text(
        yaml.safe_dump(json.loads(mixed.experiment.model_dump_json(exclude_unset=True)))
    )
    runner = CliRunner(env={"MDEL_HOME": str(mixed.root.parent), "MDEL_EXPERIMENT": str(path)})
    words = [MODEL, "--prompt", PROMPTS[0], "--max-new-tokens", "12", "--temperature", "0"]
    done = runner.invoke(main, ["generate", *words], catch_exceptions=False)
    assert done.stdout == f"{expected[0]}\n"


@pytest.mark.in_use
def test_an_expert_beside_a_mixture_is_counted_with_all_of_its_weights(mixed):
    """Nothing of a mixture is shared with it: the limit of memory would be passed otherwise."""
    alone = Speakers(mixed).bytes_at_most("expert-github")
    speakers = Speakers(mixed)
    speakers.load(MODEL)
    before = speakers.held_bytes
    assert speakers.bytes_at_most("expert-github") == alone
    speakers.load("expert-github")
    # The frequencies of positions are in no file.
    assert speakers.held_bytes - before == alone + 2 * 8 * 4
