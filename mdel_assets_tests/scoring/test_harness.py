"""Scores against lm-evaluation-harness itself, on the same text and windows."""

import math

import numpy as np
import pytest

from mdel_assets.scoring.log_probabilities import token_log_probabilities
from mdel_assets.scoring.token_scores import count_words, prefix_token_id
from mdel_assets.training.model_files import load_model, load_tokenizer
from mdel_assets_tests.conftest import WORDS, make_document

TEXTS = [
    "theorem",
    "žluťoučký kůň 馬 🐎 úpěl ďábelské ódy",
    *(
        make_document(label, 1, num_words=count)["text"]
        for label, count in zip(WORDS, (5, 90, 400), strict=True)
    ),
]
MAX_LENGTH = 32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_bits_per_byte_are_those_of_the_harness(make_model, family):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    folder = make_model(family)
    model, tokenizer = load_model(folder, dtype="float32"), load_tokenizer(folder)
    harness = HFLM(
        pretrained=model, tokenizer=tokenizer, max_length=MAX_LENGTH, batch_size=3, device="cpu"
    )
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
        for text in TEXTS
    ]
    theirs = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    tokens = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    ours = token_log_probabilities(
        model,
        tokens,
        prefix=prefix_token_id(tokenizer, "eos"),
        max_length=MAX_LENGTH,
    )
    # One token, and several windows, are among them.
    assert max(map(len, tokens)) > 10 * MAX_LENGTH
    for text, mine, likelihood in zip(TEXTS, ours, theirs, strict=True):
        size = len(text.encode()) * math.log(2)
        assert -mine.sum(dtype=np.float64) / size == pytest.approx(-likelihood / size, rel=1e-5)


def test_words_are_counted_as_the_harness_counts():
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results

    for text in [*TEXTS, "  two  words\n", ""]:
        found = process_results({"page": text}, (-1.0,))
        assert found["word_perplexity"] == (-1.0, count_words(text))
