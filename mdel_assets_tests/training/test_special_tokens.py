"""Documents that hold the literal text of a special token: the token by default, or text."""

import numpy as np
import pytest

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.scoring.score_together import score_documents
from mdel_assets.training.model_files import load_tokenizer, reading
from mdel_assets.training.packing import pack, tokenized_documents
from mdel_assets_tests.conftest import PICO, TRAINING, pico_experiment, write_split

CODE = 'if token == "<|endoftext|>": return None'


@pytest.mark.in_use
@pytest.mark.parametrize(("special_tokens", "num_ends"), [("tokens", 3), ("text", 2)])
def test_a_training_reads_it_as_the_settings_say(make_model, tmp_path, special_tokens, num_ends):
    tokenizer = load_tokenizer(make_model())
    write_split(tmp_path / "train.parquet", [CODE, "def return"], domain="Github")
    documents = SplitDocuments.of(tmp_path / "train.parquet")
    reader = reading(tokenizer, special_tokens)
    found = [tokens.tolist() for tokens in tokenized_documents(documents, np.arange(2), reader)]
    assert sum(tokens.count(tokenizer.eos_token_id) for tokens in found) == num_ends
    assert reader.decode(found[0]) == CODE + "<|endoftext|>"
    # The tokenizer itself, which is saved with the model, reads what it always did.
    assert tokenizer(CODE)["input_ids"].count(tokenizer.eos_token_id) == 1


@pytest.mark.in_use
def test_a_scoring_reads_it_as_the_settings_say(make_model):
    model = make_model()
    tokenizer = load_tokenizer(model)
    as_token = len(tokenizer(CODE)["input_ids"])
    before, after = CODE.split("<|endoftext|>")
    pieces = [tokenizer(piece)["input_ids"] for piece in (before, after)]
    assert as_token == sum(map(len, pieces)) + 1
    counts = {}
    for special_tokens in ("tokens", "text"):
        evaluation = Evaluation(max_length=32, special_tokens=special_tokens)
        table = score_documents(model, [("a", CODE)], evaluation)
        counts[special_tokens] = table.column("num_tokens").to_pylist()[0]
    assert counts["tokens"] == as_token
    assert counts["text"] > as_token + 5


@pytest.mark.in_use
def test_documents_with_it_are_counted_as_they_are_read(make_model, tmp_path, caplog):
    tokenizer = load_tokenizer(make_model())
    write_split(tmp_path / "train.parquet", [CODE, "def", CODE + " again"], domain="Github")
    documents = SplitDocuments.of(tmp_path / "train.parquet")
    for special_tokens in ("text", "tokens"):
        reader = reading(tokenizer, special_tokens)
        pack(documents, reader, block_size=8, num_blocks=None, seed=0)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("2 of 3 documents contain the literal text of a special token")


@pytest.mark.in_use
def test_only_another_reading_changes_what_a_thing_is(corpus, home):
    """Fingerprints of what was made before there was the setting stay."""

    def settings(**changes):
        training = TRAINING.model_dump(mode="json", exclude_unset=True) | changes
        evaluation = PICO["evaluation"] | changes
        experiment = pico_experiment(corpus, training=training, evaluation=evaluation)
        lineage = home.lineage(experiment)
        kinds = [lineage.registry[name] for name in ("expert_model", "token_scores")]
        return [kind.config(lineage, "expert-github") for kind in kinds]

    assert settings() == settings(special_tokens="tokens")
    assert not any("special_tokens" in config for config in settings())
    assert all(config["special_tokens"] == "text" for config in settings(special_tokens="text"))
