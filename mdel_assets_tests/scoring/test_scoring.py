"""Scores against a plain loop over the model's own logits, one document at a time."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mdel_assets.errors import MdelError, ScoringError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.scoring import log_probabilities
from mdel_assets.scoring.evaluation_documents import evaluation_documents
from mdel_assets.scoring.half_precision import halve_linear_layers
from mdel_assets.scoring.log_probabilities import Scorer, _Head, token_log_probabilities
from mdel_assets.scoring.perplexity import (
    Cell,
    bootstrap_bits_per_byte,
    interval,
    perplexity_row,
    read_cells,
    shared_draws,
)
from mdel_assets.scoring.score_together import score_models
from mdel_assets.scoring.token_scores import count_words
from mdel_assets.scoring.windows import rolling_windows
from mdel_assets.training.model_files import load_model, load_tokenizer
from mdel_assets_tests.conftest import task_of, write_split

MAX_LENGTH = 16
TEXTS = [
    "theorem",
    "",
    "žluťoučký kůň 馬 🐎 úpěl ďábelské ódy",
    " ".join(["proof lemma epsilon delta"] * 40),
    "def return\n\nimport class   if",
]


def windows(count, *, max_length=4):
    found = rolling_windows(list(range(1, count + 1)), prefix=0, max_length=max_length)
    return [(list(w.inputs), list(w.targets), w.start) for w in found]


def test_windows_are_those_of_the_harness():
    """By hand, for max_length 4: the last window sees a full context and scores what is left."""
    assert windows(0) == []
    assert windows(1) == [([0], [1], 0)]
    assert windows(4) == [([0, 1, 2, 3], [1, 2, 3, 4], 0)]
    assert windows(5) == [([0, 1, 2, 3], [1, 2, 3, 4], 0), ([1, 2, 3, 4], [5], 4)]
    assert windows(10) == [
        ([0, 1, 2, 3], [1, 2, 3, 4], 0),
        ([4, 5, 6, 7], [5, 6, 7, 8], 4),
        ([6, 7, 8, 9], [9, 10], 8),
    ]


@pytest.mark.parametrize("count", range(1, 30))
def test_every_token_is_scored_once_behind_the_token_before_it(count):
    scored = []
    for inputs, targets, start in windows(count):
        assert len(inputs) <= 4
        assert start == len(scored)
        # The inputs' last positions are the tokens just before the targets.
        assert inputs[-len(targets) :] == [t - 1 for t in targets]
        scored += targets
    assert scored == list(range(1, count + 1))


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_a_stride_gives_later_tokens_more_context(count, stride):
    tokens = list(range(1, count + 1))
    scored = []
    for window in rolling_windows(tokens, prefix=0, max_length=4, stride=stride):
        assert window.start == len(scored)
        assert len(window.targets) <= (4 if window.start == 0 else stride)
        # Beyond the first window every input is full, and ends just before the last target.
        assert window.start == 0 or len(window.inputs) == 4
        assert list(window.inputs)[-1] == window.targets[-1] - 1
        scored += window.targets
    assert scored == tokens


def test_a_stride_that_would_skip_tokens_is_refused():
    with pytest.raises(ValueError, match="stride 9 is more than max_length 8"):
        Evaluation(max_length=8, stride=9)


def oracle(model, tokens, prefix):
    """Return each token's log-probability, every window run alone, in float64 after the model."""
    found = []
    done = 0
    while done < len(tokens):
        if done == 0:
            end = min(MAX_LENGTH, len(tokens))
            inputs = [prefix, *tokens[: end - 1]]
        else:
            end = min(done + MAX_LENGTH, len(tokens))
            inputs = tokens[end - 1 - MAX_LENGTH : end - 1]
        with torch.no_grad():
            logits = model(torch.tensor([inputs])).logits[0].double()
        chosen = torch.log_softmax(logits, dim=-1)
        count = end - done
        found += [
            chosen[len(inputs) - count + offset, tokens[done + offset]].item()
            for offset in range(count)
        ]
        done = end
    return found


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize("tokens_per_batch", [1, 40, 8192])
@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_log_probabilities_agree_with_a_plain_loop(
    make_model, family, tokens_per_batch, as_on_a_gpu, monkeypatch
):
    if as_on_a_gpu:
        monkeypatch.setattr(log_probabilities, "_LOGITS_ON_GPU", 9 * 320)
        monkeypatch.setattr(_Head, "_by_tiles", _Head._by_rows)
    names = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 64} if family == "gpt2" else {}
    model = load_model(make_model(family, **names))
    draw = np.random.default_rng(0)
    lengths = [1, 0, MAX_LENGTH, MAX_LENGTH + 1, 3 * MAX_LENGTH, 3 * MAX_LENGTH + 5, 2]
    documents = [draw.integers(1, 320, n).tolist() for n in lengths]
    scores = token_log_probabilities(
        model, documents, prefix=0, max_length=MAX_LENGTH, tokens_per_batch=tokens_per_batch
    )
    errors = []
    for tokens, score in zip(documents, scores, strict=True):
        assert len(score) == len(tokens)
        errors += np.abs(score - oracle(model, tokens, 0)).tolist()
    # One fp32 step of a logit around 10 is 1e-6: single tokens may be some of them off, how many
    # depends on the processor's products.
    assert np.mean(errors) < 1e-6
    assert max(errors) < 4e-6


def test_with_a_stride_of_one_every_token_sees_a_full_context(make_model):
    model = load_model(make_model())
    tokens = np.random.default_rng(0).integers(1, 320, 40).tolist()
    (score,) = token_log_probabilities(model, [tokens], prefix=0, max_length=MAX_LENGTH, stride=1)
    for place, token in enumerate(tokens):
        context = [0, *tokens][max(0, place + 1 - MAX_LENGTH) : place + 1]
        with torch.no_grad():
            logits = model(torch.tensor([context])).logits[0, -1].double()
        expected = torch.log_softmax(logits, dim=-1)[token].item()
        assert score[place] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_half_precision_rounds_products_and_keeps_certain_tokens(make_model, family):
    folder = make_model(family)
    tokenizer = load_tokenizer(folder)
    tokens = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    exact = token_log_probabilities(load_model(folder), tokens, prefix=0, max_length=MAX_LENGTH)
    model = load_model(folder)
    halve_linear_layers(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32, torch.bfloat16}
    with Scorer([model], dtype="bfloat16") as scorer:
        (rounded,) = scorer.score(tokens, prefix=0, max_length=MAX_LENGTH)
    exact_S, rounded_S = np.concatenate(exact), np.concatenate(rounded)
    assert 0 < np.abs(rounded_S - exact_S).mean() < 0.02
    assert rounded_S.sum() == pytest.approx(exact_S.sum(), rel=1e-3)
    assert rounded_S.max() <= 0
    # What the model is certain of stays certain, though its logits of some thousands are rounded.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(400)
        certain = [0]
        while len(certain) <= MAX_LENGTH:
            logits = model(input_ids=torch.tensor([certain])).logits[0, -1]
            certain.append(int(logits.argmax()))
    with Scorer([model], dtype="bfloat16") as scorer:
        ((sharp,),) = scorer.score([certain[1:]], prefix=0, max_length=MAX_LENGTH)
    assert sharp.tolist() == [0.0] * MAX_LENGTH


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2"])
def test_a_halved_model_can_be_scored_under_autocast_as_on_a_gpu(make_model, family, monkeypatch):
    monkeypatch.setattr(_Head, "_by_tiles", _Head._by_rows)
    draw = np.random.default_rng(0)
    tokens = [draw.integers(1, 320, n).tolist() for n in (40, 3, 25)]
    model = load_model(make_model(family))
    exact = token_log_probabilities(model, tokens, prefix=0, max_length=MAX_LENGTH)
    halve_linear_layers(model)
    with Scorer([model], dtype="bfloat16") as scorer, torch.autocast("cpu", torch.bfloat16):
        (rounded,) = scorer.score(tokens, prefix=0, max_length=MAX_LENGTH)
    exact_S, rounded_S = np.concatenate(exact), np.concatenate(rounded)
    assert 0 < np.abs(rounded_S - exact_S).mean() < 0.02
    assert rounded_S.sum() == pytest.approx(exact_S.sum(), rel=1e-3)


def test_a_model_that_scales_its_logits_is_scored_by_its_own_logits(make_model):
    """Cohere multiplies logits by a factor after the output layer."""
    model = load_model(make_model("cohere", logit_scale=0.25, num_key_value_heads=2))
    tokens = np.random.default_rng(0).integers(1, 320, 40).tolist()
    (score,) = token_log_probabilities(model, [tokens], prefix=0, max_length=MAX_LENGTH)
    np.testing.assert_allclose(score, oracle(model, tokens, 0), rtol=0, atol=2e-6)


def test_a_model_of_nans_is_refused(make_model):
    model = load_model(make_model())
    with torch.no_grad():
        model.get_output_embeddings().weight[5, 5] = float("nan")
    with pytest.raises(ScoringError, match="not finite"):
        token_log_probabilities(model, [[1, 2, 3]], prefix=0, max_length=MAX_LENGTH)


def write_dataset(folder, texts, *, split="validation_domain"):
    folder.mkdir(exist_ok=True)
    write_split(folder / f"{split}.parquet", texts, domain="arxiv")
    return folder


EVALUATION = Evaluation(max_length=MAX_LENGTH, splits=("validation_domain",))


def score(model, tmp_path, name, datasets, *, previous=None, evaluation=EVALUATION):
    """Score one model into the folder ``name``, or raise why it cannot be scored."""
    task = task_of(model, tmp_path, name, previous=previous)
    ((_, result),) = score_models({name: task}, datasets=datasets, evaluation=evaluation)
    if isinstance(result, MdelError):
        raise result
    return result


def test_a_report_row_holds_the_definitions(make_model, tmp_path):
    folder = make_model()
    dataset = write_dataset(tmp_path / "data", TEXTS)
    score(folder, tmp_path, "scores", {"arxiv": dataset})
    (cell,) = read_cells(tmp_path / "scores")
    row = perplexity_row(
        cell,
        model="seed",
        max_length=MAX_LENGTH,
        model_fingerprint="m",
        dataset_fingerprint="d",
        num_samples=50,
        seed=0,
    )
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    documents = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    nll = -sum(sum(oracle(model, tokens, tokenizer.eos_token_id)) for tokens in documents)
    tokens, size = sum(map(len, documents)), sum(len(text.encode()) for text in TEXTS)
    assert row["num_documents"] == 5
    assert row["num_tokens"] == tokens
    assert row["num_bytes"] == size
    # Words of the five texts, counted by eye; an empty text counts as one, as in the harness.
    assert row["num_words"] == 1 + 1 + 7 + 160 + 5
    assert row["nll_nats"] == pytest.approx(nll, rel=1e-6)
    assert row["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    assert row["bits_per_byte"] == pytest.approx(nll / size / math.log(2), rel=1e-6)
    assert row["byte_perplexity"] == pytest.approx(math.exp(nll / size), rel=1e-5)
    assert row["word_perplexity"] == pytest.approx(math.exp(nll / row["num_words"]), rel=1e-4)
    assert row["bits_per_byte_low"] <= row["bits_per_byte"] <= row["bits_per_byte_high"]


def test_words_are_counted_between_runs_of_white_space():
    assert [count_words(t) for t in ("a b", "a  b\n\nc", "", " a ")] == [2, 3, 1, 3]


def test_only_documents_not_scored_before_are_scored(make_model, tmp_path):
    folder = make_model()
    first = write_dataset(tmp_path / "one", TEXTS[:3])
    second = write_dataset(tmp_path / "two", TEXTS[2:])
    before = score(folder, tmp_path, "before", {"a": first})
    both = {"a": first, "b": second}
    after = score(folder, tmp_path, "after", both, previous=tmp_path / "before")
    fresh = score(folder, tmp_path, "fresh", both)
    assert before.num_documents_scored_now == 3
    assert (after.num_documents_scored_now, after.num_documents) == (2, 5)
    assert fresh.num_documents_scored_now == 5
    kept, anew = (pq.read_table(tmp_path / n / "documents.parquet") for n in ("after", "fresh"))
    assert kept.column("document_id") == anew.column("document_id")
    ours, theirs = (table.column("nll_nats").to_numpy() for table in (kept, anew))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_sample_of_documents_is_seeded_and_of_the_size_asked_for(make_model, tmp_path):
    folder = make_model()
    dataset = write_dataset(tmp_path / "data", [f"proof {i}" for i in range(40)])
    chosen = {}
    for seed in (0, 1):
        evaluation = EVALUATION.model_copy(update={"max_documents": 10, "seed": seed})
        score(folder, tmp_path, f"s{seed}", {"a": dataset}, evaluation=evaluation)
        chosen[seed] = set(read_cells(tmp_path / f"s{seed}")[0].document_ids)
    assert len(chosen[0]) == len(chosen[1]) == 10
    assert chosen[0] != chosen[1]


def test_a_budget_of_tokens_is_shared_by_sixteen_documents_at_least(make_model, tmp_path):
    """1024 tokens are 4096 bytes, and 256 of them of one document."""
    long = [f"number {i} " + "lemma " * 200 for i in range(30)]
    short = [f"short {i} proof" for i in range(400)]
    evaluation = EVALUATION.model_copy(update={"max_tokens": 1024})
    datasets = {
        "long": write_dataset(tmp_path / "long", long),
        "short": write_dataset(tmp_path / "short", short),
        "few": write_dataset(tmp_path / "few", [*long[:3], "ä" * 200]),
    }
    score(make_model(), tmp_path, "s", datasets, evaluation=evaluation)
    cells = {cell.dataset: cell for cell in read_cells(tmp_path / "s")}
    assert cells["long"].num_bytes_D.tolist() == [256] * 16
    sizes = cells["short"].num_bytes_D
    assert sizes.sum() >= 4096 > sizes.sum() - sizes.max()
    assert sorted(cells["few"].num_bytes_D) == [256, 256, 256, 256]
    chosen = evaluation_documents(datasets, evaluation)
    texts = dict(chosen.texts())
    assert "ä" * 128 in texts.values()
    assert {text for text in texts.values() if text.startswith("number")} <= {
        text[:256] for text in long
    }


def test_a_context_longer_than_the_models_is_refused(make_model, tmp_path):
    evaluation = EVALUATION.model_copy(update={"max_length": 65})
    dataset = write_dataset(tmp_path / "data", TEXTS)
    with pytest.raises(ScoringError, match="65, but the model reads at most 64"):
        score(make_model(), tmp_path, "s", {"a": dataset}, evaluation=evaluation)


def test_bootstrap_interval_is_that_of_the_normal_theory():
    """With equal sizes, bits per byte is a mean, whose standard error is known."""
    draw = np.random.default_rng(0)
    nll = draw.normal(100.0, 10.0, 400)
    sizes = np.full(400, 50)
    samples = bootstrap_bits_per_byte(nll, sizes, num_samples=4000, seed=0, name="x")
    mean = nll.mean() / 50 / math.log(2)
    error = nll.std() / math.sqrt(400) / 50 / math.log(2)
    low, high = interval(samples)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)


def test_two_models_are_resampled_on_the_same_documents():
    """Models that differ by the same share on every document differ so in every draw."""
    nll = np.random.default_rng(0).normal(100.0, 10.0, 50)
    sizes = np.full(50, 50)
    first, second = (
        bootstrap_bits_per_byte(n, sizes, num_samples=200, seed=3, name="x")
        for n in (nll, nll * 0.9)
    )
    np.testing.assert_allclose(second / first, 0.9, rtol=1e-12)


def pile_cell(dataset, nll_D, ids):
    """Return a cell of documents of 50 bytes, which other domains' cells may hold too."""
    ones, sizes = np.ones(len(ids), np.int64), np.full(len(ids), 50)
    return Cell(dataset, "validation_pile", list(ids), ones, sizes, ones, nll_D)


def test_a_document_weighs_the_same_for_all_domains_that_share_it():
    ids = [f"{number:032x}" for number in range(30)]
    nll_D = np.random.default_rng(0).normal(100.0, 10.0, 30)
    turned = np.argsort(nll_D)
    one = pile_cell("github", nll_D, ids)
    other = pile_cell("arxiv", nll_D[turned], [ids[row] for row in turned])
    first, second = (cell.samples(num_samples=120, seed=3) for cell in (one, other))
    np.testing.assert_allclose(first, second, rtol=1e-12)
    assert not np.allclose(first, one.samples(num_samples=120, seed=4))


def test_a_mean_of_domains_that_share_documents_is_as_uncertain_as_the_documents_are():
    """Three domains that hold the same text are no three samples of text."""
    ids = [f"{number:032x}" for number in range(400)]
    nll_D = np.random.default_rng(0).normal(100.0, 10.0, 400)
    cells = [pile_cell(name, nll_D, ids) for name in ("github", "arxiv", "books3")]
    draws = np.mean([cell.samples(num_samples=4000, seed=0) for cell in cells], axis=0)
    # As for one of them: the standard error of a mean of 400.
    error = nll_D.std() / math.sqrt(400) / 50 / math.log(2)
    assert draws.std() == pytest.approx(error, rel=0.05)
    assert draws.mean() == pytest.approx(nll_D.mean() / 50 / math.log(2), rel=1e-3)


def test_weights_of_documents_are_exponential_and_independent():
    ids = [f"{number:032x}" for number in range(1000)]
    weights = np.concatenate(list(shared_draws(ids, num_samples=130, seed=0)))
    assert weights.shape == (130, 1000)
    # 1 - e^-x of them are below x.
    shares = [float((weights < size).mean()) for size in (0.5, 1.0, 2.0)]
    assert shares == pytest.approx([0.39347, 0.63212, 0.86466], abs=0.005)
    # No two documents, and no two draws, go together.
    assert np.abs(np.corrcoef(weights.T[:20])[np.triu_indices(20, 1)]).max() < 0.35
    assert np.abs(np.corrcoef(weights[:20])[np.triu_indices(20, 1)]).max() < 0.15
